"""A store that can be used again: damaged files go to ``quarantine/``, and what is sound in them is carried over."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, StorageError
from memory_format.wire import Batch
from memory_service.store.admin import recovery
from memory_service.store.admin.on_disk import Progress, Report, SegmentOnDisk, StoreOnDisk, stem_of
from memory_service.store.admin.verify import damaged_documents, examine
from memory_service.store.commits import Commits, discard
from memory_service.store.contents import Contents
from memory_service.store.directory import take_lock
from memory_service.store.index import opening
from memory_service.store.index.base import BufferEntry, Reading, Writing
from memory_service.store.index.generation import Generation
from memory_service.store.loading import SealedSegments, growing_of, load
from memory_service.store.pure import eviction
from memory_service.store.pure.columns import Columns, Learners
from memory_service.store.pure.model import Options
from memory_service.store.pushes import candidates
from memory_service.store.segments import owner as owners
from memory_service.store.segments.layout import plain_headers, read_contents
from memory_service.store.segments.leftovers import put_aside, put_copy_aside
from memory_service.store.segments.local import SegmentFiles

logger = logging.getLogger(__name__)

Write = Callable[[Writing], object]


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
        if standing.kind in ("elsewhere", "unfinished"):
            raise StorageError(standing.words)
        report = Report()
        standing = _set_up(data, standing, report)
        with closing(_StoreInDirectory(data)) as store:
            _repair(store, standing, report, progress)
        return report


class _StoreInDirectory(StoreOnDisk):
    """One whose segment files are written, too."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, migrate=True)
        self.directory = data / "segments"
        self.files = SegmentFiles(self.directory, self.index)

    def close(self) -> None:
        self.files.close()
        super().close()


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


def _repair(store: _StoreInDirectory, standing: opening.Standing, report: Report, progress: Progress | None) -> None:
    if not standing.trusted:
        report.adopted += recovery.take_over_seals(store.index, store.directory)
        _copy_ends_aside(store, report)
    report, read = examine(store, progress, report)
    holes = _holes(store, read)
    for segment in read:
        _note_revisions(store, segment)
        if segment.damaged:
            _carry_over(store, segment, report)
    states, seen = recovery.adopt(store.data, store.index, standing, holes, report)
    for state in states:
        report.adopted.append(state.stem)
        segment = store.read(state, report)
        _note_revisions(store, segment)
        if segment.damaged:
            _carry_over(store, segment, report)
    if states or standing.kind not in ("current", "unmarked"):
        recovery.name_classes(store.data, store.index)
        report.unknown += recovery.UNKNOWN
    _settle_buffers(store, standing, seen, report)
    _fit_disk_limits(store, report)
    known = (None, *(state.stem for state in store.segments()))
    useless = [store.directory / name for name in sorted(os.listdir(store.directory)) if stem_of(name) not in known]
    documents = [store.data / f"{problem.where}.json" for problem in damaged_documents(store)]
    useless += [path for path in documents if path.exists()]
    report.quarantined += [str(put_aside(path, store.data)) for path in useless]
    # From here on a start takes the index for the newest one again.
    Generation(store.data / opening.GENERATION, store.index.mark()).close()


def _copy_ends_aside(store: _StoreInDirectory, report: Report) -> None:
    """Bytes behind the end that an older index knows of an open segment: the next start cuts them off."""
    for state in store.segments():
        path = store.files.path(state.stem)
        if not state.sealed and path.exists() and path.stat().st_size > state.file_bytes:
            report.quarantined.append(str(put_copy_aside(path, store.data)))


def _holes(store: _StoreInDirectory, read: list[SegmentOnDisk]) -> dict[int, NDArray[np.uint64]]:
    """Buffers of which segments cannot be read -> ids of the records in those that are known to be dead."""
    damaged = {segment.id for segment in read if segment.damaged}
    found = {}
    with store.index.reading() as reading:
        for buffer_id, said in reading.contents().items():
            bad = damaged & {state.id for state in said.segments}
            if bad:
                dead = [said.deaths[id_][0] for id_ in bad if id_ in said.deaths]
                found[buffer_id] = np.concatenate([np.zeros(0, np.uint64), *dead])
    return found


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    # First, so that nothing is made where there is none, no lock either.
    if not data.is_dir() or opening.look(data).kind == "new":
        raise StorageError(f"there is no store in {data}")
    lock = take_lock(data / "lock")
    try:
        yield
    finally:
        os.close(lock)


def _carry_over(store: _StoreInDirectory, segment: SegmentOnDisk, report: Report) -> None:
    """Put the sound records of a damaged segment into a new one, and the damaged file aside."""
    path = store.files.path(segment.stem)
    parts = []
    if len(segment.headers):
        with path.open("rb") as file:
            bodies = [memoryview(os.pread(file.fileno(), length, offset)) for offset, length in segment.places]
        batch = Batch(plain_headers(segment.headers), segment.learner_ids, bodies)
        # One segment whatever its size: the rows of the old one move to it.
        owner = _owner_of(store, segment)
        (part,) = store.files.append(None, batch, segment_bytes=2**62, owner=owner)
        parts = [store.files.seal(part.after, owner)]
    try:
        with store.index.writing() as transaction:
            for part in parts:
                holders = transaction.holders(segment.id)
                figures = {"file_bytes": part.file_bytes, "num_records": part.after.num_records}
                new_id = transaction.insert_segment(holders, stem=part.after.stem, sealed=True, **figures)
                # Deaths of lost records go with the old segment.
                transaction.move_records(segment.id, new_id, segment.bad_ids)
            transaction.forget_segment(segment.id)
    except BaseException:
        discard(store.index, store.files, parts)
        raise
    if path.exists():
        # What is sound in it lies elsewhere now: no later repair looks at it again.
        report.quarantined.append(str(put_aside(path, store.data, suffix=".damaged")))


