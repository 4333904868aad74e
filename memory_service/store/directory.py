"""The directory of a store: who holds it, what is on its way in or out, and whether it can be written."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Final

from memory_format import BudgetError, StorageError
from memory_service.store.segments import files

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


def expect_room(data: Path, least_free_bytes: int) -> None:
    """Refuse to be ready where the disk is almost full.

    Raises:
        StorageError: it is.
    """
    free = shutil.disk_usage(data).free
    if free < least_free_bytes:
        raise StorageError(f"{free} bytes are free on the disk of {data}, fewer than {least_free_bytes}")


def expect_room_to_import(incoming: Path, announced_bytes: int) -> None:
    """Refuse what the disk has no room for: a file, and the segments made of it.

    Raises:
        BudgetError: ``disk_limit_exceeded``.
    """
    free = shutil.disk_usage(incoming).free
    if 2 * announced_bytes > free:
        raise BudgetError(
            f"a file of {announced_bytes} bytes takes twice as many while it is imported, {free} are free on the disk",
            code="disk_limit_exceeded",
            requested_bytes=2 * announced_bytes,
            free_bytes=free,
        )


def try_to_write(incoming: Path) -> None:
    """Do what a push does, in a directory that the next start empties.

    Raises:
        StorageError: it cannot be done.
    """
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
