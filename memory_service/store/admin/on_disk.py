"""A store that nobody serves, or a copy of its index: its segments record by record, and what is found in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError, checksum
from memory_format.body import check_row
from memory_format.header import FLAG_REVISED, HEADER_DTYPE, HeaderRow
from memory_service.store.index import opening, reports
from memory_service.store.index.base import BufferEntry, BufferRows
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.loading import SealedSegments, load
from memory_service.store.pure.columns import Learners
from memory_service.store.pure.revised import NOTHING_REVISED, Revised, revisions_of
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.report_places import RUNS, SUFFIX
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.files import OWN_NAME
from memory_service.store.segments.layout import READ_DTYPE, plain_headers, read_contents
from memory_service.store.segments.outside import FilesOutside, SegmentsOutside

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and what is looked at."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be."""

    kind: str
    where: str
    words: str


@dataclass
class Report:
    """What was found."""

    segments: int = 0
    records: int = 0
    """In all segments, dead ones too."""
    bytes_checked: int = 0
    buffers: dict[str, int] = field(default_factory=dict)
    """Name -> live records."""
    problems: list[Problem] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of live records that cannot be read."""
    lost_in_snapshots: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of records that only snapshots hold and that cannot be read."""
    unknown_records: int = 0
    """Records of segments so damaged that not even their ids can be read."""
    foreign: list[str] = field(default_factory=list)
    """Names in the directory of segments that are none of the store's: left alone, and no problem."""
    gone: int = 0
    """Segments that a service has removed since the check began."""
    quarantined: list[str] = field(default_factory=list)
    """Files that a repair has moved, and copies that it has made."""
    adopted: list[str] = field(default_factory=list)
    """Sealed segments that the index did not know, or called open, and that a repair has taken in."""
    recovered: dict[str, int] = field(default_factory=dict)
    """Buffer -> records of theirs that it did not hold before."""
    made: list[str] = field(default_factory=list)
    """Buffers that the index did not know."""
    evicted: dict[str, list[int]] = field(default_factory=dict)
    """Buffer -> ids of records that its budget has no room for, once the others are back."""
    raised: dict[str, int] = field(default_factory=dict)
    """Buffer -> the disk limit that it was given, because what was recovered does not fit its own."""
    nameless: list[str] = field(default_factory=list)
    """Segments that do not say whose they are, left in quarantine."""
    unknown: list[str] = field(default_factory=list)
    """What cannot be known after a recovery, in words."""

    @property
    def sound(self) -> bool:
        return not self.problems

    def add(self, other: Report) -> None:
        """All that another one says, too."""
        for name, said in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, mine | said if isinstance(said, dict) else mine + said)

    def note(self, kind: str, where: str, words: str) -> None:
        self.problems.append(Problem(kind, where, words))


@dataclass
class SegmentOnDisk:
    """What of a segment can be read."""

    id: int
    stem: str
    headers: NDArray[np.void]
    """Of the records that are sound."""
    learner_ids: list[str]
    places: list[tuple[int, int]]
    """Offset in the file and length of their bodies."""
    bad_ids: list[int]
    """Ids of the others."""
    damaged: bool
    revised: Revised = field(default_factory=lambda: NOTHING_REVISED)
    """What the sound ones say of arrays that were replaced."""


