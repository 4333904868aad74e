"""Sealed segments that the index does not know are taken into it: each says whose records it holds.

``memory-service repair`` does that with the files in ``segments/`` and ``quarantine/``. An index is believed as far as
it goes: where it has given an id already, it also says whether that record lives. Only where the segment that held the
record cannot be read any more, another file's copy counts. What no segment says is lost: see :data:`UNKNOWN`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError
from memory_service.store.admin.on_disk import Report
from memory_service.store.index.base import BufferEntry, Reading, Writing
from memory_service.store.index.opening import Standing
from memory_service.store.index.sql import SqlIndex
from memory_service.store.names import NameFiles
from memory_service.store.pure.columns import charge_of
from memory_service.store.pure.model import Budget, BufferConfig
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments import files
from memory_service.store.segments.files import OPEN, OWN_NAME, SEALED
from memory_service.store.segments.layout import SegmentContents, read_contents
from memory_service.store.segments.leftovers import QUARANTINE
from memory_service.store.segments.owner import Owner, read_owner

UNKNOWN: Final = (
    "records that were evicted or deleted since the index was written may be back, as far as the budget has room",
    "scores and ranks are those of when the records were written or moved",
    "snapshots, descriptions, words of vocabularies and idempotency keys since are gone: a push that is sent again is "
    "stored again",
    "records of open segments that the index has no headers of are not readable; their files lie in quarantine/",
    "a fork holds only what it has written itself, where the index does not know it, and is none any more: what is "
    "erased from its source is to be erased there, too",
)
"""What cannot be known of a store whose index was missing or older than its segments."""

LEAP: Final = 1_000_000
"""So many ids and versions are left out after a recovery: the index that is gone may have given them."""

_NAMELESS: Final = (
    "recovered from segments that do not say whose they are; nothing is evicted, the budget is what they hold"
)
_ASIDE: Final = re.compile(r"([0-9a-f]{32})\.zarr\.zip(\.\d+)?")


@dataclass(frozen=True)
class Seen:
    """The highest version and next id that segments say of a buffer."""

    version: int
    next_exemplar_id: int


@dataclass(frozen=True)
class _Candidate:
    """A segment that may be taken in; it holds one record at least."""

    path: Path
    stem: str
    contents: SegmentContents
    owner: Owner | None
    """Its buffer; None in segments of earlier versions, which did not say."""

    @property
    def ids(self) -> NDArray[np.uint64]:
        ids: NDArray[np.uint64] = self.contents.headers["exemplar_id"]
        return ids

    def crc_of(self) -> dict[int, int]:
        return dict(zip(self.ids.tolist(), self.contents.headers["crc32"].tolist(), strict=True))

    @property
    def seen(self) -> Seen:
        behind = int(self.ids.max()) + 1
        if self.owner is None:
            return Seen(0, behind)
        return Seen(self.owner.version, max(behind, self.owner.next_exemplar_id))


@dataclass
class _Target:
    """A buffer that segments are taken into."""

    entry: BufferEntry | None
    """What the index says of it; None where it is made."""
    config: BufferConfig
    held: dict[int, int]
    """Exemplar id -> CRC-32 of all records in its segments, dead ones too."""
    dead: NDArray[np.uint64] | None = None
    """Where segments of it cannot be read: ids of the records in those that are known to be dead."""
    sized: bool = True
    """Whether the budget is known; else it becomes what is taken in."""
    takes: list[tuple[_Candidate, NDArray[np.bool_]]] = field(default_factory=list)
    """Segments, and which of their records count."""

    def offer(self, candidate: _Candidate) -> None:
        """Take those of a segment's records that it does not hold, and that are not known to be dead."""
        ids = candidate.ids
        wanted = ~np.isin(ids, np.fromiter(self.held, np.uint64, len(self.held)))
        if self.entry is not None:
            news = ids >= np.uint64(self.entry.next_exemplar_id)
            if self.dead is not None:
                news |= ~np.isin(ids, self.dead)
            wanted &= news
        if wanted.any():
            self.takes.append((candidate, wanted))
            for id_, crc32 in candidate.crc_of().items():
                self.held.setdefault(id_, crc32)


