"""The one door to a store: a directory with an index, segment files, and one process that holds them."""

from __future__ import annotations

import heapq
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from memory_format import (
    BudgetError,
    BusyError,
    ConflictError,
    ExemplarMemoryError,
    FormatError,
    NotFoundError,
    StorageError,
)
from memory_format.api.terms import NAME_PATTERN, EvictionPolicy
from memory_service.store import directory
from memory_service.store.buffer import Buffer
from memory_service.store.commits import discard
from memory_service.store.directory import OpenPorts, Ports, open_local
from memory_service.store.erasures import Erasures
from memory_service.store.index import quotas
from memory_service.store.index.base import BufferEntry, BufferRows, Writing
from memory_service.store.loading import SealedSegments, expect_counted, expect_known
from memory_service.store.names import NameFiles
from memory_service.store.pure.equal import expect_equal
from memory_service.store.pure.model import Budget, BufferConfig, Options, check_name, check_settings
from memory_service.store.receipts import Receipts
from memory_service.store.room import Quota
from memory_service.store.runs import Runs
from memory_service.store.segments import files
from memory_service.store.transfer.backup import Archive
from memory_service.store.transfer.imports import Import, Incoming

logger = logging.getLogger(__name__)


class Store:
    """An open store.

    Opening removes what a crash left behind (files and ends of files that no index row speaks of) and checks the
    counters against the records. Close it, or use it as a context manager.

    Args:
        data: its directory. What comes in and goes out lies there too, on its way.
        open_ports: opens the index and the segments.

    Raises:
        StorageError: ``store_locked`` where another process holds it; ``corrupt_record`` where it is damaged;
            ``storage_failed`` where a newer version made it, or it cannot be written.
    """

    is_shared: ClassVar[bool] = False  # by other processes

    def __init__(self, data: Path, options: Options | None = None, *, open_ports: OpenPorts = open_local) -> None:
        self.data, self._options = data, options or Options()
        self._name_files = NameFiles(data)
        self._names_lock, self._archiving = threading.Lock(), threading.Lock()
        self._coming: set[str] = set()  # names of buffers that are being forked or imported
        try:
            files.make_directory(data)
            self._lock_file = directory.take_lock(data / "lock")
        except OSError as error:
            raise StorageError(f"the store in {data} cannot be used: {error.strerror}") from error
        try:
            self._open(open_ports(data, self._options))
        except BaseException as error:
            os.close(self._lock_file)
            if isinstance(error, OSError):
                raise StorageError(f"the store in {data} cannot be used: {error}") from error
            raise

    def _open(self, ports: Ports) -> None:
        self._index, self._segments, self.id = ports.index, ports.segments, ports.store_id
        self._places = ports.places
        self._quota = Quota(self._index, self._options)
        try:
            with self._index.reading() as reading:
                known, contents = reading.known_files(), reading.contents()
                erasing = {} if self.is_shared else reading.erasures()  # else another process may be at it
            self._index.stems_gone(self._segments.sweep(known, trusted=ports.trusted))
            directory.empty_incoming(self.incoming)
            directory.clear_unfinished(self.data)
            sealed = SealedSegments(self._segments)
            self._buffers = {
                contents[id_].entry.config.name: self._open_buffer(contents.pop(id_), sealed) for id_ in list(contents)
            }
            ports.ready()
            self.runs = Runs(self.data, self._index, self._options.run_bytes)  # reports of them
            self._quota.count(self.buffers)
            for buffer in self._buffers.values():
                self._name_files.keep(buffer.config, buffer.state.names)
            of_all = (self._index, self._segments, self.buffers, self._archiving)
            self.erasures = Erasures(*of_all, Receipts(self.data, self._index))  # of records
            self.erasures.receipts.adopt()
            self.erasures.resume(erasing)
        except BaseException:
            self._segments.close()
            self._index.close()
            raise

    def _open_buffer(self, rows: BufferRows, sealed: SealedSegments) -> Buffer:
        entry = rows.entry
        expect_known(entry)
        buffer = Buffer(entry, rows, self._index, self._segments, self._options, sealed, self._quota)
        buffer.on_named = self._name_files.keep
        self._quota.note(buffer.config)
        expect_counted(entry, buffer.state.columns)
        return buffer

    def create_buffer(
        self,
        name: str,
        *,
        budget_bytes: int | None = None,
        budget: Budget | None = None,
        disk_limit_bytes: int | None = None,
        eviction: EvictionPolicy = "class_balanced",
        retain_snapshots: int | None = None,
        learner_floor: float | None = None,
        description: str = "",
        patch_px: int | None = None,
        vocabulary: str | None = None,
        vocabulary_name: str = "",
        owner: str = "",
        made_by: str = "",
    ) -> tuple[Buffer, bool]:
        """Make a buffer; an equal one that exists is as good. Returns it, and whether it is new.

        Args:
            budget_bytes, budget: one of the two.
            disk_limit_bytes: everything on disk for the buffer; default 1.5 times the budget, and at least
                :data:`~memory_service.store.pure.model.SMALLEST_HEADROOM` more than it.
            learner_floor, vocabulary_name, owner, made_by: see :class:`BufferConfig`.
            patch_px, vocabulary: the same; None is as good as what one that exists has.

        Raises:
            FormatError: ``invalid_budget``, or ``invalid_request`` for a name or description that will not
                do.
            ConflictError: ``buffer_exists`` with other settings.
        """
        check_name(name)
        budget = budget or Budget(budget_bytes=budget_bytes)
        config = BufferConfig(
            id=0,
            name=name,
            budget=budget,
            budget_bytes=budget.bytes_for(0),
            eviction=eviction,
            description=description,
            created_at=time.time(),
            given_disk_limit=disk_limit_bytes,
            retain_snapshots=retain_snapshots,
            learner_floor=learner_floor,
            patch_px=patch_px,
            vocabulary=vocabulary,
            vocabulary_name=vocabulary_name,
            owner=owner,
            made_by=made_by,
        )
        check_settings(config)
        with self._names_lock:
            existing = self._buffers.get(name)
            if name in self._coming:
                raise ConflictError(f"buffer {name!r} is being made", code="buffer_exists")
            if existing is not None:
                expect_equal(existing.config, config)
                return existing, False
            with self._quota.claim(config):
                entry = self._make(name, lambda writing: quotas.insert_buffer(writing, self._options, config))
            buffer = self._buffers[name] = self._open_new(entry)
            return buffer, True

    def fork(
        self,
        name: str,
        new_name: str,
        *,
        snapshot: str | None = None,
        disk_limit_bytes: int | None = None,
        description: str | None = None,
        made_by: str = "",
    ) -> Buffer:
        """A new buffer with what another one holds, or held at a snapshot; segments are shared, not copied.

        Exemplar ids, version, budget and eviction are the other's; its snapshots are not.

        Args:
            disk_limit_bytes, description: default the other's.
            made_by: see :class:`BufferConfig`.

        Raises:
            NotFoundError: ``unknown_buffer``, ``unknown_snapshot``.
            FormatError: ``invalid_request``: the name will not do.
            ConflictError: ``buffer_exists``.
            BudgetError: ``disk_limit_exceeded``: what is shared does not fit, and cannot be made to.
        """
        check_name(new_name)
        source = self.buffer(name)
        with self._reserved(new_name), self.erasures.forking():
            return self._add(source.fork_into(new_name, snapshot, disk_limit_bytes, description, made_by))

    def import_buffer(
        self,
        name: str,
        path: Path,
        *,
        progress: Callable[[int, int, str], None] | None = None,
        trusted: bool = False,
        made_by: str = "",
    ) -> Buffer:
        """Make a buffer of a file that :meth:`Buffer.export` wrote: same ids, version, settings and bytes.

        Args:
            progress: told how many bytes of records are taken over, of how many, and the name.
            trusted: decode no payload, whatever the options say.
            made_by: see :class:`BufferConfig`.

        Raises:
            FormatError: ``invalid_export``, a record's own code with its ``index``, or ``invalid_request`` for a
                name that will not do.
            ConflictError: ``buffer_exists``.
            BudgetError: ``budget_exceeded``, or ``disk_limit_exceeded``.
            StorageError: it could not be read or stored. In every case nothing has changed.
        """
        check_name(name)
        with closing(Import(path)) as incoming, self._reserved(name), ExitStack() as claims:
            config = replace(check_settings(incoming.config(name)), made_by=made_by)
            claims.enter_context(self._quota.claim(config))
            options = replace(self._options, decode_payloads=self._options.decode_payloads and not trusted)
            parts = incoming.write(self._segments, config, options, progress)
            try:
                needed = incoming.disk_bytes(parts)
                if needed > config.disk_limit_bytes:
                    raise BudgetError(
                        f"the file's records take {needed} bytes on disk, its disk limit is {config.disk_limit_bytes}",
                        code="disk_limit_exceeded",
                        requested_bytes=needed,
                        disk_limit_bytes=config.disk_limit_bytes,
                    )
                entry = self._make(name, lambda writing: incoming.note(writing, self._options, config, parts))
            except BaseException:
                discard(self._index, self._segments, parts)
                raise
            self._segments.noted(parts)
            return self._add(entry)

    def _make(self, name: str, change: Callable[[Writing], BufferEntry]) -> BufferEntry:
        return self._index.make(change, lambda reading: reading.find_buffer(name))

    def receive(self, announced_bytes: int) -> Incoming:
        """Somewhere for a file to arrive that is to be imported. Raises as :class:`Incoming`."""
        return Incoming(self.incoming, announced_bytes)

    def expect_free(self, name: str) -> None:
        """Raises ``FormatError`` (``invalid_request``): no buffer can have this name; ``ConflictError``
        (``buffer_exists``)."""
        check_name(name)
        with self._reserved(name):
            pass

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        """A name that is about to be a buffer's. Raises ``ConflictError`` (``buffer_exists``)."""
        with self._names_lock:
            if name in self._buffers or name in self._coming:
                raise ConflictError(f"there is a buffer {name!r} already", code="buffer_exists")
            self._coming.add(name)
        try:
            yield
        finally:
            with self._names_lock:
                self._coming.discard(name)

    def _add(self, entry: BufferEntry) -> Buffer:
        buffer = self._open_new(entry)
        self._name_files.keep(buffer.config, buffer.state.names)
        with self._names_lock:
            self._buffers[buffer.name] = buffer
        return buffer

    def _open_new(self, entry: BufferEntry) -> Buffer:
        with self._index.reading() as reading:
            rows = reading.contents(entry.config.id)[entry.config.id]
        return self._open_buffer(rows, SealedSegments(self._segments))

    def buffers(self) -> list[Buffer]:
        """All buffers by name; waits for nobody."""
        # At once: buffers may be made and deleted meanwhile.
        known = list(self._buffers.values())
        return sorted(known, key=lambda buffer: buffer.name)

    def page_of_buffers(
        self, limit: int, cursor: str | None = None, *, only: Callable[[str], bool] | None = None
    ) -> tuple[list[Buffer], str | None]:
        """The first buffers by name, or those after a cursor, and the cursor of the next page, None at the end.

        The cursor is the last name given, so that buffers that come and go in between neither repeat nor hide one.

        Args:
            only: leave out those whose name it does not take.

        Raises:
            FormatError: ``invalid_cursor``.
        """
        if cursor is not None and not NAME_PATTERN.fullmatch(cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        with self._names_lock:
            known = dict(self._buffers)  # others may come meanwhile, by what another process has made
            shown = (name for name in known if only is None or only(name))
            names = heapq.nsmallest(limit + 1, (name for name in shown if cursor is None or name > cursor))
            page = [known[name] for name in names[:limit]]
        return page, page[-1].name if len(names) > limit else None

    def buffer(self, name: str) -> Buffer:
        """Raises ``NotFoundError`` (``unknown_buffer``)."""
        # Without the lock, which is held while buffers are made: on the path of every request.
        found = self._buffers.get(name)
        if found is None:
            raise NotFoundError(f"there is no buffer {name!r}; PUT it first, with its budget", code="unknown_buffer")
        return found

    def delete_buffer(self, name: str, *, owner: str | None = None, only_maker: str | None = None) -> None:
        """Delete a buffer with all that it holds; waits for a push that is under way.

        Args:
            owner, only_maker: see :meth:`Buffer.drop`.

        Raises:
            ForbiddenError: as :meth:`Buffer.drop`.
            NotFoundError: ``unknown_buffer``.
            ConflictError: ``other_owner``.
        """
        buffer = self.buffer(name)
        buffer.drop(owner, only_maker)
        with self._names_lock:
            if self._buffers.get(name) is buffer:
                del self._buffers[name]
                self._quota.drop(name)
                self._name_files.forget(buffer.config)

    def archive(self) -> Archive:
        """All of the store as it is now, as one tar file; what is removed meanwhile stays on disk until it is closed.

        Raises:
            BusyError: another one is under way.
            StorageError: a file cannot be read, or the disk is full.
        """
        if not self._archiving.acquire(blocking=False):
            raise BusyError("a backup is under way; ask again when it is done", limit=1)
        return Archive(self.data, self._places, self.incoming / uuid.uuid4().hex, self._archiving.release)

    @property
    def incoming(self) -> Path:
        """Where files lie that are on their way in or out; emptied when the store is opened."""
        return self.data / "incoming"

    def check_ready(self) -> None:
        """Raises ``StorageError``: the store cannot be written now."""
        self._index.check_writable()
        free, least = shutil.disk_usage(self.data).free, self._options.least_free_bytes
        if free < least:
            raise StorageError(f"{free} bytes are free on the disk of {self.data}, fewer than {least}")
        directory.try_to_write(self.incoming)

    def close(self) -> None:
        """Release files and the lock; what was acknowledged is on disk already. Open segments in files are sealed, so
        that the files of a store that nobody serves are all Zarr groups."""
        self._index.end_waiting()
        for buffer in self.buffers() if self._segments.keeps_open else ():
            try:
                buffer.seal()
            except ExemplarMemoryError as error:
                logger.warning("buffer %s keeps an open segment: %s", buffer.name, error.message)
        self._index.settle()
        self.release()

    def release(self) -> None:
        """Release files and the lock, and nothing else."""
        self._segments.close()
        self._index.close()
        os.close(self._lock_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