class StoreOnDisk:
    """A store that is looked at and not served; with a copy of its index, which is closed with it, or its own.

    Args:
        source: where its segments are; default files in its directory.
        migrate: bring its own index up to date.
    """

    def __init__(
        self,
        data: Path,
        index_: SqliteIndex | None = None,
        source: SegmentsOutside | None = None,
        *,
        migrate: bool = False,
    ) -> None:
        self.data = data
        self.source = source or FilesOutside(data / "segments")
        self.index = index_ or SqliteIndex(data / opening.INDEX, migrate=migrate)

    def segments(self) -> list[SegmentState]:
        """What the index says of them, in the order in which they were made."""
        with self.index.reading() as reading:
            return reading.segments()

    def reports(self) -> dict[str, bytes]:
        """Reports of runs by run, wherever they lie."""
        found: dict[str, bytes] = {}
        for path in (self.data / RUNS).glob(f"[a-z0-9]*{SUFFIX}"):
            # Deleted since.
            with suppress(FileNotFoundError):
                found[path.name.removesuffix(SUFFIX)] = path.read_bytes()
        with self.index.reading() as reading:
            return found | reports.contents(reading)

    def load(self, entry: BufferEntry, rows: BufferRows, learners: Learners | None = None) -> State:
        """What a buffer holds. Raises ``StorageError``: a segment is damaged."""
        return load(entry, rows, SealedSegments(self.source), learners or Learners())

    def read(self, state: SegmentState, report: Report) -> SegmentOnDisk:
        """Check every record of a segment."""
        try:
            file = self.source.open(state, self.index.open_bodies)
        except (SegmentGoneError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else "there is none"
            report.note("missing_segment", state.stem, f"its file cannot be looked at: {why}")
            if state.sealed:
                report.unknown_records += state.num_records
                return self.unreadable(state)
            headers, _, _ = self._headers(state, None)
            return replace(self.unreadable(state), bad_ids=headers["exemplar_id"].tolist())
        with file:
            return self._read(state, file, report)

    def _read(self, state: SegmentState, file: BinaryIO, report: Report) -> SegmentOnDisk:
        size = file.seek(0, os.SEEK_END)
        try:
            headers, learners, lengths = self._headers(state, file)
        except (ValueError, OSError) as error:
            report.note("damaged_segment", state.stem, f"its headers cannot be read: {error}")
            report.unknown_records += state.num_records
            return self.unreadable(state)
        damaged = False
        if size < state.file_bytes or (state.sealed and size != state.file_bytes):
            damaged = True
            report.note("damaged_segment", state.stem, f"its file has {size} bytes, the index says {state.file_bytes}")
        elif size > state.file_bytes:
            extra = size - state.file_bytes
            report.note(
                "loose_end", state.stem, f"{extra} bytes that no change has committed; the next start cuts them"
            )
        if len(headers) != state.num_records:
            damaged = True
            report.note("damaged_segment", state.stem, f"{len(headers)} records, the index says {state.num_records}")
        report.records += len(headers)
        good: list[int] = []
        bad: list[int] = []
        revised: list[Revised] = [NOTHING_REVISED]
        rows = plain_headers(headers).tolist()
        for place, (header, row, length) in enumerate(zip(headers, rows, lengths.tolist(), strict=True)):
            file.seek(int(header["offset"]))
            body = file.read(length)
            report.bytes_checked += len(body)
            words = _fault(row, int(header["crc32"]), learners[int(header["learner"])], body, length)
            if words is None:
                good.append(place)
                if header["flags"] & FLAG_REVISED:
                    one = headers[place : place + 1]
                    revised.append(revisions_of(one, [body], one["exemplar_id"]))
            else:
                bad.append(int(header["exemplar_id"]))
                report.note("damaged_record", state.stem, f"exemplar {bad[-1]}: {words}")
        return SegmentOnDisk(
            state.id,
            state.stem,
            headers[good],
            [learners[code] for code in headers["learner"][good].tolist()],
            [(int(headers["offset"][place]), int(lengths[place])) for place in good],
            bad,
            damaged or bool(bad),
            np.sort(np.concatenate(revised), order="stored_id"),
        )

    def _headers(
        self, state: SegmentState, file: BinaryIO | None
    ) -> tuple[NDArray[np.void], list[str], NDArray[np.int64]]:
        if file is not None and state.sealed:
            contents = read_contents(file)
            return contents.headers, contents.learners, contents.lengths
        with self.index.reading() as reading:
            segment = reading.open_segment(state)
        headers = segment.headers().astype(READ_DTYPE)
        headers["offset"], lengths = segment.places()
        return headers, list(segment.learners), lengths

    def unreadable(self, state: SegmentState) -> SegmentOnDisk:
        """A segment of which nothing can be read."""
        return SegmentOnDisk(state.id, state.stem, np.zeros(0, HEADER_DTYPE), [], [], [], True)

    def close(self) -> None:
        self.index.close()


def _fault(row: HeaderRow, crc32: int, learner_id: str, body: bytes, length: int) -> str | None:
    """What is wrong with a stored record, None where nothing is."""
    if len(body) != length:
        return f"{len(body)} of its {length} bytes are there"
    found = checksum.crc32(body)
    if found != crc32:
        return f"its CRC-32 is {found:#010x}, its header says {crc32:#010x}"
    try:
        check_row(row, learner_id, body, set())
    except FormatError as error:
        return error.message
    return None


def stem_of(name: str) -> str | None:
    """Of which segment a file is, by its name; None for one that is none of the store's."""
    own = OWN_NAME.fullmatch(name)
    return None if own is None else own[1]
