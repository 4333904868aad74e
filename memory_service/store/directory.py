"""Where a store lies: who holds its directory, the index and segments in it, and what is on its way in or out."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from memory_format import StorageError
from memory_format.api.terms import NAME_PATTERN
from memory_service.store.index import opening
from memory_service.store.index.base import Index
from memory_service.store.index.generation import Generation, Mark, Marker
from memory_service.store.index.sql import SqlIndex
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.index.watching import REPLICA
from memory_service.store.keys import KEYS
from memory_service.store.names import NAMES
from memory_service.store.pure.model import Options
from memory_service.store.receipts import RECEIPTS
from memory_service.store.report_places import RUNS
from memory_service.store.segments import files
from memory_service.store.segments.base import Segments
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.local import SegmentFiles
from memory_service.store.segments.objects import ObjectSegments

logger = logging.getLogger(__name__)

_INCOMING: Final = re.compile(r"(ready-)?[0-9a-f]{32}")
"""Names of what comes in, goes out or is written on trial."""
_TRIAL_BYTES: Final = 4096
_DOCUMENT: Final = re.compile(NAME_PATTERN.pattern + r"\.json")
_REPLACED: Final = {
    "": re.compile("|".join(map(re.escape, (KEYS, opening.ELSEWHERE, opening.SEGMENTS_ELSEWHERE, REPLICA)))),
    NAMES: _DOCUMENT,
    RECEIPTS: _DOCUMENT,
    RUNS: _DOCUMENT,
}
"""Directory in a store's own -> names of files in it that are replaced as a whole."""


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


def clear_unfinished(data: Path) -> None:
    """Remove what was to take another file's place when a process was killed, what a migration has left that ended, and
    nothing that somebody else has put there. While another process changes the keys, which takes no store's lock, all
    stays for the next start."""
    shutil.rmtree(data / opening.MIGRATION, ignore_errors=True)
    alone = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Keys are being changed, or it is a file system (NFS) that locks no directories.
            logger.info("what was left unfinished stays for the next start: %s", error.strerror)
            return
        for directory, replaced in _REPLACED.items():
            _clear_unfinished(data / directory, replaced)
    finally:
        os.close(alone)


def _clear_unfinished(directory: Path, replaced: re.Pattern[str]) -> None:
    if not directory.is_dir():
        return
    for entry in os.scandir(directory):
        name = files.UNFINISHED.fullmatch(entry.name)
        if name is None or not replaced.fullmatch(name[1]) or not entry.is_file(follow_symlinks=False):
            continue
        try:
            files.unlink(Path(entry.path))
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
    store_id: str
    places: Places
    """Where they are, for who copies the store."""
    trusted: bool = True
    """Whether the index is as new as the segments: otherwise nothing of them is removed."""
    ready: Callable[[], object] = lambda: None
    """Called once all that is there could be read, before the first change."""


OpenPorts = Callable[[Path, Options], Ports]


DEFAULT_CACHE_BYTES: Final = 8 * 1024**3


class _Opened(NamedTuple):
    """An index, and what it said of itself before it was opened and since; ``place`` in words, of a database."""

    at: SqlIndex
    standing: opening.Standing
    before: Mark | None
    mark: Mark
    place: str


@dataclass(frozen=True)
class Places:
    """Where a store has what does not lie in its directory. Call it to open the ports there.

    Args:
        index: a database, as :class:`PostgresIndex` takes it; None = a file in the directory.
        segments: an object store, as :class:`Bucket` takes it; None = files in the directory.
        cache: for copies of segments that are objects; None = ``cache`` in the directory.
        cache_bytes: what those take at most.
        replicas: whether other processes have the same places open.
    """

    index: str | None = None
    segments: str | None = None
    cache: Path | None = None
    cache_bytes: int = DEFAULT_CACHE_BYTES
    replicas: bool = False

    def __call__(self, data: Path, options: Options) -> Ports:
        """Raises:
        StorageError: index and segments do not belong together, one of them cannot be used, or another process holds
            the database (``store_locked``).
        OSError: the directory cannot be used.
        """
        # First of all: who has named another place has changed nothing yet.
        bucket = None if self.segments is None else Bucket(self.segments)
        opening.expect_segments_at(data, None if bucket is None else bucket.place)
        with ExitStack() as stack:
            index, standing, before, mark, place = (
                self._index_in_file(data) if self.index is None else self._database(data, options)
            )
            stack.callback(index.close)
            if bucket is None:
                if not standing.trusted:
                    logger.info("%s does not say which index is of these files; nothing is removed", opening.GENERATION)
                segments: Segments = SegmentFiles(data / "segments", index, max_open=options.open_segments)
                trusted = standing.trusted
                marker = None
            else:
                bucket.probe()
                marker = Marker(bucket, mark.store_id)
                trusted = marker.expect_of(index.mark if self.replicas else lambda: before, place)
                if not trusted:
                    _expect_segments(index, bucket)
                directory = (self.cache or data / "cache") / mark.store_id
                segments = ObjectSegments(
                    bucket,
                    index,
                    directory,
                    self.cache_bytes,
                    max_open=options.open_segments,
                    mark=marker.note,
                )

            def ready() -> None:
                if bucket is not None and marker is not None:
                    marker.note(mark.changes)
                    _say(data / opening.SEGMENTS_ELSEWHERE, bucket.place)
                if place:
                    _say(data / opening.ELSEWHERE, place)
                if not self.replicas:
                    index.generation = Generation(data / opening.GENERATION, mark)

            stack.pop_all()
        return Ports(index, segments, mark.store_id, self, trusted, ready)

    def _index_in_file(self, data: Path) -> _Opened:
        standing = opening.look(data, all_here=self.segments is None)
        standing.expect_usable()
        index = SqliteIndex(data / opening.INDEX)
        mark = index.mark()
        return _Opened(index, standing, mark, mark, "")

    def _database(self, data: Path, options: Options) -> _Opened:
        # The one place that needs it: who has the index in a file needs no driver.
        from memory_service.store.index.postgres import PostgresIndex
        from memory_service.store.index.shared import SharedIndex

        assert self.index is not None
        keeps = options.learner_bytes is not None
        index = SharedIndex(self.index, keeps_learners=keeps) if self.replicas else PostgresIndex(self.index)
        try:
            seen = index.seen()
            standing = opening.look_elsewhere(data, seen, index.place)
            standing.expect_usable()
            mark = index.prepare(data)
        except BaseException:
            index.close()
            raise
        return _Opened(index, standing, None if seen is None else seen.mark, mark, index.place)


open_local: Final = Places()
"""SQLite and files, in one directory."""


def _expect_segments(index: SqlIndex, bucket: Bucket) -> None:
    """Where copies of all segments are at hand, nobody else would notice that it is the wrong place."""
    with index.reading() as reading:
        num_sealed = sum(state.sealed for state in reading.segments())
    if num_sealed and not bucket.listed("segments/", most=1):
        raise StorageError(
            f"all {num_sealed} segments are missing from {bucket.place}: name the place where they are. Nothing was "
            "changed"
        )


def _say(path: Path, words: str) -> None:
    with files.replacing(path) as descriptor:
        files.write_at(descriptor, [f"{words}\n".encode()], 0)
