"""Which records stay when not all of them fit. Pure functions of arrays: no clock, no randomness, no I/O.

A policy *orders* the records of each class and keeps the longest prefix that fits, so that a shrinking quota
only ever drops a suffix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError

EvictionPolicy = Literal["class_balanced", "reject"]
EVICTION_POLICIES: tuple[EvictionPolicy, ...] = get_args(EvictionPolicy)

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Candidates:
    """Records that compete for a budget, stored ones and incoming ones alike; every array is ``(N,)``."""

    class_id: IntArray
    rank: IntArray
    score: NDArray[np.float32]
    charge: IntArray
    """Bytes, at least 1."""
    order: IntArray
    """Age, ascending: the older of two equals stays."""


def water_fill(needs: IntArray, total: int) -> IntArray:
    """Share ``total`` equally: ``(C,)`` allotments, none above its need.

    What one does not need is shared among the rest (max-min fairness). All of ``total`` is given out when the
    needs reach it; shares that do not divide differ by one.
    """
    allotted = np.zeros(len(needs), dtype=np.int64)
    remaining, left = total, len(needs)
    for place in np.argsort(needs, kind="stable"):
        share = min(int(needs[place]), remaining // left)
        allotted[place] = share
        remaining -= share
        left -= 1
    return allotted


def class_balanced(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """Equal byte quotas for the classes present; ``(N,)`` bool, True = stays.

    Each class keeps its best records (rank ascending, then score descending, then the older) as the longest
    prefix that fits its quota. What the prefixes leave over, because records do not divide a quota exactly,
    goes to one more record a class at most, the class with the most unused quota first: without that, a
    budget of fewer bytes a class than one record takes would keep nothing.
    """
    charge = candidates.charge
    if int(charge.sum()) <= budget_bytes:
        return np.ones(len(charge), dtype=bool)
    ranked = np.lexsort((candidates.order, -candidates.score, candidates.rank, candidates.class_id))
    charge = charge[ranked]
    _, starts, counts = np.unique(candidates.class_id[ranked], return_index=True, return_counts=True)
    running = np.cumsum(charge)
    before = running[starts] - charge[starts]
    quotas = water_fill(np.add.reduceat(charge, starts), budget_bytes)
    stays = running - np.repeat(before, counts) <= np.repeat(quotas, counts)

    num_kept = np.add.reduceat(stays.astype(np.int64), starts)
    unused = quotas - np.add.reduceat(np.where(stays, charge, 0), starts)
    left_over = budget_bytes - int(charge[stays].sum())
    for place in np.argsort(-unused, kind="stable"):
        next_best = starts[place] + num_kept[place]
        if num_kept[place] < counts[place] and charge[next_best] <= left_over:
            stays[next_best] = True
            left_over -= int(charge[next_best])

    keep = np.zeros(len(charge), dtype=bool)
    keep[ranked] = stays
    return keep


def plan(policy: EvictionPolicy, candidates: Candidates, num_stored: int, budget_bytes: int) -> BoolArray:
    """Which of the candidates stay; the first ``num_stored`` are in the buffer already, the rest come in.

    Raises:
        BudgetError: ``record_exceeds_budget`` where an incoming record alone is over the budget;
            ``budget_exceeded`` where the policy is ``reject`` and the push does not fit.
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
    if policy == "class_balanced":
        return class_balanced(candidates, budget_bytes)
    requested = int(incoming.sum())
    free = budget_bytes - int(candidates.charge[:num_stored].sum())
    if requested > free:
        raise BudgetError(
            f"the push takes {requested} bytes, {free} of {budget_bytes} are free; nothing is evicted here",
            requested_bytes=requested,
            free_bytes=free,
            budget_bytes=budget_bytes,
        )
    return np.ones(len(candidates.charge), dtype=bool)
