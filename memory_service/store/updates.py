"""Other scores, ranks and arrays for records that are stored: the change that gives them, all of it or nothing.

Scores and ranks are the index's, and change in place. A record with other arrays is a record of its own, which takes
the place of the one before (:mod:`memory_service.store.pure.revised`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, ConflictError, FormatError, checksum
from memory_format.api.answers import UpdateResponse
from memory_format.errors import at_index
from memory_format.revise import NewArray, revised
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.pure import eviction
from memory_service.store.pure.change import Change
from memory_service.store.pure.columns import Columns, Rows, charge_of, headers_of_rows
from memory_service.store.pure.revised import REVISED_DTYPE, among
from memory_service.store.pushes import candidates
from memory_service.store.reads import no_exemplar
from memory_service.store.tally import Tally


@dataclass(frozen=True)
class Update:
    """What is asked for; every sequence has as many items as there are ids."""

    exemplar_ids: Sequence[int]
    scores: Sequence[float] | None = None
    ranks: Sequence[int] | None = None
    arrays: Mapping[str, NewArray] | None = None
    revisions: Sequence[int] | None = None
    """How often the arrays of each were replaced, or nothing is done."""

    def check(self) -> None:
        """Refuse what cannot be meant, whatever the buffer holds. Raises ``FormatError`` (``invalid_request``): lists
        differ in length, an id comes twice, or a score is not finite."""
        given: list[Sized] = [values for values in (self.scores, self.ranks) if values is not None]
        given += [array.values for array in (self.arrays or {}).values()]
        if not given:
            raise FormatError("nothing to change: arrays, or scores, ranks or both are needed", code="invalid_request")
        if any(len(values) != len(self.exemplar_ids) for values in given):
            raise FormatError("as many scores, and as many ranks, as exemplar_ids are needed", code="invalid_request")
        if self.revisions is not None and len(self.revisions) != len(self.exemplar_ids):
            raise FormatError("as many if_revisions as exemplar_ids are needed", code="invalid_request")
        # Which of two values is meant? numpy takes the last; zarr 3.1.6, say, any (findings/zarr_positions_twice.sh).
        if len(np.unique(np.array(self.exemplar_ids, dtype=np.uint64))) != len(self.exemplar_ids):
            raise FormatError("an exemplar_id comes twice", code="invalid_request")
        if self.scores is not None and not np.isfinite(np.array(self.scores, np.float32)).all():
            raise FormatError("scores must be finite numbers", code="invalid_request")


@dataclass(frozen=True)
class Planned:
    """What comes of it."""

    change: Change
    updated: int
    """Records that have the values then."""
    missing: tuple[int, ...]
    """Ids that the buffer does not hold."""
    revisions: dict[int, int]
    """How often arrays of each are replaced then, of those of which any are."""
    evicted: tuple[int, ...]
    """Ids of the records that make room."""

    def held(self, columns: Columns) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Learners and charges of what is live after it, ``(N,)`` each."""
        stays = np.ones(columns.num_records, dtype=bool)
        stays[self.change.dead] = False
        learners = np.concatenate([columns["learner"][stays], self.change.new["learner"]])
        return learners, charge_of(np.concatenate([columns["length"][stays], self.change.new["length"]]))


def make(
    contents: Contents,
    commits: Commits,
    tally: Tally,
    wanted: Update,
    places: NDArray[np.int64],
) -> UpdateResponse:
    """Do what is asked for, for the holder of the buffer's lock. Arguments and errors are those of :func:`plan`, and
    ``learner_quota_exceeded``."""
    planned = plan(contents, wanted, places)
    change = planned.change
    if change.version > contents.state.version:
        if expect := commits.learner_quota.expecting(contents.learner_ids(change.new)):
            expect(*planned.held(contents.state.columns))
        commits.commit(change)
        if change.removes:
            commits.tidy(int(change.new["length"].sum()))
    tally.add(evicted=len(planned.evicted))
    known = (planned.updated, planned.missing, contents.state.version)
    return UpdateResponse(*known, revisions=planned.revisions, evicted=planned.evicted)


