"""A buffer as one file, and back: a Zarr store in a ZIP, like a segment, that says all there is to know.

The same records make the same bytes. docs/format.md describes the file.
"""

from __future__ import annotations

import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory_format import BudgetError, FormatError
from memory_format.api.fields import ClassId, Timestamp
from memory_format.api.terms import MAX_DESCRIPTION, NAME_PATTERN, EvictionPolicy
from memory_format.body import MAX_BODY_BYTES
from memory_format.checksum import crc32_of_all
from memory_format.header import HEADER_DTYPE
from memory_format.wire import Batch, check_batch
from memory_service.store.index.base import BufferEntry, Writing
from memory_service.store.pure.columns import Columns, charge_of, headers_of_rows
from memory_service.store.pure.ledger import IndexRows
from memory_service.store.pure.model import Budget, BufferConfig, Snapshot
from memory_service.store.segments import files
from memory_service.store.segments.base import Part, Segments, totals_of
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import (
    Entry,
    SegmentContents,
    local_header,
    read_contents,
    small_entry,
    zarr_documents,
    zip_directory,
)
from memory_service.store.segments.owner import owner_of
from memory_service.store.segments.readers import Lease

PIECE_BYTES: Final = 4 * 1024 * 1024
_ROOM_STEP: Final = 4 * 1024 * 1024
"""The room on the disk is looked at after so many bytes of an arriving file."""
"""Bodies read, checked and written at a time."""
PIECE_RECORDS: Final = 16_384
"""And no more records than that, however small they are."""

MAX_COUNT: Final = 2**62
"""Of versions and exemplar ids that are taken over: room for as many again in the index's 63 bits."""


