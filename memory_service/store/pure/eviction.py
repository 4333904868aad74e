"""Which records stay when not all of them fit. Pure functions of arrays: no clock, no randomness, no I/O.

A policy *orders* the records (``class_balanced``: those of each class) and keeps the longest prefix that fits,
so that a shrinking budget only ever drops a suffix. The prefix ends at the first record that does not fit, even
where a smaller one further down would.

Where learners have a floor, each one's best records up to it, by the same policy, come before all others in that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError
from memory_format.api.terms import EvictionPolicy
from memory_service.store.pure.prefixes import (
    BoolArray,
    IntArray,
    cut_to,
    dense,
    level,
    longest_prefixes,
    sums,
    water_fill,
)


@dataclass(frozen=True)
class Candidates:
    """Records that compete for a budget, stored ones and incoming ones alike; every array is ``(N,)``."""

    class_id: IntArray
    rank: IntArray
    score: NDArray[np.float32]
    """Finite."""
    charge: IntArray
    """Bytes, at least 1; under 2**53 in all."""
    order: IntArray
    """Age, ascending: the older of two equals stays."""
    key: NDArray[np.uint64] | None = None
    """What :func:`reservoir_keys` gives; only ``reservoir`` needs it."""
    learner: NDArray[np.uint32] | None = None
    """Whose they are, as numbers from 0; only floors need it."""

    def take(self, places: IntArray | BoolArray | Sequence[int]) -> Candidates:
        """Those at some places."""
        return replace(self, **{name: column[places] for name, column in vars(self).items() if column is not None})


def reservoir_keys(draw_key: str, exemplar_ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``(N,)`` random 64-bit keys, each a function of the buffer's draw key and one id alone.

    The finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", with
    Stafford's constants, "Mix13") over the id xor a seed, the BLAKE2b of the key. It is a bijection: two ids of
    one buffer never share a key. Fixed for ever, as the keys of what has been dropped are not kept anywhere.
    """
    seed = int.from_bytes(hashlib.blake2b(draw_key.encode(), digest_size=8).digest(), "little")
    keys = np.asarray(exemplar_ids, dtype=np.uint64) ^ np.uint64(seed)
    keys ^= keys >> np.uint64(30)
    keys *= np.uint64(0xBF58476D1CE4E5B9)
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys


