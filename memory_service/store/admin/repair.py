"""A store that can be used again: damaged files go to ``quarantine/``, and what is sound in them is carried over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from memory_format import StorageError
from memory_format.header import HEADER_DTYPE
from memory_service.store.admin import recovery
from memory_service.store.admin.on_disk import SegmentOnDisk, StoreOnDisk, stem_of
from memory_service.store.admin.quarantine import put_aside, put_copy_aside
from memory_service.store.admin.report import Progress, Report
from memory_service.store.admin.settlement import fit_disk_limits, settle_buffers
from memory_service.store.admin.verify import examine
from memory_service.store.commits import discard
from memory_service.store.directory import take_lock
from memory_service.store.index import opening
from memory_service.store.index.generation import write_mark
from memory_service.store.index.inspection import inspecting, mending
from memory_service.store.segments import owner as owners
from memory_service.store.segments.layout import read_contents


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
        with closing(StoreOnDisk(data, migrate=True)) as store:
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


def _repair(store: StoreOnDisk, standing: opening.Standing, report: Report, progress: Progress | None) -> None:
    if not standing.trusted:
        report.adopted += recovery.take_over_seals(store.index, store.directory)
        _copy_ends_aside(store, report)
    report, read = examine(store, progress, report)
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
    settle_buffers(store, standing, recovered, report)
    fit_disk_limits(store, report)
    states = {state.stem for state in store.segments()}
    unknown = [name for name in sorted(os.listdir(store.directory)) if stem_of(name) not in (None, *states)]
    report.quarantined += [str(put_aside(store.directory / name, store.data)) for name in unknown]
    # From here on a start takes the index for the newest one again.
    write_mark(store.data / opening.GENERATION, store.index.mark())


def _copy_ends_aside(store: StoreOnDisk, report: Report) -> None:
    """Bytes behind the end that an older index knows of an open segment: the next start cuts them off."""
    for state in store.segments():
        path = store.files.path(state.stem)
        if not state.sealed and path.exists() and path.stat().st_size > state.file_bytes:
            report.quarantined.append(str(put_copy_aside(path, store.data)))


def _holes(store: StoreOnDisk, read: list[SegmentOnDisk]) -> dict[int, recovery.Hole]:
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


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    if not data.is_dir():
        raise StorageError(f"there is no store in {data}")
    lock = take_lock(data / "lock")
    try:
        yield
    finally:
        os.close(lock)


def _carry_over(store: StoreOnDisk, segment: SegmentOnDisk, report: Report) -> None:
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
    try:
        with mending(store.index) as transaction:
            for part in parts:
                holders = transaction.holders(segment.id)
                new_id = transaction.insert_sealed(holders, part.after.stem, part.file_bytes, part.after.num_records)
                # Deaths of lost records go with the old segment.
                transaction.move_deaths(segment.id, new_id, segment.bad_ids)
            transaction.forget_segment(segment.id)
    except BaseException:
        discard(store.index, store.files, parts)
        raise
    if path.exists():
        # What is sound in it lies elsewhere now: no later repair looks at it again.
        report.quarantined.append(str(put_aside(path, store.data, suffix=".damaged")))


def _owner_of(store: StoreOnDisk, segment: SegmentOnDisk) -> dict[str, Any]:
    """What the file that is carried over says of its buffer, or would say."""
    try:
        said = read_contents(store.files.path(segment.stem)).attributes.get(owners.ATTRIBUTE)
        if said is not None:
            return {owners.ATTRIBUTE: said}
    except (ValueError, OSError):
        pass
    with inspecting(store.index) as inspection:
        entry = inspection.first_holder(segment.id)
    return {} if entry is None else owners.owner_of(entry.config, entry.version, entry.next_exemplar_id)