def take_over_seals(index_: SqlIndex, directory: Path) -> list[str]:
    """Segments that an older index calls open, and that were sealed since, count as sealed; returns their names.

    Not for the newest index: there, a seal that it does not know was not committed.
    """
    found = []
    with index_.reading() as reading:
        for state in reading.segments():
            path = directory / (state.stem + SEALED)
            is_open = not state.sealed and not (directory / (state.stem + OPEN)).exists()
            contents = _readable(path) if is_open else None
            if contents is not None:
                known = reading.open_segment(state).headers()["exemplar_id"]
                if np.array_equal(contents.headers["exemplar_id"][: len(known)], known):
                    found.append((state.id, path, len(contents.headers)))
    if found:
        with index_.writing() as transaction:
            for segment_id, path, num_records in found:
                transaction.seal(segment_id, path.stat().st_size, num_records)
    return [path.name for _, path, _ in found]


def adopt(
    data: Path, index_: SqlIndex, standing: Standing, holes: Mapping[int, NDArray[np.uint64]], report: Report
) -> tuple[list[SegmentState], dict[int, Seen]]:
    """Take in what the index has never heard of, or has lost.

    Args:
        holes: buffers of which segments cannot be read -> ids of the records in those that are known to be dead.
        report: is told what was taken in.

    Returns:
        the segments; and by buffer's id what its version and ids have to be beyond.
    """
    with index_.reading() as reading:
        files_ = reading.known_files()
        going = {stem for stem, leaving in files_.intents.items() if leaving}
        candidates = _candidates(data, files_.segments.keys(), going)
        targets = _targets(data, reading, holes) if candidates else []
    plan = _plan(candidates, targets, standing, report)
    if not plan:
        return [], {}
    places = _move_in(data / "segments", index_, plan, set(files_.segments))
    # All of it is one transaction: cut short, all of it is done again.
    with index_.writing() as transaction:
        taken = [_take_in(transaction, target, places, report) for target in plan]
    return [state for states, _, _ in taken for state in states], {id_: seen for _, id_, seen in taken}


def name_classes(data: Path, index_: SqlIndex) -> None:
    """Buffers get the names of classes that lie beside the index, as far as it does not say otherwise."""
    kept = NameFiles(data)
    with index_.reading() as reading:
        entries, contents = reading.buffers(), reading.contents()
    for entry in entries:
        known = contents[entry.config.id].names
        taken = set(known.values())
        new = {id_: name for id_, name in kept.read(entry.config).items() if id_ not in known and name not in taken}
        if new:
            with index_.writing() as transaction:
                transaction.insert_names(entry.config.id, new)


def _candidates(data: Path, known: Collection[str], going: set[str]) -> list[_Candidate]:
    """Sealed segments that can be read; the newest state of a buffer first."""
    found = []
    for directory, pattern, ours in (
        (data / "segments", OWN_NAME, {*known, *going}),
        (data / QUARANTINE, _ASIDE, set()),
    ):
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            name = pattern.fullmatch(path.name)
            contents = _readable(path) if name and name[1] not in ours and SEALED in path.name else None
            if name and contents is not None and len(contents.headers):
                found.append(_Candidate(path, name[1], contents, read_owner(contents.attributes)))
    return sorted(found, key=lambda one: (-one.seen.version, int(one.ids.min()), one.path.name))


def _readable(path: Path) -> SegmentContents | None:
    try:
        return read_contents(path)
    except (ValueError, OSError):
        return None


def _targets(data: Path, reading: Reading, holes: Mapping[int, NDArray[np.uint64]]) -> list[_Target]:
    """The buffers of the index, with what they hold."""
    found = []
    contents = reading.contents()
    for entry in reading.buffers():
        config = entry.config
        held: dict[int, int] = {}
        parts = [segment.headers() for segment in contents[config.id].open_segments.values()]
        for state in contents[config.id].segments:
            sealed = _readable(data / "segments" / (state.stem + SEALED)) if state.sealed else None
            if sealed is not None:
                parts.append(sealed.headers)
        for headers in parts:
            held.update(zip(headers["exemplar_id"].tolist(), headers["crc32"].tolist(), strict=True))
        found.append(_Target(entry, config, held, holes.get(config.id)))
    return found