def plan(contents: Contents, wanted: Update, places: NDArray[np.int64]) -> Planned:
    """The change that does what is asked for.

    Args:
        places: of the records as they are stored, in the order of the ids; -1 where one is not held.

    Raises:
        ConflictError: ``precondition_failed``: of one the arrays were replaced since, and are not those given.
        NotFoundError: ``unknown_exemplar``: one is not held, and revisions are given.
        FormatError: values do not fit, with the ``index`` of the id.
        BudgetError: see :func:`memory_service.store.pure.eviction.plan`.
        StorageError: a record is damaged.
    """
    state, columns = contents.state, contents.state.columns
    missing = tuple(wanted.exemplar_ids[index] for index in np.flatnonzero(places < 0).tolist())
    if missing and wanted.revisions is not None:
        raise no_exemplar(state.config.name, missing[0])
    # In the order in which they are stored, from here on.
    asked = np.argsort(places, kind="stable")[len(missing) :]
    places = places[asked]
    before = columns.take(places)
    after = before.copy()
    if wanted.scores is not None:
        # -0.0 is 0.0 from the start, as in a push: SQLite would make it of it later (findings/sqlite_minus_zero.sh).
        after["score"] = np.array(wanted.scores, np.float32)[asked] + np.float32(0)
    if wanted.ranks is not None:
        after["rank"] = np.array(wanted.ranks, np.uint32)[asked]
    bodies = _replaced(contents, wanted, asked, before, after) if wanted.arrays else {}
    numbers = columns.revisions(before["exemplar_id"])
    _expect_revisions(wanted, asked, numbers, bodies)
    which = np.array(sorted(bodies), np.int64)
    numbers[which] += 1
    differs = (after["score"] != before["score"]) | (after["rank"] != before["rank"])
    differs[which] = False
    # A replacement is stored under an id that is new.
    new = after.take(which)
    new["exemplar_id"] = np.arange(state.next_id, state.next_id + len(which), dtype=np.uint64)
    said = np.zeros(len(which), REVISED_DTYPE)
    said["stored_id"], said["exemplar_id"] = new["exemplar_id"], contents.shown_ids(before.take(which))
    said["revision"], said["pushed_crc32"] = numbers[which], before["crc32"][which]
    known, earlier = among(columns.revised, before["exemplar_id"][which])
    said["pushed_crc32"][known] = earlier["pushed_crc32"]
    evicted = _evicted(contents, places, after)
    stays = ~np.isin(places, evicted)
    kept = np.flatnonzero(stays[which])
    rescored = np.flatnonzero(differs & stays)
    dead = np.union1d(evicted, places[which])
    version = state.version + bool(len(dead) or len(rescored))
    change = state.change(
        version=version,
        next_id=state.next_id + len(which),
        new=new[kept],
        bodies=[memoryview(bodies[place]) for place in which[kept].tolist()],
        revised=said[kept],
        dead=dead,
        died=np.full(len(dead), version, np.uint64),
        rescored=places[rescored],
        score=after["score"][rescored],
        rank=after["rank"][rescored],
    )
    ever = np.flatnonzero((numbers > 0) & stays)
    ids = np.array(wanted.exemplar_ids, np.uint64)[asked[ever]]
    return Planned(
        change,
        int(stays.sum()),
        missing,
        dict(zip(ids.tolist(), numbers[ever].tolist(), strict=True)),
        tuple(np.sort(contents.shown_ids(columns.take(evicted))).tolist()),
    )


def _replaced(
    contents: Contents, wanted: Update, asked: NDArray[np.int64], before: Rows, after: Rows
) -> dict[int, bytes]:
    """Place among the rows -> its new body, of those that come to have other arrays; ``after`` is made to fit."""
    num_bytes, limit = int(before["length"].sum(dtype=np.int64)), contents.options.max_response_bytes
    if num_bytes > limit:
        raise FormatError(
            f"the records take {num_bytes} bytes, of {limit} at most arrays are replaced at once; name fewer",
            code="batch_too_large",
            requested_bytes=num_bytes,
            limit=limit,
        )
    headers, bodies = headers_of_rows(before), {}
    columns = contents.state.columns
    numbers = (columns.revisions(before["exemplar_id"]) + np.uint64(1)).tolist()
    shown = contents.shown_ids(before).tolist()
    for place, (index, body) in enumerate(zip(asked.tolist(), contents.bodies_here(before), strict=True)):
        try:
            made = revised(headers[place], body, wanted.arrays or {}, index, (shown[place], numbers[place]))
        except FormatError as error:
            raise at_index(error, index) from None
        if made is not None:
            flags, bodies[place] = made
            after["flags"][place], after["length"][place] = flags, len(bodies[place])
            after["crc32"][place] = checksum.crc32(bodies[place])
    return bodies


def _expect_revisions(
    wanted: Update, asked: NDArray[np.int64], numbers: NDArray[np.uint64], bodies: Mapping[int, bytes]
) -> None:
    if wanted.revisions is None:
        return
    for place, (index, number) in enumerate(zip(asked.tolist(), numbers.tolist(), strict=True)):
        # Who asks again, as the answer was lost, finds it done (RFC 9110, 13.1.1).
        is_done = bool(wanted.arrays) and place not in bodies
        expected = wanted.revisions[index]
        if number != expected and not is_done:
            exemplar_id = wanted.exemplar_ids[index]
            raise ConflictError(
                f"exemplar {exemplar_id} is at revision {number}, {expected} was asked for",
                code="precondition_failed",
                index=index,
                exemplar_id=exemplar_id,
                revision=number,
                expected_revision=expected,
            )


def _evicted(contents: Contents, places: NDArray[np.int64], after: Rows) -> NDArray[np.int64]:
    """Places of the live records that make room where those at some places are as ``after`` has them."""
    state, config = contents.state, contents.state.config
    charges = charge_of(after["length"])
    grows = int(charges.sum()) - int(charge_of(state.columns.take(places)["length"]).sum())
    if state.columns.bytes_used + grows <= config.budget_bytes:
        return np.zeros(0, np.int64)
    if len(charges) and int(charges.max()) > config.budget_bytes:
        raise BudgetError(
            f"a record would take {charges.max()} bytes, the whole budget is {config.budget_bytes}",
            code="record_exceeds_budget",
            requested_bytes=int(charges.max()),
            budget_bytes=config.budget_bytes,
        )
    if config.eviction == "reject":
        raise BudgetError(
            f"the arrays take {grows} bytes more, {config.budget_bytes - state.columns.bytes_used} of "
            f"{config.budget_bytes} are free; nothing is evicted here",
            requested_bytes=grows,
            free_bytes=config.budget_bytes - state.columns.bytes_used,
            budget_bytes=config.budget_bytes,
        )
    found = candidates([state.columns], config)
    charge, score, rank = found.charge.copy(), found.score.copy(), found.rank.copy()
    charge[places], score[places], rank[places] = charges, after["score"], after["rank"]
    found = replace(found, charge=charge, score=score, rank=rank)
    keep = eviction.plan(config.eviction, found, len(charge), config.budget_bytes, config.learner_floor)
    return np.flatnonzero(~keep)
