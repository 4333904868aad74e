"""A file of a buffer on its way into a store: received, checked, and written to segments."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from memory_format import BudgetError, FormatError, vocabulary_fingerprint
from memory_format.api.problems import words_of
from memory_format.body import MAX_BODY_BYTES
from memory_format.wire import Batch, check_batch
from memory_service.store.decoding import decoders
from memory_service.store.index import quotas
from memory_service.store.index.base import BufferEntry, Writing
from memory_service.store.pure.columns import bytes_by_learner, charge_of
from memory_service.store.pure.ledger import IndexRows, all_name_bytes, words_bytes
from memory_service.store.pure.model import BufferConfig, Options
from memory_service.store.pure.revised import NOTHING_REVISED, joined, revisions_of
from memory_service.store.pure.words import Words, packed
from memory_service.store.room import segment_bytes
from memory_service.store.segments import files
from memory_service.store.segments.appending import Part, totals_of, without_sealed_bodies
from memory_service.store.segments.base import Segments
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import SegmentContents, plain_headers, read_contents
from memory_service.store.segments.owner import owner_of
from memory_service.store.transfer.export import BufferDescription, pieces
from memory_service.store.transfer.tables import is_table, read_table

_ROOM_STEP: Final = 4 * 1024 * 1024
"""The room on the disk is looked at after so many bytes of an arriving file."""


class Incoming:
    """A file that arrives piece by piece, to be imported once it is whole.

    Args:
        announced_bytes: how long it will be, as far as that is known.

    Raises:
        BudgetError: ``disk_limit_exceeded``: the disk has no room for it and for the segments made of it.
        StorageError: it cannot be written.
    """

    def __init__(self, directory: Path, announced_bytes: int) -> None:
        self.path = directory / uuid.uuid4().hex
        words = f"a file of {announced_bytes} bytes takes twice as many while it is imported"
        self._expect_room(2 * announced_bytes, f"{words}, {{free}} are free on the disk")
        try:
            self._descriptor = files.create(self.path)
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error
        self._end = 0

    def write(self, piece: bytes) -> None:
        """Raises:
        BudgetError: ``disk_limit_exceeded``: there would be no room to take it over.
        StorageError: the disk does not take it.
        """
        try:
            end = self._end + len(piece)
            if self._end // _ROOM_STEP != end // _ROOM_STEP:
                # As many bytes again are written when it is taken over, and others arrive beside it.
                words = f"{end} bytes of the file have come; with taking it over {len(piece) + end} more are needed"
                self._expect_room(len(piece) + end, f"{words}, {{free}} are free")
            self._end = files.write_at(self._descriptor, [piece], self._end)
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error

    def _expect_room(self, needed: int, words: str) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            words = words.format(free=free)
            raise BudgetError(words, code="disk_limit_exceeded", requested_bytes=needed, free_bytes=free)

    def discard(self) -> None:
        """It is not needed any more."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


