"""Where a store lies: who holds its directory, the index and segments in it, and what is on its way in or out."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memory_format import StorageError
from memory_service.store.index import opening
from memory_service.store.index.base import Index
from memory_service.store.index.generation import Generation
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.pure.model import Options
from memory_service.store.segments import files
from memory_service.store.segments.base import Segments
from memory_service.store.segments.local import SegmentFiles

logger = logging.getLogger(__name__)

_INCOMING: Final = re.compile(r"(ready-)?[0-9a-f]{32}")
"""Names of what comes in, goes out or is written on trial."""
_TRIAL_BYTES: Final = 4096


def take_lock(path: Path) -> int:
    """Hold a store, until the descriptor that is returned is closed.

    Raises:
        StorageError: ``store_locked``.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
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


def empty_incoming(directory: Path) -> None:
    """Remove what was on its way in or out, and nothing that somebody else has put there."""
    directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    for entry in os.scandir(directory):
        if not _INCOMING.fullmatch(entry.name) or entry.is_symlink():
            logger.warning("%s is none of the store's files; left alone", entry.path)
            continue
        try:
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        except OSError:
            logger.exception("cannot remove %s", entry.path)


def try_to_write(incoming: Path) -> None:
    """Do what a push does, in a directory that the next start empties. Raises ``StorageError``: it cannot be done."""
    trial = incoming / f"ready-{uuid.uuid4().hex}"
    try:
        descriptor = files.create(trial)
        try:
            files.write_at(descriptor, [bytes(_TRIAL_BYTES)], 0)
            files.sync(descriptor)
        finally:
            os.close(descriptor)
            files.unlink(trial)
    except OSError as error:
        raise files.storage_error(f"write {incoming}", error) from error


@dataclass(frozen=True)
class Ports:
    """A pair that a store is opened over."""

    index: Index
    segments: Segments
    trusted: bool = True
    """Whether the index is as new as the segments: otherwise nothing of them is removed."""
    ready: Callable[[], object] = lambda: None
    """Called once all that is there could be read, before the first change."""


OpenPorts = Callable[[Path, Options], Ports]


def open_local(data: Path, options: Options) -> Ports:
    """SQLite and files, in one directory.

    Raises:
        StorageError: they do not belong together, or the index cannot be used.
        OSError: the directory cannot be used.
    """
    standing = opening.look(data)
    standing.expect_usable()
    index = SqliteIndex(data / opening.INDEX)

    def ready() -> None:
        index.generation = Generation(data / opening.GENERATION, index.mark())

    try:
        return _with_files(data, options, index, standing, ready)
    except BaseException:
        index.close()
        raise


def open_postgres(url: str) -> OpenPorts:
    """An index in a database of PostgreSQL, and files in a directory, which says that its index is not there.

    What is returned raises as :func:`open_local`, and ``StorageError`` (``store_locked``) where another process holds
    the database.

    Args:
        url: as :class:`PostgresIndex` takes it.
    """

    def open_ports(data: Path, options: Options) -> Ports:
        # The one place that needs it: who has the index in a file needs no driver.
        from memory_service.store.index.postgres import PostgresIndex

        index = PostgresIndex(url)

        def ready() -> None:
            with files.replacing(data / opening.ELSEWHERE) as descriptor:
                files.write_at(descriptor, [f"{index.place}\n".encode()], 0)
            index.generation = Generation(data / opening.GENERATION, index.mark())

        try:
            standing = opening.look_elsewhere(data, index.seen(), index.place)
            standing.expect_usable()
            index.prepare(data)
            return _with_files(data, options, index, standing, ready)
        except BaseException:
            index.close()
            raise

    return open_ports


def _with_files(
    data: Path, options: Options, index: Index, standing: opening.Standing, ready: Callable[[], object]
) -> Ports:
    segments = SegmentFiles(data / "segments", index, max_open=options.open_segments)
    if not standing.trusted:
        logger.info("%s does not say which index is of these files; nothing is removed", opening.GENERATION)
    return Ports(index, segments, standing.trusted, ready)
