"""A second pair of ports: the same SQL in a database in memory, and segments in dictionaries."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from memory_format import StorageError, checksum
from memory_service.store.directory import Ports, open_local
from memory_service.store.index import tables
from memory_service.store.index.base import Reading, Writing
from memory_service.store.index.sql import SqlIndex
from memory_service.store.pure.change import Body
from memory_service.store.pure.erasing import Targets
from memory_service.store.pure.model import Options
from memory_service.store.segments.appending import OpenSegment, Part
from memory_service.store.segments.base import (
    Erased,
    Held,
    KnownFiles,
    Names,
    Place,
    Prefix,
    SegmentGoneError,
    Segments,
    damaged_record,
)
from memory_service.store.segments.layout import BODY_AT, SegmentContents, read_contents, seal_frame


class MemoryIndex(SqlIndex):
    """One connection, so one transaction at a time, also of those that read."""

    def __init__(self) -> None:
        connect_args = {"check_same_thread": False}
        super().__init__(sa.create_engine("sqlite://", poolclass=StaticPool, connect_args=connect_args))
        self._one = threading.RLock()
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        tables.metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            connection.execute(tables.store.insert(), {"id": 1, "store_id": "0" * 32, "changes": 0})

    @contextmanager
    def reading(self, *, alone: bool = False) -> Iterator[Reading]:
        with self._one, super().reading(alone=alone) as transaction:
            yield transaction

    @contextmanager
    def writing(self, *, counted: bool = True) -> Iterator[Writing]:
        with self._one, super().writing(counted=counted) as transaction:
            yield transaction

    def check_writable(self) -> None:
        with self._one:
            super().check_writable()

    def close(self) -> None:
        """It is opened again."""


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")


class MemorySegments(Segments):
    """Open segments as bytes that grow, sealed ones as the bytes of their files."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.open: dict[str, bytearray] = {}
        self.sealed: dict[str, bytes] = {}
        self.set_aside: dict[str, bytes] = {}
        """What no index knows."""
        self._lock = threading.Lock()
        self._damaged: set[tuple[str, int]] = set()

    def _write(
        self, before: OpenSegment | None, after: OpenSegment, bodies: Sequence[Body], owner: Mapping[str, Any] | None
    ) -> int:
        with self._lock:
            # Another one: whoever reads the segment now has what it was.
            written = bytearray(BODY_AT) if before is None else self.open[after.stem][: before.end]
            for body in bodies:
                written += body
            assert len(written) == after.end
            if owner is None:
                self.open[after.stem] = written
            else:
                first, tail = seal_frame(after.headers(), after.learners, after.body_bytes, after.crc32, owner)
                written[:BODY_AT] = first
                written += tail
                self.sealed[after.stem] = bytes(written)
                self.open.pop(after.stem, None)
        return len(written)

    def _settle(self, parts: Sequence[Part]) -> None:
        pass

    def noted(self, parts: Iterable[Part]) -> None:
        pass

    def _restore(self, stem: str, segment: OpenSegment | None) -> None:
        if segment is None:
            self.delete([stem])
            return
        with self._lock:
            found = self.sealed.pop(stem, None) or self.open[stem]
            self.open[stem] = bytearray(found[: segment.end])

    def hold(self, stems: Sequence[str], first: int = 0, *, wait: bool = True) -> Held:
        with self._lock:
            found = [self.sealed.get(stem) or self.open.get(stem) for stem in stems]
        for stem, data in zip(stems, found, strict=True):
            if data is None:
                raise SegmentGoneError(stem)
        return HeldBytes(stems, [data or b"" for data in found], first, self._damaged)

    def room_to_hold(self) -> int:
        return 10**6

    def read_prefixes(self, stem: str, places: Sequence[Prefix]) -> list[bytes]:
        with self._lock:
            data = self.sealed.get(stem) or self.open.get(stem)
        if data is None:
            raise SegmentGoneError(stem)
        return [bytes(data[offset : offset + wanted]) for offset, wanted, *_ in places]

    def bodies_of(self, segment: OpenSegment) -> bytes:
        return self.read_prefixes(segment.stem, [(BODY_AT, segment.body_bytes, segment.body_bytes, 0)])[0]

    def contents(self, stem: str) -> SegmentContents:
        with self._lock:
            if stem not in self.sealed:
                raise FileNotFoundError(stem)
            return read_contents(io.BytesIO(self.sealed[stem]))

    def delete(self, stems: Iterable[str]) -> None:
        for stem in stems:
            with self._lock:
                self.open.pop(stem, None)
                self.sealed.pop(stem, None)
            self._names.stems_gone([stem])

    def expect_gone(self, erased: Erased, seconds: float) -> None:
        """Who reads one has its bytes, and there is no file."""

    def overwrite_aside(self, targets: Targets, bodies: Callable[[], Iterable[bytes | memoryview]]) -> list[str]:
        changed = []
        for body in map(bytes, bodies()):
            for stem, data in self.set_aside.items():
                if body in data:
                    self.set_aside[stem] = data.replace(body, bytes(len(body)))
                    changed.append(stem)
        return changed

    def sweep(self, known: KnownFiles, *, trusted: bool) -> set[str]:
        for stem, (counts, _, sealed) in known.segments.items():
            data = self.sealed.pop(stem, None) or self.open.pop(stem, None)
            if data is None or len(data) < counts:
                raise StorageError(f"segment {stem} is missing or cut short", segments=[stem])
            if sealed:
                self.sealed[stem] = bytes(data[:counts])
            else:
                self.open[stem] = bytearray(data[:counts])
        for of_it in (self.open, self.sealed):
            for stem in of_it.keys() - known.segments.keys():
                data = of_it.pop(stem)
                if not trusted or stem not in known.intents:
                    self.set_aside[stem] = bytes(data)
        return set(known.intents)

    def close(self) -> None:
        """It is opened again."""


class HeldBytes(Held):
    """What segments were when they were held."""

    def __init__(
        self, stems: Sequence[str], data: Sequence[bytes | bytearray], first: int, damaged: set[tuple[str, int]]
    ) -> None:
        self._stems = stems
        self._data = data
        self._first = first
        self._damaged = damaged

    def read(self, places: Iterable[Place], target: memoryview, *, wait: bool = True) -> None:
        for number, offset, length, crc32, at in places:
            which = number - self._first
            body = bytes(self._data[which][offset : offset + length])
            if len(body) != length or checksum.crc32(body) != crc32:
                self._damaged.add((self._stems[which], offset))
                raise damaged_record(self._stems[which], offset)
            target[at : at + length] = body

    def expect_sound(self, places: Iterable[Place]) -> None:
        for number, offset, *_ in places:
            if (self._stems[number - self._first], offset) in self._damaged:
                raise damaged_record(self._stems[number - self._first], offset)

    def close(self) -> None:
        pass


class MemoryStores:
    """Pairs by directory: they are what they were when a store is opened again."""

    def __init__(self) -> None:
        self._pairs: dict[Path, tuple[MemoryIndex, MemorySegments]] = {}

    def open_ports(self, data: Path, _options: Options) -> Ports:
        """The pair of a directory, a new one where it has none."""
        if data not in self._pairs:
            index = MemoryIndex()
            self._pairs[data] = index, MemorySegments(index)
        index, segments = self._pairs[data]
        return Ports(index, segments, index.mark().store_id, open_local)

    def segments(self, data: Path) -> MemorySegments:
        """Of a directory."""
        return self._pairs[data][1]
