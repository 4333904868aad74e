"""A store that nobody serves, or a copy of its index, and its segments record by record."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError, checksum
from memory_format.body import check_row
from memory_format.header import HEADER_DTYPE
from memory_service.store.admin.report import Report
from memory_service.store.index import opening
from memory_service.store.index.base import BufferEntry, BufferRows
from memory_service.store.index.inspection import inspecting
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.loading import SealedSegments, load
from memory_service.store.pure.columns import Learners
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments.files import OWN_NAME
from memory_service.store.segments.layout import BODY_AT, READ_DTYPE, read_contents
from memory_service.store.segments.local import SegmentFiles


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


class StoreOnDisk:
    """A store that is looked at and not served.

    Args:
        index_: a copy of its index, which is closed with it.
    """

    def __init__(self, data: Path, index_: SqliteIndex | None = None, *, migrate: bool = False) -> None:
        self.data = data
        self.directory = data / "segments"
        self.index = index_ or SqliteIndex(data / opening.INDEX, migrate=migrate)
        self.files = SegmentFiles(self.directory, self.index)

    def segments(self) -> list[SegmentState]:
        """What the index says of them, in the order in which they were made."""
        with inspecting(self.index) as inspection:
            return inspection.segments()

    def load(self, entry: BufferEntry, rows: BufferRows) -> State:
        """What a buffer holds.

        Raises:
            StorageError: a segment is damaged.
        """
        return load(entry, rows, 0, SealedSegments(self.files), Learners())

    def known_stems(self) -> set[str]:
        """Of all files that may be there, of those that are about to be made or to go as well."""
        with self.index.reading() as reading:
            known = reading.known_files()
        return {*known.segments, *known.intents}

    def read(self, state: SegmentState, report: Report) -> SegmentOnDisk:
        """Check every record of a segment."""
        path = self.files.path(state.stem)
        try:
            size = path.stat().st_size
        except OSError as error:
            report.note("missing_segment", state.stem, f"its file cannot be looked at: {error.strerror}")
            if state.sealed:
                report.unknown_records += state.num_records
                return self.unreadable(state)
            headers, _, _ = self._headers(state, path)
            return replace(self.unreadable(state), bad_ids=headers["exemplar_id"].tolist())
        try:
            headers, learners, lengths = self._headers(state, path)
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
        with path.open("rb") as file:
            for place, (header, length) in enumerate(zip(headers, lengths.tolist(), strict=True)):
                body = os.pread(file.fileno(), length, int(header["offset"]))
                report.bytes_checked += len(body)
                words = _fault(header, learners[int(header["learner"])], body, length)
                if words is None:
                    good.append(place)
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
        )

    def _headers(self, state: SegmentState, path: Path) -> tuple[NDArray[np.void], list[str], NDArray[np.int64]]:
        if state.sealed:
            contents = read_contents(path)
            return contents.headers, contents.learners, contents.lengths
        with self.index.reading() as reading:
            segment = reading.open_segment(state)
        stored = segment.headers()
        lengths = np.diff(np.append(stored["offset"].astype(np.int64) + BODY_AT, segment.end))
        headers = np.zeros(len(stored), READ_DTYPE)
        for name in HEADER_DTYPE.names or ():
            headers[name] = stored[name]
        headers["offset"] += np.uint64(BODY_AT)
        return headers, list(segment.learners), lengths

    def unreadable(self, state: SegmentState) -> SegmentOnDisk:
        """A segment of which nothing can be read."""
        return SegmentOnDisk(state.id, state.stem, np.zeros(0, HEADER_DTYPE), [], [], [], True)

    def close(self) -> None:
        self.files.close()
        self.index.close()


def _fault(header: np.void, learner_id: str, body: bytes, length: int) -> str | None:
    """What is wrong with a stored record, None where nothing is."""
    if len(body) != length:
        return f"{len(body)} of its {length} bytes are there"
    found = checksum.crc32(body)
    if found != int(header["crc32"]):
        return f"its CRC-32 is {found:#010x}, its header says {int(header['crc32']):#010x}"
    row = np.zeros((), HEADER_DTYPE)
    for name in HEADER_DTYPE.names or ():
        if name not in ("offset", "learner"):
            row[name] = header[name]
    try:
        check_row(tuple(row.tolist()), learner_id, body, set())
    except FormatError as error:
        return error.message
    return None


def stem_of(name: str) -> str | None:
    """Of which segment a file is, by its name; None for one that is none of the store's."""
    own = OWN_NAME.fullmatch(name)
    return None if own is None else own[1]
