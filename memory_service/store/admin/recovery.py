"""Sealed segments that the index does not know, taken into it again: what they say of themselves is enough.

Called by ``memory-service repair`` for files in ``segments/`` and ``quarantine/``. What the index says stays: a record
whose id it has given is dead or somewhere else, unless the segment that held it is missing. What no segment says, and
so nobody can know, is in :data:`UNKNOWN`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError
from memory_service.store.admin import quarantine
from memory_service.store.index.base import BufferEntry, Reading
from memory_service.store.index.inspection import Mending, inspecting, mending
from memory_service.store.index.opening import Standing
from memory_service.store.index.sql import SqlIndex
from memory_service.store.pure.columns import charge_of
from memory_service.store.pure.model import Budget, BufferConfig
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments import files
from memory_service.store.segments.files import OPEN, OWN_NAME, SEALED
from memory_service.store.segments.layout import SegmentContents, read_contents
from memory_service.store.segments.owner import Owner, read_owner

logger = logging.getLogger(__name__)

UNKNOWN: Final = (
    "records that were evicted or deleted since the index was written may be back, as far as the budget has room",
    "scores and ranks are those of when the records were written or moved",
    "snapshots, descriptions and idempotency keys since are gone: a push that is sent again is stored again",
    "records of open segments that the index has no headers of are not readable; their files lie in quarantine/",
    "a fork holds only what it has written itself, where the index does not know it",
)
"""What cannot be known of a store whose index was missing or older than its segments."""

LEAP: Final = 1_000_000
"""Ids and versions that a buffer passes over after a recovery: the index that is gone may have given them."""

_ASIDE: Final = re.compile(r"([0-9a-f]{32})\.zarr\.zip(\.\d+)?")


@dataclass(frozen=True)
class Hole:
    """Records of a buffer that the index speaks of and whose segments cannot be read."""

    dead: NDArray[np.uint64]
    """Ids of those that are known to be dead."""


@dataclass(frozen=True)
class Seen:
    """The highest that segments say of a buffer."""

    version: int
    next_exemplar_id: int


@dataclass
class Recovered:
    """What was taken in."""

    states: list[SegmentState] = field(default_factory=list)
    records: dict[str, int] = field(default_factory=dict)
    """Buffer -> records that were not in it before."""
    seen: dict[int, Seen] = field(default_factory=dict)
    """Buffer id -> what versions and ids have to be beyond."""
    made: list[str] = field(default_factory=list)
    """Buffers that the index did not know."""
    nameless: list[str] = field(default_factory=list)
    """Files that name no buffer and were left where they are."""


@dataclass(frozen=True)
class _Candidate:
    path: Path
    stem: str
    contents: SegmentContents
    owner: Owner | None

    @property
    def ids(self) -> NDArray[np.uint64]:
        ids: NDArray[np.uint64] = self.contents.headers["exemplar_id"]
        return ids

    def crc_of(self) -> dict[int, int]:
        return dict(zip(self.ids.tolist(), self.contents.headers["crc32"].tolist(), strict=True))

    @property
    def seen(self) -> Seen:
        of_ids = int(self.ids.max()) + 1 if len(self.ids) else 1
        if self.owner is None:
            return Seen(0, of_ids)
        return Seen(self.owner.version, max(of_ids, self.owner.next_exemplar_id))


@dataclass
class _Target:
    """A buffer that segments are taken into."""

    entry: BufferEntry | None
    """Of the index, or None for one that is made."""
    config: BufferConfig
    held: dict[int, int]
    """Exemplar id -> CRC-32 of all records in its segments, dead ones too."""
    hole: Hole | None = None
    sized: bool = True
    """Whether the budget is known; else it becomes what is taken in."""
    takes: list[tuple[_Candidate, NDArray[np.bool_]]] = field(default_factory=list)
    """Segments, and which of their records count."""

    def offer(self, candidate: _Candidate) -> None:
        ids = candidate.ids
        wanted = ~np.isin(ids, np.fromiter(self.held, np.uint64, len(self.held)))
        if self.entry is not None:
            news = ids >= np.uint64(self.entry.next_exemplar_id)
            if self.hole is not None:
                news |= ~np.isin(ids, self.hole.dead)
            wanted &= news
        if wanted.any():
            self.takes.append((candidate, wanted))
            for id_, crc32 in candidate.crc_of().items():
                self.held.setdefault(id_, crc32)


def take_over_seals(index_: SqlIndex, directory: Path) -> list[str]:
    """Segments that the index calls open and that were sealed since count as sealed, with all that they hold.

    Only for an index that is older than its files; otherwise the seal was not committed.
    """
    taken = []
    with inspecting(index_) as inspection:
        found = [
            (state, path, contents, inspection.open_segment(state).headers()["exemplar_id"])
            for state in inspection.segments()
            if not state.sealed and (contents := _readable(path := directory / (state.stem + SEALED))) is not None
        ]
    for state, path, contents, known in found:
        if (directory / (state.stem + OPEN)).exists() or not np.array_equal(
            contents.headers["exemplar_id"][: len(known)], known
        ):
            continue
        with mending(index_) as transaction:
            transaction.seal(state.id, path.stat().st_size, len(contents.headers))
        taken.append(path.name)
    return taken


def adopt(data: Path, index_: SqlIndex, standing: Standing, holes: Mapping[int, Hole]) -> Recovered:
    """Take in what the index has never heard of, or has lost.

    Args:
        holes: buffer id -> what of it cannot be read.
    """
    recovered = Recovered()
    with index_.reading() as reading:
        files_ = reading.known_files()
        known = set(files_.segments)
        candidates = list(_candidates(data, known, {stem for stem, leaving in files_.intents.items() if leaving}))
        if not candidates:
            return recovered
        targets = _targets(data, reading, holes)
    plan = _plan(candidates, targets, standing, recovered)
    if plan:
        _take_in(data, index_, plan, known, recovered)
    return recovered


def _candidates(data: Path, known: set[str], going: set[str]) -> Iterator[_Candidate]:
    """Sealed segments that can be read; the newest state of a buffer first."""
    found = []
    for directory, pattern in ((data / "segments", OWN_NAME), (data / quarantine.NAME, _ASIDE)):
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            name = pattern.fullmatch(path.name)
            inside = directory.name == "segments"
            if name is None or (inside and (name[1] in known or name[1] in going)):
                continue
            contents = _readable(path) if SEALED in path.name else None
            if contents is not None and len(contents.headers):
                found.append(_Candidate(path, name[1], contents, read_owner(contents.attributes)))
    return iter(sorted(found, key=lambda one: (-one.seen.version, int(one.ids.min()), one.path.name)))


def _readable(path: Path) -> SegmentContents | None:
    try:
        return read_contents(path)
    except (ValueError, OSError):
        return None


def _targets(data: Path, reading: Reading, holes: Mapping[int, Hole]) -> list[_Target]:
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
    candidates: Sequence[_Candidate], targets: list[_Target], standing: Standing, recovered: Recovered
) -> list[_Target]:
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
        # Of a version that did not say: whoever holds some of its records, to the byte, and none that differ.
        crc_of = candidate.crc_of()
        shares = [
            target
            for target in targets
            if any(target.held.get(id_) == crc32 for id_, crc32 in crc_of.items()) and _agree(target.held, crc_of)
        ]
        if shares:
            shares[0].offer(candidate)
        elif standing.trusted:
            # What a crash under an earlier version has left looks just so.
            recovered.nameless.append(candidate.path.name)
        else:
            fitting = [target for target in nameless if _agree(target.held, crc_of)]
            if not fitting:
                name = _free_name({target.config.name for target in targets})
                fitting = [_Target(None, _made_up(name), {}, sized=False)]
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


def _made_up(name: str) -> BufferConfig:
    budget = Budget(budget_bytes=1)
    words = "recovered from segments that do not say whose they are; nothing is evicted, the budget is what they hold"
    return BufferConfig(0, name, budget, 1, "reject", words, time.time())


def _free_name(names: set[str]) -> str:
    number = 1
    while f"recovered-{number}" in names:
        number += 1
    return f"recovered-{number}"


def _take_in(data: Path, index_: SqlIndex, plan: Sequence[_Target], known: set[str], recovered: Recovered) -> None:
    """Move the files to where they belong, then one transaction for all of them: cut short, all of it is done again."""
    directory = data / "segments"
    directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    places: dict[Path, Path] = {}
    for target in plan:
        for candidate, _ in target.takes:
            stem = candidate.stem if candidate.stem not in known else index_.take_stem()
            known.add(stem)
            place = places[candidate.path] = directory / (stem + SEALED)
            if candidate.path != place:
                files.rename(candidate.path, place)
    files.sync_directory(directory)
    with mending(index_) as transaction:
        for target in plan:
            _take_in_one(transaction, target, places, recovered)


def _take_in_one(transaction: Mending, target: _Target, places: Mapping[Path, Path], recovered: Recovered) -> None:
    seen = [candidate.seen for candidate, _ in target.takes]
    highest = Seen(max(one.version for one in seen), max(one.next_exemplar_id for one in seen))
    entry = target.entry
    if entry is None:
        entry = _make(transaction, target, highest)
        recovered.made.append(target.config.name)
    buffer_id = entry.config.id
    classes: set[int] = set()
    for candidate, wanted in target.takes:
        stem, size = places[candidate.path].name.removesuffix(SEALED), places[candidate.path].stat().st_size
        num = len(candidate.ids)
        segment_id = transaction.insert_sealed([buffer_id], stem, size, num)
        dead = {"exemplar_id": candidate.ids[~wanted], "segment": np.full(int((~wanted).sum()), segment_id)}
        # Before every snapshot: none shows them.
        transaction.insert_deaths(buffer_id, dead, np.zeros(len(dead["segment"]), np.uint64))
        classes |= set(np.unique(candidate.contents.headers["class_id"][wanted]).tolist())
        recovered.states.append(SegmentState(segment_id, stem, size, num, True))
        count = recovered.records.get(target.config.name, 0)
        recovered.records[target.config.name] = count + int(wanted.sum())
    transaction.insert_classes(buffer_id, classes - transaction.contents(buffer_id)[buffer_id].classes)
    recovered.seen[buffer_id] = highest


def _make(transaction: Mending, target: _Target, highest: Seen) -> BufferEntry:
    config = target.config
    if not target.sized:
        held = sum(int(charge_of(candidate.contents.lengths)[wanted].sum()) for candidate, wanted in target.takes)
        config = replace(config, budget=Budget(budget_bytes=held), budget_bytes=held)
    figures = {"version": highest.version, "next_exemplar_id": highest.next_exemplar_id}
    return transaction.insert_buffer(config, **figures)
