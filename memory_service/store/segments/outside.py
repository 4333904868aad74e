"""Segments that are looked at from outside: a service may write them meanwhile, and nothing of them is changed."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, ClassVar

from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.copies import contents_of_end, ends, key_of
from memory_service.store.segments.files import OPEN, SEALED
from memory_service.store.segments.layout import BODY_AT, SegmentContents, read_contents

OpenBodies = Callable[[str], Sequence[bytes] | None]
"""As :meth:`Index.open_bodies`."""


class SegmentsOutside(ABC):
    """The segments of a store. Every method raises ``StorageError`` where an object store does not answer."""

    keeps_open: ClassVar[bool]
    """As :attr:`Segments.keeps_open`."""

    @abstractmethod
    def open(self, state: SegmentState, bodies: OpenBodies) -> BinaryIO:
        """A segment, to be read and closed.

        Args:
            bodies: of the index, for those that are open.

        Raises:
            SegmentGoneError: there is none (any more).
            OSError: it cannot be read.
        """

    @abstractmethod
    def contents(self, stem: str) -> SegmentContents:
        """As :meth:`Segments.contents`."""

    @abstractmethod
    def listed(self) -> dict[str, float]:
        """Names of all that lies there, and when each was written, seconds since 1970."""

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether something of that name lies there."""


class FilesOutside(SegmentsOutside):
    """Files in a directory."""

    keeps_open = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, state: SegmentState, bodies: OpenBodies) -> BinaryIO:
        # Sealing renames, before the index says so, and failing to takes the name back.
        for sealed in (state.sealed, True, False, True):
            try:
                return (self.directory / name_of(replace(state, sealed=sealed))).open("rb")
            except FileNotFoundError:
                continue
        raise SegmentGoneError(state.stem)

    def contents(self, stem: str) -> SegmentContents:
        return read_contents(self.directory / (stem + SEALED))

    def listed(self) -> dict[str, float]:
        if not self.directory.is_dir():
            return {}
        found: dict[str, float] = {}
        for entry in sorted(os.scandir(self.directory), key=lambda entry: entry.name):
            # A service may have removed it just now.
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat(follow_symlinks=False).st_mtime
        return found

    def holds(self, name: str) -> bool:
        return (self.directory / name).exists()


class ObjectsOutside(SegmentsOutside):
    """Objects in a bucket; the bodies of open ones are in the index."""

    keeps_open = False

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def open(self, state: SegmentState, bodies: OpenBodies) -> BinaryIO:
        if not state.sealed:
            found = bodies(state.stem)
            if found is None:
                raise SegmentGoneError(state.stem)
            return io.BytesIO(b"".join([bytes(BODY_AT), *found]))
        whole = self._bucket.read(key_of(state.stem))
        if whole is None:
            raise SegmentGoneError(state.stem)
        return io.BytesIO(whole)

    def contents(self, stem: str) -> SegmentContents:
        for end, size in ends(self._bucket, stem):
            try:
                return contents_of_end(size, end)
            except ValueError:
                if len(end) == size:
                    raise
        raise FileNotFoundError(f"there is no {key_of(stem)} in {self._bucket.place}")

    def listed(self) -> dict[str, float]:
        directory = key_of("").partition("/")[0]
        return {key.removeprefix(f"{directory}/"): at for key, at in self._bucket.listed(directory).items()}

    def holds(self, name: str) -> bool:
        return self._bucket.read_end(key_of(name.removesuffix(SEALED)), 1) is not None


def name_of(state: SegmentState) -> str:
    """What the file of a segment is called."""
    return state.stem + (SEALED if state.sealed else OPEN)
