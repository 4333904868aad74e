"""Is a store what it says it is, and what to do where it is not.

:func:`verify` changes nothing and reads everything: every CRC, every counter, every file, also while a service goes on
with it. :func:`repair` works on a store that nobody serves: it moves damaged files to ``quarantine/``, carries over
what is sound in them, sets the counters right, and says what was lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import BudgetError, FormatError, StorageError, checksum
from memory_format.body import check_row
from memory_format.header import HEADER_DTYPE
from memory_service.store.admin import recovery
from memory_service.store.admin.online import Copies, Pace, held_if_free
from memory_service.store.admin.quarantine import put_aside, put_copy_aside
from memory_service.store.commits import Commits, discard
from memory_service.store.contents import Contents
from memory_service.store.directory import take_lock
from memory_service.store.index import opening, tables
from memory_service.store.index.base import BufferEntry, BufferRows, Reading, Writing
from memory_service.store.index.generation import write_mark
from memory_service.store.index.selects import Selects, entry_of
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.loading import SealedSegments, growing_of, load
from memory_service.store.pure import eviction
from memory_service.store.pure.columns import Learners
from memory_service.store.pure.model import Options, Snapshot
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.pushes import candidates
from memory_service.store.segments import owner as owners
from memory_service.store.segments.files import OWN_NAME
from memory_service.store.segments.layout import BODY_AT, READ_DTYPE, read_contents
from memory_service.store.segments.local import SegmentFiles

logger = logging.getLogger(__name__)

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

    def note(self, kind: str, where: str, words: str) -> None:
        self.problems.append(Problem(kind, where, words))


@dataclass
class _Segment:
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


class _Store:
    """A store that is looked at and not served.

    Args:
        index_: a copy of its index, which is closed with it.
    """

    def __init__(self, data: Path, index_: SqliteIndex | None = None, *, migrate: bool = False) -> None:
        self.data = data
        self.directory = data / "segments"
        self.index = index_ or SqliteIndex(data / opening.INDEX, migrate=migrate)
        self.files = SegmentFiles(self.directory, self.index)

    def rows_of_segments(self) -> list[SegmentState]:
        with self.index.read() as connection:
            found = connection.execute(sa.select(tables.segments).order_by(tables.segments.c.id))
            return [SegmentState(row.id, row.stem, row.file_bytes, row.num_records, row.sealed) for row in found]

    def load(self, entry: BufferEntry, rows: BufferRows) -> State:
        """What a buffer holds.

        Raises:
            StorageError: a segment is damaged.
        """
        return load(entry, rows, 0, SealedSegments(self.files), Learners())

    def known_stems(self) -> set[str]:
        """Of all files that may be there, of those that are about to be made or to go as well."""
        with self.index.read() as connection:
            return {
                stem
                for table in (tables.segments, tables.intents)
                for stem in connection.execute(sa.select(table.c.stem)).scalars()
            }

    def read(self, state: SegmentState, report: Report) -> _Segment:
        """Check every record of a segment."""
        path = self.files.path(state.stem)
        try:
            size = path.stat().st_size
        except OSError as error:
            report.note("missing_segment", state.stem, f"its file cannot be looked at: {error.strerror}")
            if state.sealed:
                report.unknown_records += state.num_records
                return self._unreadable(state)
            headers, _, _ = self._headers(state, path)
            return replace(self._unreadable(state), bad_ids=headers["exemplar_id"].tolist())
        try:
            headers, learners, lengths = self._headers(state, path)
        except (ValueError, OSError) as error:
            report.note("damaged_segment", state.stem, f"its headers cannot be read: {error}")
            report.unknown_records += state.num_records
            return self._unreadable(state)
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
        return _Segment(
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

    def _unreadable(self, state: SegmentState) -> _Segment:
        return _Segment(state.id, state.stem, np.zeros(0, HEADER_DTYPE), [], [], [], True)

    def close(self) -> None:
        self.files.close()
        self.index.close()


def verify(data: Path, *, progress: Progress | None = None, pace: Pace | None = None) -> Report:
    """Check a store, and change nothing. A service may serve it, and it may lie where nothing can be written.

    What is checked is what the store holds when this begins, as far as it holds it still when its turn comes.

    Args:
        pace: how fast to read.

    Raises:
        StorageError: its index cannot be read at all, or is of another version; or a served store changes faster than
            it can be looked at.
    """
    if not data.is_dir():
        raise StorageError(f"there is no store in {data}")
    with held_if_free(data) as served, TemporaryDirectory(prefix="memory-service-") as directory:
        standing = opening.look(data)
        if standing.kind == "new":
            raise StorageError(f"there is no store in {data}")
        if standing.kind in ("missing", "damaged"):
            raise StorageError(standing.words)
        report = Report()
        if not standing.trusted and standing.kind != "unmarked":
            report.note(f"{standing.kind}_index", opening.INDEX, standing.words)
        copies = Copies(data, Path(directory))
        with closing(_Store(data, copies.take())) as store:
            _examine(store, progress, report, _Newer(data, copies) if served else None, pace)
        return report


def repair(data: Path, *, progress: Progress | None = None) -> Report:
    """Make a store usable again; what was damaged lies in ``quarantine/`` afterwards.

    Records that cannot be read are dropped from their buffers, whose versions move on. Nothing else is lost: sound
    records of a damaged file are carried over into a new one. Sealed segments that the index does not know are taken
    in (:mod:`memory_service.store.admin.recovery`), all of them where the index is missing, damaged or of another
    store. Cut short, it can be run again.

    Returns:
        what was found before, and what was done.

    Raises:
        StorageError: ``store_locked``; there is no store; or the index cannot be used, whatever it holds.
    """
    with _locked(data):
        standing = opening.look(data)
        if standing.kind == "new":
            raise StorageError(f"there is no store in {data}")
        report = Report()
        standing = _set_up(data, standing, report)
        with closing(_Store(data, migrate=True)) as store:
            _repair(store, standing, report, progress)
        return report


def _set_up(data: Path, standing: opening.Standing, report: Report) -> opening.Standing:
    """Put an index aside that is of no use, and a copy of one that is not the newest."""
    if standing.kind in ("current", "unmarked", "older") and (words := opening.damage(data)):
        standing = opening.Standing("damaged", f"the index of the store in {data} is damaged: {words}", standing.mark)
    if standing.kind not in ("current", "unmarked"):
        report.note(f"{standing.kind}_index", opening.INDEX, standing.words)
    parts = [data / f"{opening.INDEX}{suffix}" for suffix in ("", "-wal", "-journal")]
    if standing.kind == "older":
        # Opening it carries its log over, as far as that is whole.
        report.quarantined += [str(put_copy_aside(path, data)) for path in parts if path.exists()]
    elif standing.kind in ("missing", "damaged", "foreign"):
        report.quarantined += [str(put_aside(path, data)) for path in parts if path.exists()]
        (data / f"{opening.INDEX}-shm").unlink(missing_ok=True)
    return standing


def _index_problems(connection: sa.Connection) -> Iterator[str]:
    for pragma in ("integrity_check", "foreign_key_check"):
        found = connection.exec_driver_sql(f"PRAGMA {pragma}").all()
        if found and found != [("ok",)]:
            yield f"{pragma}: {found[0]}"


def _repair(store: _Store, standing: opening.Standing, report: Report, progress: Progress | None) -> None:
    if not standing.trusted:
        report.adopted += recovery.take_over_seals(store.index, store.directory)
        _copy_ends_aside(store, report)
    report, read = _examine(store, progress, report)
    holes = _holes(store, read)
    for segment in read:
        if segment.damaged:
            _carry_over(store, segment, report)
    recovered = recovery.adopt(store.data, store.index, standing, holes)
    for state in recovered.states:
        report.adopted.append(state.stem)
        segment = store.read(state, report)
        if segment.damaged:
            _carry_over(store, segment, report)
    if recovered.states or standing.kind not in ("current", "unmarked"):
        report.unknown += recovery.UNKNOWN
    report.recovered, report.made, report.nameless = recovered.records, recovered.made, recovered.nameless
    _settle_buffers(store, standing, recovered, report)
    _fit_disk_limits(store, report)
    states = {state.stem for state in store.rows_of_segments()}
    unknown = [name for name in sorted(os.listdir(store.directory)) if _stem_of(name) not in (None, *states)]
    report.quarantined += [str(put_aside(store.directory / name, store.data)) for name in unknown]
    # From here on a start takes the index for the newest one again.
    write_mark(store.data / opening.GENERATION, store.index.mark())


def _copy_ends_aside(store: _Store, report: Report) -> None:
    """Bytes behind the end that an older index knows of an open segment: the next start cuts them off."""
    for state in store.rows_of_segments():
        path = store.files.path(state.stem)
        if not state.sealed and path.exists() and path.stat().st_size > state.file_bytes:
            report.quarantined.append(str(put_copy_aside(path, store.data)))


def _holes(store: _Store, read: list[_Segment]) -> dict[int, recovery.Hole]:
    """What of each buffer is in segments that cannot be read."""
    damaged = {segment.id for segment in read if segment.damaged}
    found = {}
    with store.index.reading() as reading:
        for buffer_id, said in reading.contents().items():
            bad = damaged & {state.id for state in said.segments}
            if bad:
                dead = [said.deaths[id_][0] for id_ in bad if id_ in said.deaths]
                found[buffer_id] = recovery.Hole(np.concatenate([np.zeros(0, np.uint64), *dead]))
    return found


def _stem_of(name: str) -> str | None:
    own = OWN_NAME.fullmatch(name)
    return None if own is None else own[1]


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    if not data.is_dir():
        raise StorageError(f"there is no store in {data}")
    lock = take_lock(data / "lock")
    try:
        yield
    finally:
        os.close(lock)


class _Newer:
    """A served store as it is now."""

    def __init__(self, data: Path, copies: Copies) -> None:
        self._data = data
        self.names = copies.names
        self._take = copies.take

    def __call__(self) -> _Store:
        """With an index of now; the caller closes it."""
        return _Store(self._data, self._take())


_MOST_TURNS = 100
_MOST_REWRITTEN = 10
"""Times that segments are looked at which have come in place of some that are gone."""


def _examine(
    store: _Store,
    progress: Progress | None,
    report: Report,
    newer: _Newer | None = None,
    pace: Pace | None = None,
) -> tuple[Report, list[_Segment]]:
    """Look at everything.

    Args:
        newer: for a store that is served.
    """
    with store.index.read() as connection:
        for words in _index_problems(connection):
            report.note("damaged_index", opening.INDEX, words)
    states = store.rows_of_segments()
    read = _read_all(store, states, report, progress, newer, pace or Pace())
    _find_orphans(store, {state.stem for state in states}, report, newer)
    damaged = {segment.id: segment for segment in read if segment.damaged}
    if newer is None:
        with store.index.read() as connection:
            for row in connection.execute(sa.select(tables.buffers)).all():
                _examine_buffer(store, connection, row, damaged, report)
    else:
        _examine_served_buffers(newer, damaged, report)
    return report, read


def _read_all(
    store: _Store,
    states: list[SegmentState],
    report: Report,
    progress: Progress | None,
    newer: _Newer | None,
    pace: Pace,
) -> list[_Segment]:
    read = []
    begun: set[str] = set()
    with ExitStack() as stack:
        for _ in range(_MOST_REWRITTEN):
            gone = report.gone
            begun |= {state.stem for state in states}
            for number, state in enumerate(states):
                if progress is not None:
                    progress(report.segments + number, report.segments + len(states), state.stem)
                before = report.bytes_checked
                segment = store.read(state, report) if newer is None else _read_served(store, state, report, newer)
                if segment is not None:
                    read.append(segment)
                pace.spent(report.bytes_checked - before)
            report.segments += len(states) - (report.gone - gone)
            if newer is None or report.gone == gone:
                break
            # What was rewritten lies elsewhere now.
            store = stack.enter_context(closing(newer()))
            states = [state for state in store.rows_of_segments() if state.stem not in begun]
    if progress is not None:
        progress(report.segments, report.segments, "")
    return read


def _read_served(store: _Store, state: SegmentState, report: Report, newer: _Newer) -> _Segment | None:
    """Check a segment that may change or go meanwhile; None where it is gone."""
    found, seen = _read_apart(store, state)
    for _ in range(_MOST_TURNS):
        if not seen.problems:
            break
        if not newer.names(state.stem):
            report.gone += 1
            return None
        with closing(newer()) as now:
            state_now = next((other for other in now.rows_of_segments() if other.stem == state.stem), None)
            if state_now is None:
                report.gone += 1
                return None
            again, seen_again = _read_apart(now, state_now)
        # Twice the same, with the same row: not a file between two names.
        settled = state_now == state and seen_again.problems == seen.problems
        found, seen, state = again, seen_again, state_now
        if settled:
            break
    report.records += seen.records
    report.bytes_checked += seen.bytes_checked
    report.unknown_records += seen.unknown_records
    report.problems += seen.problems
    return found


def _read_apart(store: _Store, state: SegmentState) -> tuple[_Segment, Report]:
    """What is read of a served segment, in a report of its own."""
    seen = Report()
    try:
        found = store.read(state, seen)
    except FileNotFoundError:
        seen.note("missing_segment", state.stem, "its file went while it was looked at")
        found = store._unreadable(state)
    # A push under way.
    seen.problems = [problem for problem in seen.problems if problem.kind != "loose_end"]
    return found, seen


def _find_orphans(store: _Store, known: set[str], report: Report, newer: _Newer | None) -> None:
    entries = sorted(os.listdir(store.directory))
    if newer is not None:
        with closing(newer()) as now:
            known = known | now.known_stems()
    for entry in entries:
        stem = _stem_of(entry)
        if stem is None:
            report.foreign.append(entry)
        elif stem not in known and (store.directory / entry).exists():
            report.note("orphan", entry, "no row of the index speaks of this file")


def _examine_served_buffers(newer: _Newer, damaged: dict[int, _Segment], report: Report) -> None:
    """Each as of one moment, whose files are there while they are read."""
    done: set[int] = set()
    for _ in range(_MOST_TURNS):
        with closing(newer()) as now, now.index.read() as connection:
            for row in connection.execute(sa.select(tables.buffers)).all():
                if row.id in done:
                    continue
                seen = Report()
                try:
                    _examine_buffer(now, connection, row, damaged, seen)
                except StorageError as error:
                    # It was rewritten, or came damaged since the others were read: look at a newer state.
                    stem = error.details.get("segment")
                    for state in now.rows_of_segments():
                        if state.stem == stem and (found := _read_served(now, state, report, newer)) and found.damaged:
                            damaged[found.id] = found
                    break
                done.add(row.id)
                report.buffers |= seen.buffers
                report.lost |= seen.lost
                report.lost_in_snapshots |= seen.lost_in_snapshots
                report.problems += seen.problems
            else:
                return
    raise StorageError("the store changes faster than it can be looked at; try it while less is pushed")


def _examine_buffer(
    store: _Store, connection: sa.Connection, row: sa.Row[Any], damaged: dict[int, _Segment], report: Report
) -> None:
    found = Selects(connection).contents(row.id)[row.id]
    lost: list[int] = []
    lost_in_snapshots: list[int] = []
    hidden = False
    for state in found.segments:
        segment = damaged.get(state.id)
        if segment is None:
            continue
        dead = set(found.deaths.get(state.id, (np.zeros(0, np.uint64),))[0].tolist())
        lost += [id_ for id_ in segment.bad_ids if id_ not in dead]
        lost_in_snapshots += [id_ for id_ in segment.bad_ids if id_ in dead]
        hidden |= len(segment.headers) + len(segment.bad_ids) < state.num_records
    if lost:
        report.lost[row.name] = sorted(lost)
    if lost_in_snapshots:
        report.lost_in_snapshots[row.name] = sorted(lost_in_snapshots)
    if hidden:
        # Its contents cannot be loaded: which of its records are live is not known.
        report.buffers[row.name] = row.num_records
        return
    loaded = store.load(entry_of(row), found)
    columns = loaded.columns
    report.buffers[row.name] = columns.num_records
    config = entry_of(row).config
    for name, stated, real in (
        ("bytes_used", row.bytes_used, columns.bytes_used),
        ("num_records", row.num_records, columns.num_records),
    ):
        if stated != real:
            report.note("wrong_counter", row.name, f"{name} is {stated}, its records make {real}")
    ids = columns["exemplar_id"]
    if len(np.unique(ids)) != len(ids):
        report.note("wrong_rows", row.name, "an exemplar id is live in two segments")
    if len(ids) and int(ids[-1]) >= row.next_exemplar_id:
        report.note("wrong_counter", row.name, f"next_exemplar_id is {row.next_exemplar_id}, {ids[-1]} is in use")
    if columns.bytes_used > config.budget_bytes:
        report.note("over_budget", row.name, f"{columns.bytes_used} bytes, the budget is {config.budget_bytes}")
    if loaded.disk_bytes > config.disk_limit_bytes:
        report.note("over_disk_limit", row.name, f"{loaded.disk_bytes} bytes, the limit is {config.disk_limit_bytes}")
    for snapshot in loaded.snapshots.values():
        view = loaded.shown_by(snapshot, Selects(connection).scores_at(row.id, snapshot.version))
        if (view.num_records, view.bytes_used) != (snapshot.num_records, snapshot.bytes_used):
            report.note(
                "wrong_snapshot",
                f"{row.name}/{snapshot.name}",
                f"it shows {view.num_records} records of {view.bytes_used} bytes, and says {snapshot.num_records} of "
                f"{snapshot.bytes_used}",
            )


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


def _carry_over(store: _Store, segment: _Segment, report: Report) -> None:
    """Put the sound records of a damaged segment into a new one, and the damaged file aside."""
    path = store.files.path(segment.stem)
    parts = []
    if len(segment.headers):
        with path.open("rb") as file:
            bodies = [os.pread(file.fileno(), length, offset) for offset, length in segment.places]
        headers = np.zeros(len(segment.headers), HEADER_DTYPE)
        for name in HEADER_DTYPE.names or ():
            if name not in ("offset", "learner"):
                headers[name] = segment.headers[name]
        # One segment whatever its size: the rows of the old one move to it.
        owner = _owner_of(store, segment)
        (part,) = store.files.append(None, headers, segment.learner_ids, bodies, segment_bytes=2**62, owner=owner)
        parts = [store.files.seal(part.after, owner)]
    s, b, d, o = tables.segments.c, tables.buffer_segments.c, tables.deaths.c, tables.open_rows.c
    try:
        with store.index.write() as connection:
            if parts:
                after = parts[0].after
                values = {"file_bytes": parts[0].file_bytes, "num_records": after.num_records, "sealed": True}
                inserted = connection.execute(tables.segments.insert().values(stem=after.stem, **values))
                assert inserted.inserted_primary_key is not None
                new_id = int(inserted.inserted_primary_key[0])
                owners = connection.execute(sa.select(b.buffer_id).where(b.segment_id == segment.id)).scalars().all()
                for owner in owners:
                    connection.execute(tables.buffer_segments.insert(), {"buffer_id": owner, "segment_id": new_id})
                # Deaths of lost records go with the old segment.
                if segment.bad_ids:
                    for bad in segment.bad_ids:
                        connection.execute(
                            tables.deaths.delete().where(d.segment_id == segment.id, d.exemplar_id == bad)
                        )
                connection.execute(tables.deaths.update().where(d.segment_id == segment.id).values(segment_id=new_id))
            for table, column in ((tables.deaths, d), (tables.buffer_segments, b), (tables.open_rows, o)):
                connection.execute(table.delete().where(column.segment_id == segment.id))
            connection.execute(tables.segments.delete().where(s.id == segment.id))
    except BaseException:
        discard(store.index, store.files, parts)
        raise
    if path.exists():
        # What is sound in it lies elsewhere now: no later repair looks at it again.
        report.quarantined.append(str(put_aside(path, store.data, suffix=".damaged")))


def _owner_of(store: _Store, segment: _Segment) -> dict[str, Any]:
    """What the file that is carried over says of its buffer, or would say."""
    try:
        said = read_contents(store.files.path(segment.stem)).attributes.get(owners.ATTRIBUTE)
        if said is not None:
            return {owners.ATTRIBUTE: said}
    except (ValueError, OSError):
        pass
    b = tables.buffer_segments.c
    with store.index.read() as connection:
        of_it = sa.select(b.buffer_id).where(b.segment_id == segment.id).order_by(b.buffer_id).limit(1)
        row = connection.execute(sa.select(tables.buffers).where(tables.buffers.c.id.in_(of_it))).first()
    return {} if row is None else owners.owner_of(entry_of(row).config, row.version, row.next_exemplar_id)


Write = Callable[[Writing], object]


def _settle_buffers(store: _Store, standing: opening.Standing, recovered: recovery.Recovered, report: Report) -> None:
    """Set counters of buffers and snapshots to what their records make, and hold budgets."""
    with store.index.reading() as reading:
        writes = [
            write
            for entry in reading.buffers()
            for write in _settlements(
                store, reading, entry, _floor(entry, standing, recovered.seen.get(entry.config.id)), report
            )
        ]
    if writes:
        with store.index.writing() as transaction:
            for write in writes:
                write(transaction)


def _floor(entry: BufferEntry, standing: opening.Standing, seen: recovery.Seen | None) -> recovery.Seen | None:
    """What a buffer's version and next id have to be at least, where the index may not be the last that gave some."""
    if seen is None and (standing.trusted or standing.kind == "unmarked"):
        return None
    seen = seen or recovery.Seen(0, 0)
    version, next_id = max(entry.version, seen.version), max(entry.next_exemplar_id, seen.next_exemplar_id)
    return recovery.Seen(version + recovery.LEAP, next_id + recovery.LEAP)


