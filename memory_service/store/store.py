"""The one door to a store: a directory with an index, segment files, and one process that holds them."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from memory_format import ConflictError, FormatError, NotFoundError, StorageError
from memory_service.store import index
from memory_service.store.buffer import Buffer
from memory_service.store.eviction import EVICTION_POLICIES, EvictionPolicy
from memory_service.store.model import BufferConfig, Options
from memory_service.store.segments import SegmentFiles

logger = logging.getLogger(__name__)

MAX_BUDGET_BYTES = 2**50
MAX_DESCRIPTION = 10_000
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Store:
    """An open store.

    Opening removes what a crash left behind (files that no index row speaks of) and checks the counters
    against the rows. Close it, or use it as a context manager.

    Raises:
        StorageError: ``store_locked`` where another process holds it; ``storage_failed`` where it is damaged,
            made by a newer version, or cannot be written.
    """

    def __init__(self, data: Path, options: Options | None = None) -> None:
        self.data = data
        self._options = options or Options()
        self._names_lock = threading.Lock()
        try:
            data.mkdir(parents=True, exist_ok=True)
            self._lock_file = _take_lock(data / "lock")
        except OSError as error:
            raise StorageError(f"the store in {data} cannot be used: {error.strerror}") from error
        try:
            self._open()
        except BaseException as error:
            os.close(self._lock_file)
            if isinstance(error, OSError):
                raise StorageError(f"the store in {data} cannot be used: {error}") from error
            raise

    def _open(self) -> None:
        self._index = index.Index(self.data / "index.sqlite")
        self._segments = SegmentFiles(self.data / "segments", max_open=self._options.open_segments)
        try:
            with self._index.read() as connection:
                segments = connection.execute(sa.select(index.segments.c.name, index.segments.c.file_bytes))
                known = {row.name: row.file_bytes for row in segments}
            removed = self._segments.sweep(known)
            if removed:
                logger.warning("removed %d files that no push had committed", len(removed))
            with self._index.write() as connection:
                _reconcile(connection)
                found = connection.execute(sa.select(index.buffers)).all()
            self._buffers = {row.name: self._open_buffer(row) for row in found}
        except BaseException:
            self._index.close()
            raise

    def _open_buffer(self, row: sa.Row[Any]) -> Buffer:
        if row.eviction not in EVICTION_POLICIES:
            raise StorageError(f"buffer {row.name!r} has eviction {row.eviction!r}, which this version does not know")
        config = BufferConfig(row.id, row.name, row.budget_bytes, row.eviction, row.description, row.created_at)
        return Buffer(config, row.next_exemplar_id, self._index, self._segments, self._options)

    def create_buffer(
        self,
        name: str,
        *,
        budget_bytes: int,
        eviction: EvictionPolicy = "class_balanced",
        description: str = "",
    ) -> tuple[Buffer, bool]:
        """Make a buffer; an equal one that exists is as good. Returns it, and whether it is new.

        Raises:
            FormatError: ``invalid_budget``, or ``invalid_request`` for a name or description that will not
                do.
            ConflictError: ``buffer_exists`` with other settings.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise FormatError(
                f"a buffer's name is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {name!r}",
                code="invalid_request",
            )
        if len(description) > MAX_DESCRIPTION:
            raise FormatError(f"a description has at most {MAX_DESCRIPTION} characters", code="invalid_request")
        if not 1 <= budget_bytes <= MAX_BUDGET_BYTES:
            raise FormatError(
                f"budget_bytes must lie in 1..{MAX_BUDGET_BYTES} (1 PiB), got {budget_bytes}",
                code="invalid_budget",
                limit=MAX_BUDGET_BYTES,
            )
        with self._names_lock:
            existing = self._buffers.get(name)
            if existing is not None:
                _expect_equal(existing.config, budget_bytes, eviction, description)
                return existing, False
            with self._index.write() as connection:
                row = connection.execute(
                    index.buffers.insert().returning(index.buffers),
                    {
                        "name": name,
                        "budget_bytes": budget_bytes,
                        "eviction": eviction,
                        "description": description,
                        "created_at": time.time(),
                        "version": 0,
                        "bytes_used": 0,
                        "num_records": 0,
                        "next_exemplar_id": 1,
                    },
                ).one()
            buffer = self._open_buffer(row)
            self._buffers[name] = buffer
            return buffer, True

    def buffers(self) -> list[Buffer]:
        """All buffers by name."""
        with self._names_lock:
            return [self._buffers[name] for name in sorted(self._buffers)]

    def buffer(self, name: str) -> Buffer:
        """Raises:
        NotFoundError: ``unknown_buffer``.
        """
        with self._names_lock:
            found = self._buffers.get(name)
        if found is None:
            raise NotFoundError(f"there is no buffer {name!r}; PUT it first, with its budget", code="unknown_buffer")
        return found

    def delete_buffer(self, name: str) -> None:
        """Delete a buffer with all that it holds; waits for a push that is under way.

        Raises:
            NotFoundError: ``unknown_buffer``.
        """
        buffer = self.buffer(name)
        buffer.drop()
        with self._names_lock:
            if self._buffers.get(name) is buffer:
                del self._buffers[name]

    def check_ready(self) -> None:
        """Raises:
        StorageError: the store cannot be written now.
        """
        self._index.check_writable()
        if not os.access(self.data / "segments", os.W_OK) or shutil.disk_usage(self.data).free == 0:
            raise StorageError(f"{self.data} cannot be written, or its disk is full")

    def close(self) -> None:
        """Release files and the lock. What was acknowledged is on disk already."""
        self._segments.close()
        self._index.close()
        os.close(self._lock_file)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StorageError(
            f"the store in {path.parent} is held by another process (pid {holder})",
            code="store_locked",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _reconcile(connection: sa.Connection) -> None:
    """Set counters that differ from the rows. They cannot, short of a bug or somebody else's hand: so it is
    logged."""
    b, r = index.buffers.c, index.records.c
    statement = (
        sa.select(
            b.id,
            b.name,
            b.bytes_used,
            b.num_records,
            b.next_exemplar_id,
            sa.func.coalesce(sa.func.sum(r.charge), 0).label("real_bytes"),
            sa.func.count(r.exemplar_id).label("real_records"),
            sa.func.coalesce(sa.func.max(r.exemplar_id), 0).label("last_id"),
        )
        .select_from(index.buffers.outerjoin(index.records, r.buffer_id == b.id))
        .group_by(b.id)
    )
    for row in connection.execute(statement).all():
        real = (row.real_bytes, row.real_records, max(row.next_exemplar_id, row.last_id + 1))
        if real != (row.bytes_used, row.num_records, row.next_exemplar_id):
            logger.warning(
                "counters of buffer %s differed from its rows; corrected: %s -> %s", row.name, row[2:5], real
            )
            connection.execute(
                index.buffers.update()
                .where(b.id == row.id)
                .values(bytes_used=real[0], num_records=real[1], next_exemplar_id=real[2])
            )


def _expect_equal(config: BufferConfig, budget_bytes: int, eviction: str, description: str) -> None:
    asked = {"budget_bytes": budget_bytes, "eviction": eviction, "description": description}
    differing = {name: getattr(config, name) for name, value in asked.items() if getattr(config, name) != value}
    if differing:
        raise ConflictError(
            f"buffer {config.name!r} exists with other settings: "
            + ", ".join(f"{name} is {value!r}" for name, value in differing.items()),
            code="buffer_exists",
            existing=differing,
        )