def _owner_of(store: _StoreInDirectory, segment: SegmentOnDisk) -> dict[str, Any]:
    """What the file that is carried over says of its buffer, or would say."""
    try:
        said = read_contents(store.files.path(segment.stem)).attributes.get(owners.ATTRIBUTE)
        if said is not None:
            return {owners.ATTRIBUTE: said}
    except (ValueError, OSError):
        pass
    with store.index.reading() as reading:
        # Of several buffers, the one that wrote it.
        holders = reading.holders(segment.id)
        entry = reading.find_buffer(min(holders)) if holders else None
    return {} if entry is None else owners.owner_of(entry.config, entry.version, entry.next_exemplar_id)


def _note_revisions(store: StoreOnDisk, segment: SegmentOnDisk) -> None:
    """What records say of the exemplars that they are, where the index says something else, or nothing."""
    if len(segment.revised):
        with store.index.writing() as transaction:
            for buffer_id in transaction.holders(segment.id):
                transaction.right_revisions(buffer_id, segment.id, segment.revised)


# Counters and budgets, as the records make them


def _settle_buffers(
    store: _StoreInDirectory, standing: opening.Standing, seen: Mapping[int, recovery.Seen], report: Report
) -> None:
    """Set counters of buffers and snapshots to what their records make, and hold budgets."""
    with store.index.reading() as reading:
        writes = [
            write
            for entry in reading.buffers()
            for write in _settlements(store, reading, entry, _floor(entry, standing, seen.get(entry.config.id)), report)
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
    store: _StoreInDirectory, reading: Reading, entry: BufferEntry, floor: recovery.Seen | None, report: Report
) -> Iterator[Write]:
    """What sets a buffer right where it is not."""
    config = entry.config
    state = store.load(entry, reading.contents(config.id)[config.id])
    columns = state.columns
    for snapshot in state.snapshots.values():
        view = state.shown_by(snapshot, reading.scores_at(config.id, snapshot.version))
        if (view.num_records, view.bytes_used) != (snapshot.num_records, snapshot.bytes_used):
            right = replace(snapshot, num_records=view.num_records, bytes_used=view.bytes_used)
            yield methodcaller("delete_snapshot", config.id, right.name)
            yield methodcaller("insert_snapshot", config.id, right)
    if config.budget.grows:
        config = replace(config, budget_bytes=max(config.budget_bytes, config.budget_for(len(state.classes))))
        if config.budget_bytes != entry.config.budget_bytes:
            yield methodcaller("update_settings", config)
    last = int(columns["exemplar_id"][-1]) if columns.num_records else 0
    next_id = max(entry.next_exemplar_id, last + 1, floor.next_exemplar_id if floor else 0)
    keep = _newest(columns)
    newest = columns.kept(columns.version, keep)
    if newest.bytes_used > config.budget_bytes:
        # Nothing else says which to give up where nothing is ever evicted.
        policy = "fifo" if config.eviction == "reject" else config.eviction
        stays = eviction.plan(policy, candidates([newest], config), newest.num_records, config.budget_bytes)
        report.evicted[config.name] = newest.shown_ids[~stays].tolist()
        keep[keep] = stays
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


def _newest(columns: Columns) -> NDArray[np.bool_]:
    """Of each exemplar the record with its newest arrays: earlier ones may be back, too."""
    ids = columns.shown_ids[::-1]
    keep = np.zeros(columns.num_records, dtype=bool)
    keep[columns.num_records - 1 - np.unique(ids, return_index=True)[1]] = True
    return keep


def _fit_disk_limits(store: _StoreInDirectory, report: Report) -> None:
    """Rewrite segments of buffers that are over their disk limit; where that does not help, raise it."""
    with store.index.reading() as reading:
        found = reading.buffers()
    for entry in found:
        config = entry.config
        learners = Learners()
        with store.index.reading() as reading:
            rows = reading.contents(config.id)[config.id]
        state = load(entry, rows, SealedSegments(store.files), learners)
        contents = Contents(state, learners, store.index, store.files, Options())
        if contents.disk_bytes <= config.disk_limit_bytes:
            continue
        commits = Commits(contents, growing_of(rows, store.files))
        try:
            commits.make_room(0, config.disk_limit_bytes)
        except BudgetError:
            logger.debug("segments of buffer %s cannot be made to fit", config.name)
        if contents.disk_bytes > config.disk_limit_bytes:
            report.raised[config.name] = contents.disk_bytes
            with store.index.writing() as transaction:
                transaction.update_settings(replace(config, given_disk_limit=contents.disk_bytes))