class Import:
    """An exported buffer on its way into a store: read and checked, then written.

    Memory: as :func:`~memory_service.store.segments.layout.read_contents` or :func:`read_table`, and a piece of the
    bodies.

    Raises:
        FormatError: ``invalid_export``, or a record's own code.
        StorageError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise storage_error(f"read {path}", error) from error
        try:
            self._contents = (read_table if is_table(self._file) else read_contents)(self._file)
            self.description = _description(self._contents)
        except (FormatError, ValueError, OSError, MemoryError) as error:
            self._file.close()
            raise FormatError(f"the file is not an exported buffer: {error}", code="invalid_export") from error
        except BaseException:
            self._file.close()
            raise
        self._revised = NOTHING_REVISED

    def config(self, name: str) -> BufferConfig:
        """The settings of the buffer to make. Raises ``BudgetError`` (``budget_exceeded``): the records are over the
        budget that the file states."""
        config = self.description.config(name)
        used = self._bytes_used()
        if used > config.budget_bytes:
            raise BudgetError(
                f"the file's records take {used} bytes, its budget is {config.budget_bytes}",
                requested_bytes=used,
                budget_bytes=config.budget_bytes,
            )
        return config

    def write(
        self,
        segments: Segments,
        config: BufferConfig,
        options: Options,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> list[Part]:
        """Write all records to new segments, durably; raises what makes them unusable, and then leaves nothing."""
        total = int(self._contents.lengths.sum())
        parts: list[Part] = []
        open_ = None
        full = segment_bytes(config, options)
        owner = owner_of(config, self.description.version, self.description.next_exemplar_id)
        try:
            for first, last in self._runs():
                batch = self._batch(first, last)
                (decoders().check if options.decode_payloads else check_batch)(batch)
                self._note_revisions(batch)
                parts += segments.append(open_, batch, segment_bytes=full, owner=owner)
                open_ = None if parts[-1].full else parts[-1].after
                if open_ is None or parts[-1].before is None:
                    # Those of segments that are sealed are needed no more, and may be gigabytes.
                    parts = without_sealed_bodies(parts)
                if progress is not None:
                    progress(int(self._contents.lengths[:last].sum()), total, config.name)
        except BaseException:
            segments.undo(reversed(parts))
            raise
        return parts

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Records whose bodies lie end to end, in pieces."""
        starts, lengths = self._contents.headers["offset"].astype(np.int64), self._contents.lengths
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
        for begin, end in pairwise([0, *breaks.tolist(), len(lengths)]):
            for first, last in pieces(lengths[begin:end]):
                yield begin + first, begin + last

    def note(self, transaction: Writing, options: Options, config: BufferConfig, parts: list[Part]) -> BufferEntry:
        """Make the buffer in the index. Raises as :func:`quotas.insert_buffer`."""
        entry = quotas.insert_buffer(
            transaction,
            options,
            config,
            version=self.description.version,
            bytes_used=self._bytes_used(),
            num_records=len(self._contents.headers),
            next_exemplar_id=self.description.next_exemplar_id,
        )
        transaction.write_parts(entry.config.id, parts, self._revised)
        transaction.insert_classes(entry.config.id, self.description.classes_seen)
        transaction.insert_names(entry.config.id, self.description.names)
        if self._words is not None:
            transaction.insert_words(entry.config.id, self._words)
        if options.learner_bytes is not None:
            # Not refused: what was exported can come back.
            quotas.charge_learners(transaction, self._bytes_by_learner(), None)
        return entry

    def disk_bytes(self, parts: list[Part]) -> int:
        """What the buffer takes on disk once the parts are noted."""
        number, num_bytes = totals_of(parts)
        small = IndexRows(
            revisions=len(self._revised),
            classes=len(self.description.classes_seen),
            name_bytes=all_name_bytes(self.description.class_names),
            words_bytes=words_bytes(self._words),
            description_bytes=len(self.description.description.encode()),
        )
        return num_bytes + small.num_bytes(segments=number, dead=0)

    def _note_revisions(self, batch: Batch) -> None:
        said = revisions_of(batch.headers, batch.bodies, batch.headers["exemplar_id"])
        odd = np.flatnonzero(said["stored_id"] != said["exemplar_id"])
        if len(odd):
            stored_id, exemplar_id = said[odd[0]][["stored_id", "exemplar_id"]].item()
            raise FormatError(f"exemplar {stored_id} says that it is {exemplar_id}", code="invalid_export")
        self._revised = joined(self._revised, said)

    @property
    def _words(self) -> Words | None:
        return packed(self.description.words) if self.description.words else None

    def close(self) -> None:
        self._file.close()

    def _bytes_by_learner(self) -> dict[str, int]:
        codes = self._contents.headers["learner"]
        return bytes_by_learner(codes, charge_of(self._contents.lengths), self._contents.learners)

    def _bytes_used(self) -> int:
        return int(charge_of(self._contents.lengths).sum())

    def _batch(self, first: int, last: int) -> Batch:
        stored = self._contents.headers[first:last]
        lengths = self._contents.lengths[first:last]
        start, total = int(stored["offset"][0]), int(lengths.sum())
        data = memoryview(os.pread(self._file.fileno(), total, start))
        if len(data) != total:
            raise FormatError("the file is cut short", code="invalid_export")
        ends = np.cumsum(lengths)
        bodies = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        learners = self._contents.learners
        return Batch(plain_headers(stored), [learners[code] for code in stored["learner"].tolist()], bodies)


def _description(contents: SegmentContents) -> BufferDescription:
    stated = contents.attributes.get("exemplar_memory_buffer")
    if stated is None:
        raise ValueError("it does not say of what buffer it is; is it a segment?")
    try:
        description = BufferDescription.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {words_of(first)}") from error
    if int(contents.lengths.max(initial=0)) > MAX_BODY_BYTES:
        raise ValueError(f"a record of {contents.lengths.max()} bytes; at most {MAX_BODY_BYTES} are taken")
    ids = contents.headers["exemplar_id"]
    if len(ids) and (int(ids[0]) < 1 or (ids[1:] <= ids[:-1]).any()):
        raise ValueError("its exemplar ids do not ascend from 1")
    if len(ids) and int(ids[-1]) >= description.next_exemplar_id:
        raise ValueError(f"next_exemplar_id: {description.next_exemplar_id} is not beyond exemplar {ids[-1]}")
    classes = np.array(description.classes_seen, dtype=np.int64)
    if (classes[1:] <= classes[:-1]).any():
        raise ValueError("classes_seen: they do not ascend, each once")
    named, names = description.named_classes, description.class_names
    if not len(named) == len(set(named)) == len(names) == len(set(names)):
        raise ValueError("class_names: as many as named_classes are needed, each once")
    _check_words(description)
    if description.patch_px is not None and (contents.headers["patch_px"] != description.patch_px).any():
        raise ValueError(f"patch_px: it says {description.patch_px}, and a record has another")
    if len(missing := np.setdiff1d(contents.headers["class_id"], classes)):
        raise ValueError(f"classes_seen: class {missing[0]} of a record is not in it")
    return description


def _check_words(description: BufferDescription) -> None:
    """Raises ``ValueError``: the words are not those that the fingerprint names."""
    if description.words and vocabulary_fingerprint(description.words) != description.vocabulary:
        raise ValueError("words: they are of another vocabulary than it says")