def _settlements(
    store: _Store, reading: Reading, entry: BufferEntry, floor: recovery.Seen | None, report: Report
) -> Iterator[Write]:
    """What sets a buffer right where it is not."""
    config = entry.config
    state = load(
        entry, reading.contents(config.id)[config.id], reading.number(), SealedSegments(store.files), Learners()
    )
    columns = state.columns
    for snapshot in state.snapshots.values():
        view = state.shown_by(snapshot, reading.scores_at(config.id, snapshot.version))
        if (view.num_records, view.bytes_used) != (snapshot.num_records, snapshot.bytes_used):
            right = replace(snapshot, num_records=view.num_records, bytes_used=view.bytes_used)
            yield partial(_write_snapshot, buffer_id=config.id, snapshot=right)
    if config.budget.grows:
        config = replace(config, budget_bytes=max(config.budget_bytes, config.budget_for(len(state.classes))))
        if config.budget_bytes != entry.config.budget_bytes:
            yield methodcaller("update_settings", config)
    last = int(columns["exemplar_id"][-1]) if columns.num_records else 0
    next_id = max(entry.next_exemplar_id, last + 1, floor.next_exemplar_id if floor else 0)
    keep = np.ones(columns.num_records, dtype=bool)
    if columns.bytes_used > config.budget_bytes:
        everything = columns.take(np.arange(columns.num_records))
        # Nothing else says which to give up where nothing is ever evicted.
        policy = "fifo" if config.eviction == "reject" else config.eviction
        keep = eviction.plan(policy, candidates([everything], config), columns.num_records, config.budget_bytes)
        report.evicted[config.name] = columns["exemplar_id"][~keep].tolist()
    # What it holds is not what it held: samples of the old version must not seem to be repeatable.
    changed = columns.num_records != entry.num_records or not keep.all()
    version = max(entry.version + changed, floor.version if floor else 0)
    dead = columns.take(np.flatnonzero(~keep))
    if len(dead["exemplar_id"]):
        died = np.full(len(dead["exemplar_id"]), version, np.uint64)
        yield methodcaller("insert_deaths", config.id, dead, died)
    kept = columns.kept(version, keep)
    report.buffers[config.name] = kept.num_records
    counted = BufferEntry(config, version, next_id, kept.bytes_used, kept.num_records)
    if counted != replace(entry, config=config):
        yield methodcaller("update_figures", entry.version, counted)


