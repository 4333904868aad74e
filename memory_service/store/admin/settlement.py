"""Counters and budgets of buffers after a repair, as their records make them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import methodcaller

import numpy as np

from memory_format import BudgetError
from memory_service.store.admin import recovery
from memory_service.store.admin.on_disk import StoreOnDisk
from memory_service.store.admin.report import Report
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.index import opening
from memory_service.store.index.base import BufferEntry, Reading, Writing
from memory_service.store.loading import SealedSegments, growing_of, load
from memory_service.store.pure import eviction
from memory_service.store.pure.columns import Learners
from memory_service.store.pure.model import Options, Snapshot
from memory_service.store.pushes import candidates

logger = logging.getLogger(__name__)


Write = Callable[[Writing], object]


def settle_buffers(
    store: StoreOnDisk, standing: opening.Standing, recovered: recovery.Recovered, report: Report
) -> None:
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
    store: StoreOnDisk, reading: Reading, entry: BufferEntry, floor: recovery.Seen | None, report: Report
) -> Iterator[Write]:
    """What sets a buffer right where it is not."""
    config = entry.config
    state = store.load(entry, reading.contents(config.id)[config.id])
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


def fit_disk_limits(store: StoreOnDisk, report: Report) -> None:
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
