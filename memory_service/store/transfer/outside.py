"""A store that is looked at from outside, wherever its index and its segments lie: a service may have it open."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from memory_format import FormatError, StorageError
from memory_service.store.directory import Places, open_local, take_lock
from memory_service.store.index import opening
from memory_service.store.index.generation import read_marker
from memory_service.store.index.opening import Standing
from memory_service.store.index.outside import IndexFile, IndexInDatabase, IndexOutside
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.outside import FilesOutside, ObjectsOutside, SegmentsOutside


class Outside:
    """Where a store's index and segments are, to read them and to change nothing. Close it, or use it as a context
    manager.

    Args:
        data: its directory.
        places: where it has what does not lie there.

    Raises:
        StorageError: there is no store; what lies in the directory and what is named do not belong together; or a place
            cannot be used.
    """

    def __init__(self, data: Path, places: Places = open_local) -> None:
        if not data.is_dir():
            raise StorageError(f"there is no store in {data}")
        self.data = data
        self._bucket = None if places.segments is None else Bucket(places.segments, make=False)
        opening.expect_segments_at(data, None if self._bucket is None else self._bucket.place)
        self.segments: SegmentsOutside = (
            FilesOutside(data / "segments") if self._bucket is None else ObjectsOutside(self._bucket)
        )
        self.index: IndexOutside = IndexFile(data) if places.index is None else IndexInDatabase(data, places.index)

    @property
    def is_local(self) -> bool:
        """Whether all of it is in its directory."""
        return self._bucket is None and isinstance(self.index, IndexFile)

    def look(self) -> Standing:
        """What there is. Raises as :func:`opening.look` and :func:`opening.look_elsewhere`, and where there is no
        store."""
        # Before the index, which is never the older one then.
        marker = None if self._bucket is None else read_marker(self._bucket)
        standing = self.index.look(all_here=self._bucket is None)
        if standing.kind == "new":
            raise StorageError(f"there is no store in {self.data}")
        if self._bucket is None or standing.kind not in ("current", "unmarked"):
            return standing
        mark = self.index.mark()
        if mark is None:
            return standing
        place = self._bucket.place
        if marker is None:
            return Standing("foreign", f"there is no store in {place}: name the place where its segments are")
        if marker.store_id != mark.store_id:
            return Standing("foreign", f"the segments in {place} are of another store than the index", mark)
        if mark.changes < marker.changes:
            words = f"the index is older than the segments in {place}: it has seen {mark.changes} changes, they have "
            return Standing("older", f"{words}seen {marker.changes}", mark)
        return standing

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Keep services away, where none holds it already; whether one does. Raises ``StorageError``: that cannot be
        told, or there is no store, where nothing is made then, no lock either."""
        self.look()
        with _directory_held_if_free(self.data) as is_held:
            if is_held:
                yield True
                return
            with self.index.held_if_free() as is_held:
                yield is_held

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def expect_apart(what: str, data: Path, places: Places, to_data: Path, to_places: Places = open_local) -> None:
    """Refuse a place for another store that is one of this store's, or below, and would go with it.

    Args:
        what: is done, in words.
        data, places: where the store is.
        to_data, to_places: where the other is to be.

    Raises:
        FormatError: ``invalid_request``.
    """
    for old, new in product(_locations(data, places), _locations(to_data, to_places)):
        if f"{new}/".startswith(f"{old}/"):
            raise FormatError(f"{what} to another place than its own, and {new} is in {old}", code="invalid_request")


def _locations(data: Path, places: Places) -> list[str]:
    found = [data.resolve().as_uri()]
    if places.segments is not None:
        url = places.segments.rstrip("/")
        found.append(Path(unquote(urlsplit(url).path)).resolve().as_uri() if url.startswith("file:") else url)
    return found


@contextmanager
def _directory_held_if_free(data: Path) -> Iterator[bool]:
    try:
        lock = take_lock(data / "lock")
    except StorageError:
        yield True
        return
    except OSError:
        # Nothing can be written here.
        found = _lock_to_read(data / "lock")
        if found is None:
            yield True
            return
        lock = found
    try:
        yield False
    finally:
        os.close(lock)


def _lock_to_read(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Never served since it came here.
        return os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read, which tells whether the store is served: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