def _write_snapshot(transaction: Writing, buffer_id: int, snapshot: Snapshot) -> None:
    transaction.delete_snapshot(buffer_id, snapshot.name)
    transaction.insert_snapshot(buffer_id, snapshot)


def _fit_disk_limits(store: _Store, report: Report) -> None:
    """Rewrite segments of buffers that are over their disk limit; where that does not help, raise it."""
    with store.index.reading() as reading:
        found = reading.buffers()
    for entry in found:
        config = entry.config
        learners = Learners()
        with store.index.reading() as reading:
            rows, number = reading.contents(config.id)[config.id], reading.number()
        state = load(entry, rows, number, SealedSegments(store.files), learners)
        contents = Contents(state, learners, store.files)
        if contents.disk_bytes <= config.disk_limit_bytes:
            continue
        commits = Commits(store.index, store.files, contents, Options(), growing_of(rows, store.files))
        try:
            commits.make_room(0, config.disk_limit_bytes)
        except BudgetError:
            logger.debug("segments of buffer %s cannot be made to fit", config.name)
        if contents.disk_bytes > config.disk_limit_bytes:
            report.raised[config.name] = contents.disk_bytes
            with store.index.writing() as transaction:
                transaction.update_settings(replace(config, given_disk_limit=contents.disk_bytes))
