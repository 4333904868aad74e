"""Is a store what it says it is? Every CRC, every counter and every file is read, and nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from memory_format import StorageError
from memory_service.store.admin.on_disk import Problem, Progress, Report, SegmentOnDisk, StoreOnDisk, stem_of
from memory_service.store.admin.online import Newer, Pace
from memory_service.store.directory import Places, open_local
from memory_service.store.index import opening, quotas
from memory_service.store.index.base import BufferEntry, BufferRows, Reading
from memory_service.store.index.outside import IndexInDatabase
from memory_service.store.pure.columns import Learners, bytes_by_learner
from memory_service.store.pure.revised import shown_ids
from memory_service.store.pure.state import State
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.receipts import RECEIPTS, Receipts
from memory_service.store.report_places import RUNS, unpacked
from memory_service.store.transfer.outside import Outside


def verify(
    data: Path, places: Places = open_local, *, progress: Progress | None = None, pace: Pace | None = None
) -> Report:
    """Check a store, and change nothing. A service may serve it, and it may lie where nothing can be written.

    What is checked is what the store holds when this begins, as far as it holds it still when its turn comes.

    Args:
        data: its directory.
        places: where it has what does not lie there.
        pace: how fast to read.

    Raises:
        StorageError: there is none; its index cannot be read at all, or is of another version; or a served store
            changes faster than it can be looked at.
    """
    with (
        Outside(data, places) as outside,
        outside.held_if_free() as served,
        TemporaryDirectory(prefix="memory-service-") as directory,
    ):
        standing = outside.look()
        if standing.kind in ("missing", "damaged", "elsewhere", "unfinished"):
            raise StorageError(standing.words)
        report = Report()
        if not standing.trusted and standing.kind != "unmarked":
            report.note(f"{standing.kind}_index", opening.INDEX, standing.words)
        newer = Newer(outside, Path(directory))
        with closing(newer()) as store:
            counts = isinstance(outside.index, IndexInDatabase)
            examine(store, progress, report, newer if served else None, pace, counts_learners=counts)
        return report


def damaged_documents(store: StoreOnDisk) -> Iterator[Problem]:
    """Reports of runs and receipts that cannot be read; those that are files are where it says, with ``.json``."""
    for run_id, content in sorted(store.reports().items()):
        try:
            unpacked(content, "it")
        except StorageError as error:
            yield Problem("damaged_report", f"{RUNS}/{run_id}", f"{error.message}: send it again")
    for id_ in Receipts(store.data, store.index).damaged():
        yield Problem("damaged_receipt", f"{RECEIPTS}/{id_}", "it is damaged, or a newer version made it")


_MOST_TURNS = 100
_MOST_REWRITTEN = 10
"""Times that segments are looked at which have come in place of some that are gone."""


def examine(
    store: StoreOnDisk,
    progress: Progress | None,
    report: Report,
    newer: Newer | None = None,
    pace: Pace | None = None,
    *,
    counts_learners: bool = False,
) -> tuple[Report, list[SegmentOnDisk]]:
    """Look at everything; ``newer`` is for a store that is served. ``counts_learners``: what the index says of learners
    is what they have, where it says that it is; else a start counts them anew."""
    for words in store.index.faults():
        report.note("damaged_index", opening.INDEX, words)
    states = store.segments()
    read = _read_all(store, states, report, progress, newer, pace or Pace())
    _find_orphans(store, {state.stem for state in states}, report, newer)
    damaged = {segment.id: segment for segment in read if segment.damaged}
    _check_revisions(store, read, report)
    if newer is None:
        with store.index.reading() as reading:
            held = [_examine_buffer(store, reading, entry, damaged, report) for entry in reading.buffers()]
            if counts_learners:
                _check_learners(reading, held, report)
    else:
        _examine_served_buffers(newer, damaged, report, counts_learners=counts_learners)
    report.problems += damaged_documents(store)
    return report, read


def _read_all(
    store: StoreOnDisk,
    states: list[SegmentState],
    report: Report,
    progress: Progress | None,
    newer: Newer | None,
    pace: Pace,
) -> list[SegmentOnDisk]:
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
            states = [state for state in store.segments() if state.stem not in begun]
    if progress is not None:
        progress(report.segments, report.segments, "")
    return read


def _read_served(store: StoreOnDisk, state: SegmentState, report: Report, newer: Newer) -> SegmentOnDisk | None:
    """Check a segment that may change or go meanwhile; None where it is gone."""
    found, seen = _read_apart(store, state)
    for _ in range(_MOST_TURNS):
        if not seen.problems:
            break
        if not newer.names(state.stem):
            report.gone += 1
            return None
        with closing(newer()) as now:
            state_now = next((other for other in now.segments() if other.stem == state.stem), None)
            if state_now is None:
                report.gone += 1
                return None
            again, seen_again = _read_apart(now, state_now)
        # Twice the same, with the same row: not a file between two names.
        settled = state_now == state and seen_again.problems == seen.problems
        found, seen, state = again, seen_again, state_now
        if settled:
            break
    report.add(seen)
    return found


def _read_apart(store: StoreOnDisk, state: SegmentState) -> tuple[SegmentOnDisk, Report]:
    """What is read of a served segment, in a report of its own."""
    seen = Report()
    try:
        found = store.read(state, seen)
    except FileNotFoundError:
        seen.note("missing_segment", state.stem, "its file went while it was looked at")
        found = store.unreadable(state)
    # A push under way.
    seen.problems = [problem for problem in seen.problems if problem.kind != "loose_end"]
    return found, seen


def _check_revisions(store: StoreOnDisk, read: list[SegmentOnDisk], report: Report) -> None:
    """Note records of which the index says another exemplar, or another revision, than they do themselves."""
    with store.index.reading() as reading:
        for segment in read:
            for buffer_id in reading.holders(segment.id) if len(segment.revised) else ():
                known, names = reading.revised(buffer_id, segment.id), ["stored_id", "exemplar_id", "revision"]
                for row in segment.revised[~np.isin(segment.revised[names], known[names])].tolist():
                    words = f"record {row[0]} is revision {row[2]} of exemplar {row[1]}; the index says something else"
                    report.note("wrong_revision", segment.stem, words)


def _find_orphans(store: StoreOnDisk, known: set[str], report: Report, newer: Newer | None) -> None:
    entries = sorted(store.source.listed())
    if newer is not None:
        with closing(newer()) as now, now.index.reading() as reading:
            files = reading.known_files()
            # Those that are about to be made or to go as well.
            known = {*known, *files.segments, *files.intents}
    for entry in entries:
        stem = stem_of(entry)
        if stem is None:
            report.foreign.append(entry)
        elif stem not in known and store.source.holds(entry):
            report.note("orphan", entry, "no row of the index speaks of this file")


_Held = Mapping[str, int] | None
"""What records of a buffer are charged, by learner; None: it cannot be loaded."""


def _examine_served_buffers(
    newer: Newer, damaged: dict[int, SegmentOnDisk], report: Report, *, counts_learners: bool
) -> None:
    """Each as of one moment, whose files are there while they are read; learners where all are as of the same one."""
    done: set[int] = set()
    for _ in range(_MOST_TURNS):
        held, counts = list[_Held](), counts_learners and not done
        with closing(newer()) as now, now.index.reading() as reading:
            for entry in reading.buffers():
                if entry.config.id in done:
                    continue
                seen = Report()
                try:
                    held.append(_examine_buffer(now, reading, entry, damaged, seen))
                except StorageError as error:
                    # It was rewritten, or came damaged since the others were read: look at a newer state.
                    stem = error.details.get("segment")
                    for state in now.segments():
                        if state.stem == stem and (found := _read_served(now, state, report, newer)) and found.damaged:
                            damaged[found.id] = found
                    break
                done.add(entry.config.id)
                report.add(seen)
            else:
                if counts:
                    _check_learners(reading, held, report)
                return
    raise StorageError("the store changes faster than it can be looked at; try it while less is pushed")


def _examine_buffer(
    store: StoreOnDisk, reading: Reading, entry: BufferEntry, damaged: dict[int, SegmentOnDisk], report: Report
) -> _Held:
    name, found = entry.config.name, reading.contents(entry.config.id)[entry.config.id]
    if _find_lost(name, found, damaged, report):
        # Its contents cannot be loaded: which of its records are live is not known.
        report.buffers[name] = entry.num_records
        return None
    learners = Learners()
    loaded = store.load(entry, found, learners)
    report.buffers[name] = loaded.columns.num_records
    _check_counters(entry, loaded, report)
    for snapshot in loaded.snapshots.values():
        view = loaded.shown_by(snapshot, reading.scores_at(entry.config.id, snapshot.version))
        if (view.num_records, view.bytes_used) != (snapshot.num_records, snapshot.bytes_used):
            report.note(
                "wrong_snapshot",
                f"{name}/{snapshot.name}",
                f"it shows {view.num_records} records of {view.bytes_used} bytes, and says {snapshot.num_records} of "
                f"{snapshot.bytes_used}",
            )
    return bytes_by_learner(loaded.columns["learner"], loaded.columns.charge, learners.ids)


def _check_learners(reading: Reading, held: Iterable[_Held], report: Report) -> None:
    """Of all buffers."""
    counted, real = quotas.counted_learners(reading), Counter[str]()
    if counted is None:
        return
    for of_it in held:
        if of_it is None:
            return
        real.update(of_it)
    for learner_id in sorted(counted.keys() | real.keys()):
        stated = counted.get(learner_id, 0)
        if stated != real[learner_id]:
            words = f"{stated} bytes of learner {learner_id!r} are counted, its records make {real[learner_id]}"
            report.note("wrong_counter", "learner_bytes", f"{words}: a start with learner_bytes counts anew")


def _find_lost(name: str, found: BufferRows, damaged: dict[int, SegmentOnDisk], report: Report) -> bool:
    """Note which of a buffer's records cannot be read; returns whether there are some whose ids cannot, either."""
    lost: list[int] = []
    lost_in_snapshots: list[int] = []
    hidden = False
    for state in found.segments:
        segment = damaged.get(state.id)
        if segment is not None:
            bad = np.array(segment.bad_ids, np.uint64)
            shown = dict(zip(segment.bad_ids, shown_ids(found.revised, bad).tolist(), strict=True))
            dead = set(found.deaths[state.id][0].tolist()) if state.id in found.deaths else set()
            lost += [shown[id_] for id_ in segment.bad_ids if id_ not in dead]
            lost_in_snapshots += [shown[id_] for id_ in segment.bad_ids if id_ in dead]
            hidden |= len(segment.headers) + len(segment.bad_ids) < state.num_records
    if lost:
        report.lost[name] = sorted(lost)
    if lost_in_snapshots:
        report.lost_in_snapshots[name] = sorted(lost_in_snapshots)
    return hidden


def _check_counters(entry: BufferEntry, loaded: State, report: Report) -> None:
    config, columns = entry.config, loaded.columns
    for counter in ("bytes_used", "num_records"):
        stated, real = getattr(entry, counter), getattr(columns, counter)
        if stated != real:
            report.note("wrong_counter", config.name, f"{counter} is {stated}, its records make {real}")
    ids = columns["exemplar_id"]
    if len(np.unique(columns.shown_ids)) != len(ids):
        report.note("wrong_rows", config.name, "an exemplar id is live in two segments")
    if len(ids) and int(ids[-1]) >= entry.next_exemplar_id:
        words = f"next_exemplar_id is {entry.next_exemplar_id}, {ids[-1]} is in use"
        report.note("wrong_counter", config.name, words)
    for kind, used, what, most in (
        ("over_budget", columns.bytes_used, "budget", config.budget_bytes),
        ("over_disk_limit", loaded.disk_bytes, "limit", config.disk_limit_bytes),
    ):
        if used > most:
            report.note(kind, config.name, f"{used} bytes, the {what} is {most}")