def _plan(
    candidates: Sequence[_Candidate], targets: list[_Target], standing: Standing, report: Report
) -> list[_Target]:
    """Which buffers take which segments; those that the index does not know are made."""
    of_owner = {(target.config.name, target.config.created_at): target for target in targets}
    nameless: list[_Target] = []
    for candidate in candidates:
        owner = candidate.owner
        config = None if owner is None else _config_of(owner, {target.config.name for target in targets})
        if owner is not None and config is not None:
            target = of_owner.get((owner.name, owner.created_at))
            if target is None:
                target = of_owner[owner.name, owner.created_at] = _Target(None, config, {})
                targets.append(target)
            target.offer(candidate)
            continue
        # It does not say whose it is: of a buffer that holds some of its records, to the byte, and none that differ.
        crc_of = candidate.crc_of()
        shares = [
            target
            for target in targets
            if any(target.held.get(id_) == crc32 for id_, crc32 in crc_of.items()) and _agree(target.held, crc_of)
        ]
        if shares:
            shares[0].offer(candidate)
        elif standing.trusted:
            # A crash under an earlier version may have left it.
            report.nameless.append(candidate.path.name)
        else:
            fitting = [target for target in nameless if _agree(target.held, crc_of)]
            if not fitting:
                name = _free_name({target.config.name for target in targets})
                config = BufferConfig(0, name, Budget(budget_bytes=1), 1, "reject", _NAMELESS, time.time())
                fitting = [_Target(None, config, {}, sized=False)]
                nameless += fitting
                targets += fitting
            fitting[0].offer(candidate)
    return [target for target in targets if target.takes]


def _agree(held: Mapping[int, int], crc_of: Mapping[int, int]) -> bool:
    return all(held.get(id_, crc32) == crc32 for id_, crc32 in crc_of.items())


def _config_of(owner: Owner, names: set[str]) -> BufferConfig | None:
    """The settings that a segment states; under another name where that is taken."""
    free = owner.name if owner.name not in names else _free_name(names)
    try:
        return owner.config(free, "" if free == owner.name else f"recovered: an earlier buffer {owner.name!r}")
    except FormatError:
        return None


def _free_name(names: set[str]) -> str:
    number = 1
    while f"recovered-{number}" in names:
        number += 1
    return f"recovered-{number}"


def _move_in(directory: Path, index_: SqlIndex, plan: Sequence[_Target], known: set[str]) -> dict[Path, Path]:
    """Move the files of segments to where they belong; returns where each is then."""
    directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    places: dict[Path, Path] = {}
    for candidate in [candidate for target in plan for candidate, _ in target.takes]:
        stem = candidate.stem if candidate.stem not in known else index_.take_stem()
        known.add(stem)
        place = places[candidate.path] = directory / (stem + SEALED)
        if candidate.path != place:
            files.rename(candidate.path, place)
    files.sync_directory(directory)
    return places


def _take_in(
    transaction: Writing, target: _Target, places: Mapping[Path, Path], report: Report
) -> tuple[list[SegmentState], int, Seen]:
    """Make segments part of a buffer; returns them, the buffer's id, and the highest that they say of it."""
    seen = [candidate.seen for candidate, _ in target.takes]
    highest = Seen(max(one.version for one in seen), max(one.next_exemplar_id for one in seen))
    entry, name = target.entry, target.config.name
    if entry is None:
        figures = {"version": highest.version, "next_exemplar_id": highest.next_exemplar_id}
        entry = transaction.insert_buffer(_sized(target), **figures)
        report.made.append(name)
    buffer_id = entry.config.id
    classes: set[int] = set()
    states = []
    for candidate, wanted in target.takes:
        path, num = places[candidate.path], len(candidate.ids)
        stem, size = path.name.removesuffix(SEALED), path.stat().st_size
        id_ = transaction.insert_segment([buffer_id], stem=stem, file_bytes=size, num_records=num, sealed=True)
        dead = {"exemplar_id": candidate.ids[~wanted], "segment": np.full(int((~wanted).sum()), id_)}
        # Before every snapshot: none shows them.
        transaction.insert_deaths(buffer_id, dead, np.zeros(len(dead["segment"]), np.uint64))
        classes |= set(np.unique(candidate.contents.headers["class_id"][wanted]).tolist())
        states.append(SegmentState(id_, stem, size, num, True))
        report.recovered[name] = report.recovered.get(name, 0) + int(wanted.sum())
    transaction.insert_classes(buffer_id, classes - transaction.contents(buffer_id)[buffer_id].classes)
    return states, buffer_id, highest


def _sized(target: _Target) -> BufferConfig:
    if target.sized:
        return target.config
    held = sum(int(charge_of(candidate.contents.lengths)[wanted].sum()) for candidate, wanted in target.takes)
    return replace(target.config, budget=Budget(budget_bytes=held), budget_bytes=held)