def class_balanced(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """Equal byte quotas for the classes present; ``(N,)`` bool, True = stays.

    Each class keeps its best records (rank ascending, then score descending, then the older) as the longest
    prefix that fits its quota. What the prefixes leave over, because records do not divide a quota exactly,
    goes to one more record a class at most, the class with the most unused quota first: without that, a
    budget of fewer bytes a class than one record takes would keep nothing.

    What the quotas alone keep under a budget is also kept under every larger one. The one more record a class
    is not bound to be: under a larger budget it may fall to another class. So of each class a smaller budget
    keeps at most one record that a larger one does not.
    """
    charge = candidates.charge
    if int(charge.sum()) <= budget_bytes:
        return np.ones(len(charge), dtype=bool)
    group, num_classes = dense(candidates.class_id)
    needs = sums(group, charge, num_classes)
    return cut_to(charge, _by_rank(candidates), group, needs, water_fill(needs, budget_bytes))


def lowest_score(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """The lowest score goes first, of equal ones the younger; ``(N,)`` bool, True = stays."""
    return _longest_prefix(candidates, _by_score(candidates), budget_bytes)


def fifo(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """The oldest goes first; ``(N,)`` bool, True = stays."""
    return _longest_prefix(candidates, _by_age(candidates), budget_bytes)


def reservoir(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """The records with the smallest keys; ``(N,)`` bool, True = stays.

    Where all charges are equal this is a uniform sample without replacement of everything that was ever offered,
    however it was split into pushes: the bottom-k form (Cohen & Kaplan 2007, "Summarizing data using bottom-k
    sketches") of reservoir sampling (Vitter 1985, "Random sampling with a reservoir"). A record that was dropped
    has a larger key than all that stay, so forgetting it loses nothing. Where charges differ, bytes that a
    dropped record left free may go to a later one with a larger key that is small enough.

    Raises:
        ValueError: the candidates have no keys.
    """
    return _longest_prefix(candidates, _by_key(candidates), budget_bytes)


def _by_rank(candidates: Candidates) -> list[NDArray[Any]]:
    return [candidates.rank, -candidates.score, candidates.order]


def _by_score(candidates: Candidates) -> list[NDArray[Any]]:
    return [-candidates.score, candidates.order]


def _by_age(candidates: Candidates) -> list[NDArray[Any]]:
    return [~candidates.order]


def _by_key(candidates: Candidates) -> list[NDArray[Any]]:
    if candidates.key is None:
        raise ValueError("a reservoir needs keys")
    return [candidates.key, candidates.order]


_EVICTIONS: Final[dict[str, Callable[[Candidates, int], BoolArray]]] = {
    "class_balanced": class_balanced,
    "lowest_score": lowest_score,
    "fifo": fifo,
    "reservoir": reservoir,
}

_ORDERS: Final[dict[str, Callable[[Candidates], list[NDArray[Any]]]]] = {
    "class_balanced": _by_rank,
    "lowest_score": _by_score,
    "fifo": _by_age,
    "reservoir": _by_key,
}


def with_floors(policy: EvictionPolicy, candidates: Candidates, budget_bytes: int, floor_bytes: int) -> BoolArray:
    """What a policy keeps where each learner has a floor; ``(N,)`` bool, True = stays.

    Where the policy leaves learners less than the floor, and less than they have, those of their records stay that it
    alone would keep of them in so many bytes. What that leaves of the budget goes to all others in the policy's order;
    a class's quota is as equal to the others' as what stays by a floor lets it be. Floors that do not fit the budget
    together are all lowered alike.
    """
    if candidates.learner is None:
        raise ValueError("floors need learners")
    charge = candidates.charge
    if int(charge.sum()) <= budget_bytes:
        return np.ones(len(charge), dtype=bool)
    learner, num_learners = dense(candidates.learner)
    held = sums(learner, charge, num_learners)
    floor = np.minimum(held, floor_bytes)
    if int(floor.sum()) > budget_bytes:
        floor = np.minimum(held, level(held, np.zeros_like(held), budget_bytes))
    if policy == "class_balanced":
        return _balanced_behind(candidates, budget_bytes, learner, held, floor)
    keep = _EVICTIONS[policy](candidates, budget_bytes)
    lacks = floor - _kept(keep, charge, learner, held)
    if (lacks <= 0).all():
        return keep
    # What some lack the others lose, and no more: who has so much over its floor keeps its best without.
    first = _by_floor(policy, candidates, learner, held, floor, lacks > -int(lacks[lacks > 0].sum()))
    places = np.flatnonzero(keep & ~first)
    first[places] = _EVICTIONS[policy](candidates.take(places), budget_bytes - int(charge[first].sum()))
    return first


def _balanced_behind(
    candidates: Candidates, budget_bytes: int, learner: IntArray, held: IntArray, floor: IntArray
) -> BoolArray:
    """What ``class_balanced`` keeps where learners, ``(N,)`` from 0, hold so many bytes and have these floors."""
    charge, keys = candidates.charge, _by_rank(candidates)
    group, num_classes = dense(candidates.class_id)
    needs = sums(group, charge, num_classes)
    keep = cut_to(charge, keys, group, needs, water_fill(needs, budget_bytes))
    first, least = np.zeros(len(charge), dtype=bool), np.zeros_like(needs)
    is_short = np.zeros(len(held), dtype=bool)
    # Each turn takes in more learners; those who have enough without are as well off with.
    while True:
        short = ~is_short & (_kept(keep, charge, learner, held) < floor)
        if not short.any():
            return keep
        is_short |= short
        by_floor = _by_floor("class_balanced", candidates, learner, held, floor, short)
        if not len(added := np.flatnonzero(by_floor)):
            continue  # Their floors have room for nothing: the others' quotas stay as they are.
        first |= by_floor
        least += sums(group[added], charge[added], num_classes)
        water = level(needs, least, budget_bytes)
        quotas = np.clip(water, least, needs)
        quotas[np.flatnonzero((least <= water) & (water < needs))[: budget_bytes - int(quotas.sum())]] += 1
        keep = cut_to(charge, keys, group, needs - least, quotas - least, beside=first)


def _kept(keep: BoolArray, charge: IntArray, learner: IntArray, held: IntArray) -> IntArray:
    """Bytes of each learner that stay, ``(L,)``."""
    lost = np.flatnonzero(~keep)
    return held - sums(learner[lost], charge[lost], len(held))


def _by_floor(
    policy: EvictionPolicy,
    candidates: Candidates,
    learner: IntArray,
    held: IntArray,
    floor: IntArray,
    of: BoolArray,
) -> BoolArray:
    """What a policy keeps of each of some learners in the bytes of its floor, ``(N,)``; ``of`` says whose, ``(L,)``."""
    first: BoolArray = (of & (floor == held))[learner]
    places = np.flatnonzero((of & (floor < held))[learner])
    if len(places):
        first[places] = _apart(policy, candidates, places, learner[places], int(floor.max()))
    return first


def _apart(policy: EvictionPolicy, candidates: Candidates, places: IntArray, learner: IntArray, room: int) -> BoolArray:
    """What a policy keeps of the records at some places, of each of their learners in so many bytes of its own."""
    keys, charge = [key[places] for key in _ORDERS[policy](candidates)], candidates.charge[places]
    if policy != "class_balanced":
        group, num_groups = dense(learner)
        return longest_prefixes(charge, keys, group, np.full(num_groups, room, dtype=np.int64))[0]
    class_of, num_classes = dense(candidates.class_id[places])
    group, num_groups = dense(learner * num_classes + class_of)
    owner = np.zeros(num_groups, dtype=np.int64)
    owner[group] = learner
    needs = sums(group, charge, num_groups)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    quotas = np.concatenate([water_fill(of_it, room) for of_it in np.split(needs, starts[1:])])
    return cut_to(charge, keys, group, needs, quotas, dense(owner)[0])


def plan(
    policy: EvictionPolicy,
    candidates: Candidates,
    num_stored: int,
    budget_bytes: int,
    learner_floor: float | None = None,
) -> BoolArray:
    """Which of the candidates stay; the first ``num_stored`` are in the buffer already, the rest come in.

    With nothing coming in (``num_stored == N``) it says what a buffer keeps under a smaller budget. A stored
    record may then be larger than the budget: it goes, and with it all that its policy ranks behind it.

    Args:
        learner_floor: what each learner keeps of the budget, as far as it has so much: a share, over 0 and up to 1.

    Raises:
        BudgetError: ``record_exceeds_budget`` where an incoming record alone is over the budget;
            ``budget_exceeded`` where the policy is ``reject`` and the push does not fit, or what is stored does
            not.
    """
    incoming = candidates.charge[num_stored:]
    if incoming.size and int(incoming.max()) > budget_bytes:
        index = int(np.flatnonzero(incoming > budget_bytes)[0])
        raise BudgetError(
            f"record {index} takes {incoming[index]} bytes, the whole budget is {budget_bytes}",
            code="record_exceeds_budget",
            index=index,
            requested_bytes=int(incoming[index]),
            budget_bytes=budget_bytes,
        )
    floor_bytes = None if learner_floor is None else int(learner_floor * budget_bytes)
    if policy == "reject":
        return _reject(candidates, num_stored, budget_bytes, floor_bytes)
    if floor_bytes is not None:
        return with_floors(policy, candidates, budget_bytes, floor_bytes)
    return _EVICTIONS[policy](candidates, budget_bytes)


def _reject(candidates: Candidates, num_stored: int, budget_bytes: int, floor_bytes: int | None) -> BoolArray:
    stored = int(candidates.charge[:num_stored].sum())
    if num_stored == len(candidates.charge):
        if stored > budget_bytes:
            raise BudgetError(
                f"the records stored take {stored} bytes, the new budget would be {budget_bytes}; nothing is evicted"
                " here, so the budget cannot go below what is stored",
                requested_bytes=stored,
                free_bytes=budget_bytes,
                budget_bytes=budget_bytes,
            )
        return np.ones(num_stored, dtype=bool)
    requested = int(candidates.charge[num_stored:].sum())
    kept_free = _kept_free(candidates, num_stored, budget_bytes, floor_bytes) if floor_bytes else 0
    free = max(0, budget_bytes - stored - kept_free)
    if requested > free:
        raise BudgetError(
            f"the push takes {requested} bytes, {free} of {budget_bytes} are free; nothing is evicted here",
            requested_bytes=requested,
            free_bytes=free,
            budget_bytes=budget_bytes,
        )
    return np.ones(len(candidates.charge), dtype=bool)


def _kept_free(candidates: Candidates, num_stored: int, budget_bytes: int, floor_bytes: int) -> int:
    """Bytes by which others than those who push are under their floor; 0 where all of these stay within theirs."""
    assert candidates.learner is not None, "floors need learners"
    learner, num_learners = dense(candidates.learner)
    floor = min(floor_bytes, budget_bytes // num_learners)
    held = sums(learner, candidates.charge, num_learners)
    pushing = np.zeros(num_learners, dtype=bool)
    pushing[learner[num_stored:]] = True
    if (held[pushing] <= floor).all():
        return 0
    return int(np.maximum(floor - held[~pushing], 0).sum())


def _longest_prefix(candidates: Candidates, keys: Sequence[NDArray[Any]], budget_bytes: int) -> BoolArray:
    """Of all records in the order of ``keys``."""
    charge = candidates.charge
    if int(charge.sum()) <= budget_bytes:
        return np.ones(len(charge), dtype=bool)
    group = np.zeros(len(charge), dtype=np.int64)
    return longest_prefixes(charge, keys, group, np.array([budget_bytes], dtype=np.int64))[0]