class BufferDescription(BaseModel):
    """What an export says of its buffer, in the attribute ``exemplar_memory_buffer``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=f"^{NAME_PATTERN.pattern}$")
    budget_bytes: int
    full_samples_per_class: int | None
    full_sample_bytes: int | None
    num_classes: int | None
    disk_limit_bytes: int | None
    eviction: EvictionPolicy
    retain_snapshots: int | None = Field(lt=2**63)
    description: str = Field(max_length=MAX_DESCRIPTION)
    created_at: Timestamp
    version: int = Field(ge=0, lt=MAX_COUNT)
    next_exemplar_id: int = Field(ge=1, lt=MAX_COUNT)
    max_budget_bytes: int | None = None
    classes_seen: list[ClassId]
    draw_key: str | None = Field(None, pattern=f"^({NAME_PATTERN.pattern})?$")
    """None in files from before it was stored: buffers drew by their names then."""

    def config(self, name: str) -> BufferConfig:
        """The settings of a buffer that is made of it.

        Raises:
            FormatError: ``invalid_budget``.
        """
        in_samples = self.full_samples_per_class is not None
        budget = Budget(
            None if in_samples else self.budget_bytes,
            self.full_samples_per_class,
            self.full_sample_bytes,
            self.num_classes,
            self.max_budget_bytes,
        )
        if budget.grows and self.budget_bytes > budget.most_bytes and "max_budget_bytes" not in self.model_fields_set:
            # In files from before there was a ceiling.
            budget = replace(budget, max_budget_bytes=self.budget_bytes)
        return BufferConfig(
            id=0,
            name=name,
            budget=budget,
            budget_bytes=budget.bytes_for(len(self.classes_seen)),
            eviction=self.eviction,
            description=self.description,
            created_at=self.created_at,
            given_disk_limit=self.disk_limit_bytes,
            retain_snapshots=self.retain_snapshots,
            draw_key=self.name if self.draw_key is None else self.draw_key,
        )


def describe(config: BufferConfig, version: int, mark: Snapshot, classes: Iterable[int]) -> BufferDescription:
    """A buffer as it is at ``mark``."""
    budget = asdict(config.budget) | {"budget_bytes": config.budget_bytes}
    return BufferDescription(
        **budget,
        name=config.name,
        disk_limit_bytes=config.given_disk_limit,
        eviction=config.eviction,
        retain_snapshots=config.retain_snapshots,
        description=config.description,
        created_at=config.created_at,
        version=version,
        next_exemplar_id=mark.next_exemplar_id,
        classes_seen=sorted(classes),
        draw_key=config.draw_key,
    )


class Export(Iterator[bytes]):
    """A buffer's file on its way out, piece by piece. Close it, or read it to its end: what it shows is kept for it.

    Args:
        view: the records.
        learner_ids: what ``view["learner"]`` points into.
        read: positions in the view -> their bodies end to end.
        let_go: called once, when nothing more is read.
        lease: for which what it shows is kept.
    """

    def __init__(
        self,
        view: Columns,
        learner_ids: list[str],
        description: BufferDescription,
        read: Callable[[NDArray[np.int64]], memoryview],
        let_go: Callable[[], object],
        lease: Lease,
    ) -> None:
        self.lease = lease
        lengths = view["length"].astype(np.int64)
        head, tail = _frame(view, learner_ids, description, lengths)
        self.num_bytes = len(head) + int(lengths.sum()) + len(tail)
        self._pieces = _in_pieces(head, lengths, read, tail)
        # Also where nobody reads it or closes it.
        self._let_go = weakref.finalize(self, let_go)
        self._let_go.atexit = False

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        self._pieces.close()
        self._let_go()


def _frame(
    view: Columns, learner_ids: list[str], description: BufferDescription, lengths: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """What goes before the bodies and behind them."""
    codes, first_use = np.unique(view["learner"], return_index=True)
    # In the order in which they come: it does not depend on what else the buffer has held.
    codes = codes[np.argsort(first_use)]
    columns: dict[str, NDArray[Any]] = {}
    headers = headers_of_rows(view.take(np.arange(view.num_records)))
    for name in HEADER_DTYPE.names or ():
        columns[name] = np.ascontiguousarray(headers[name])
    columns["offset"] = (np.cumsum(lengths) - lengths).astype(np.uint64)
    place = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.uint16)
    place[codes] = np.arange(len(codes))
    columns["learner"] = place[view["learner"]]
    kinds = {name: (values.dtype.str, len(values)) for name, values in columns.items()}
    kinds["body"] = ("|u1", int(lengths.sum()))
    attributes = {"exemplar_memory_buffer": description.model_dump()}
    small = zarr_documents(kinds, [learner_ids[code] for code in codes.tolist()], attributes)
    small |= {f"{name}/c/0": values.tobytes() for name, values in columns.items()}

    head = bytearray()
    entries = []
    for name, data in small.items():
        entry, piece = small_entry(name, data, len(head))
        entries.append(entry)
        head += piece
    # Every body is checked against its CRC when it is read, so theirs together is known before.
    body = Entry(
        "body/c/0", int(lengths.sum()), crc32_of_all(0, columns["crc32"].tolist(), lengths.tolist()), len(head)
    )
    head += local_header(body.name, body.size, body.crc32)
    return bytes(head), zip_directory([*entries, body], len(head) + body.size)


def _in_pieces(
    head: bytes, lengths: NDArray[np.int64], read: Callable[[NDArray[np.int64]], memoryview], tail: bytes
) -> Generator[bytes, None, None]:
    yield head
    for first, last in pieces(lengths):
        yield bytes(read(np.arange(first, last)))
    yield tail


def pieces(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of records of about :data:`PIECE_BYTES`, of 1 to :data:`PIECE_RECORDS` records each."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PIECE_BYTES, side="right")))
        last = min(last, first + PIECE_RECORDS)
        yield first, last
        first = last


class Incoming:
    """A file that arrives piece by piece, to be imported once it is whole.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / uuid.uuid4().hex
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
                self._expect_room(end, len(piece) + end)
            self._end = files.write_at(self._descriptor, [piece], self._end)
        except OSError as error:
            raise storage_error(f"write {self.path}", error) from error

    def _expect_room(self, end: int, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise BudgetError(
                f"{end} bytes of the file have come; with taking it over {needed} more are needed, {free} are free",
                code="disk_limit_exceeded",
                requested_bytes=needed,
                free_bytes=free,
            )

    def discard(self) -> None:
        """It is not needed any more."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


class Import:
    """An exported buffer on its way into a store: read and checked, then written.

    Memory: as :func:`~memory_service.store.segments.layout.read_contents`, and a piece of the bodies.

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
            self._contents = read_contents(self._file)
            self.description = _description(self._contents)
        except (ValueError, OSError, MemoryError) as error:
            self._file.close()
            raise FormatError(f"{path.name} is not an exported buffer: {error}", code="invalid_export") from error
        except BaseException:
            self._file.close()
            raise

    def config(self, name: str) -> BufferConfig:
        """The settings of the buffer to make.

        Raises:
            BudgetError: ``budget_exceeded``: the records are over the budget that the file states.
        """
        config = self.description.config(name)
        used = self._bytes_used()
        if used > config.budget_bytes:
            raise BudgetError(
                f"the file's records take {used} bytes, its budget is {config.budget_bytes}",
                requested_bytes=used,
                budget_bytes=config.budget_bytes,
            )
        return config

    def write(self, segments: Segments, config: BufferConfig, segment_bytes: int) -> list[Part]:
        """Write all records to new segments, durably; raises what makes them unusable, and then leaves nothing."""
        parts: list[Part] = []
        open_ = None
        owner = owner_of(config, self.description.version, self.description.next_exemplar_id)
        try:
            for first, last in pieces(self._contents.lengths):
                batch = self._batch(first, last)
                check_batch(batch)
                parts += segments.append(
                    open_, batch.headers, batch.learner_ids, batch.bodies, segment_bytes=segment_bytes, owner=owner
                )
                open_ = None if parts[-1].full else parts[-1].after
        except BaseException:
            segments.undo(reversed(parts))
            raise
        return parts

    def note(self, transaction: Writing, config: BufferConfig, parts: list[Part]) -> BufferEntry:
        """Make the buffer in the index."""
        entry = transaction.insert_buffer(
            config,
            version=self.description.version,
            bytes_used=self._bytes_used(),
            num_records=len(self._contents.headers),
            next_exemplar_id=self.description.next_exemplar_id,
        )
        transaction.write_parts(entry.config.id, parts)
        transaction.insert_classes(entry.config.id, self.description.classes_seen)
        return entry

    def disk_bytes(self, parts: list[Part]) -> int:
        """What the buffer takes on disk once the parts are noted."""
        number, num_bytes = totals_of(parts)
        small = IndexRows(
            classes=len(self.description.classes_seen), description_bytes=len(self.description.description.encode())
        )
        return num_bytes + small.num_bytes(segments=number, dead=0)

    def close(self) -> None:
        self._file.close()

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
        headers = np.zeros(last - first, HEADER_DTYPE)
        for name in HEADER_DTYPE.names or ():
            if name not in ("offset", "learner"):
                headers[name] = stored[name]
        learners = self._contents.learners
        return Batch(headers, [learners[code] for code in stored["learner"].tolist()], bodies)


def _description(contents: SegmentContents) -> BufferDescription:
    stated = contents.attributes.get("exemplar_memory_buffer")
    if stated is None:
        raise ValueError("it does not say of what buffer it is; is it a segment?")
    try:
        description = BufferDescription.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
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
    if len(missing := np.setdiff1d(contents.headers["class_id"], classes)):
        raise ValueError(f"classes_seen: class {missing[0]} of a record is not in it")
    return description
