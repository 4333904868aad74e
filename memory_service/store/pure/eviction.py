"""Which records stay when not all of them fit. Pure functions of arrays: no clock, no randomness, no I/O.

A policy *orders* the records (``class_balanced``: those of each class) and keeps the longest prefix that fits,
so that a shrinking budget only ever drops a suffix. The prefix ends at the first record that does not fit, even
where a smaller one further down would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError
from memory_format.api.terms import EvictionPolicy

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_FEW: Final = 1 << 14
"""As many records are sorted without narrowing them down first."""
_CELLS: Final = 1 << 16
"""Histogram cells that stay in a core's cache."""


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


def water_fill(needs: IntArray, total: int) -> IntArray:
    """Share ``total`` equally: ``(C,)`` allotments, none above its need.

    What one does not need is shared among the rest (max-min fairness). All of ``total`` is given out when the
    needs reach it; shares that do not divide differ by one. No share shrinks when ``total`` grows.
    """
    ascending = np.argsort(needs, kind="stable")
    shares = []
    remaining, left = total, len(needs)
    for need in needs[ascending].tolist():
        share = min(need, remaining // left)
        shares.append(share)
        remaining -= share
        left -= 1
    allotted = np.zeros(len(needs), dtype=np.int64)
    allotted[ascending] = shares
    return allotted


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
    group, num_classes = _dense(candidates.class_id)
    # Exact: charges come to less than 2**53.
    needs = np.bincount(group, weights=charge, minlength=num_classes).astype(np.int64)
    quotas = water_fill(needs, budget_bytes)

    # Only classes over their quota lose records; the others are not looked at again.
    is_cut = needs > quotas
    cut = np.flatnonzero(is_cut)
    keys: list[NDArray[Any]] = [candidates.rank, -candidates.score, candidates.order]
    if len(cut) == num_classes:
        keep, next_best, unused = _longest_prefixes(charge, keys, group, quotas)
    else:
        places = np.flatnonzero(is_cut[group])
        group = (np.cumsum(is_cut) - 1)[group[places]]
        narrowed = [key[places] for key in keys]
        kept, next_best, unused = _longest_prefixes(charge[places], narrowed, group, quotas[cut])
        keep = np.ones(len(charge), dtype=bool)
        keep[places] = kept
        next_best = places[next_best]

    left_over = int(unused.sum())
    for place in next_best[np.argsort(-unused, kind="stable")].tolist():
        if charge[place] <= left_over:
            keep[place] = True
            left_over -= int(charge[place])
        if left_over == 0:
            break
    return keep


def lowest_score(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """The lowest score goes first, of equal ones the younger; ``(N,)`` bool, True = stays."""
    return _longest_prefix(candidates, [-candidates.score, candidates.order], budget_bytes)


def fifo(candidates: Candidates, budget_bytes: int) -> BoolArray:
    """The oldest goes first; ``(N,)`` bool, True = stays."""
    return _longest_prefix(candidates, [~candidates.order], budget_bytes)


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
    if candidates.key is None:
        raise ValueError("a reservoir needs keys")
    return _longest_prefix(candidates, [candidates.key, candidates.order], budget_bytes)


_EVICTIONS: Final[dict[str, Callable[[Candidates, int], BoolArray]]] = {
    "class_balanced": class_balanced,
    "lowest_score": lowest_score,
    "fifo": fifo,
    "reservoir": reservoir,
}


def plan(policy: EvictionPolicy, candidates: Candidates, num_stored: int, budget_bytes: int) -> BoolArray:
    """Which of the candidates stay; the first ``num_stored`` are in the buffer already, the rest come in.

    With nothing coming in (``num_stored == N``) it says what a buffer keeps under a smaller budget. A stored
    record may then be larger than the budget: it goes, and with it all that its policy ranks behind it.

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
    if policy == "reject":
        return _reject(candidates, num_stored, budget_bytes)
    return _EVICTIONS[policy](candidates, budget_bytes)


def _reject(candidates: Candidates, num_stored: int, budget_bytes: int) -> BoolArray:
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
    free = budget_bytes - stored
    if requested > free:
        raise BudgetError(
            f"the push takes {requested} bytes, {free} of {budget_bytes} are free; nothing is evicted here",
            requested_bytes=requested,
            free_bytes=free,
            budget_bytes=budget_bytes,
        )
    return np.ones(len(candidates.charge), dtype=bool)


def _longest_prefix(candidates: Candidates, keys: Sequence[NDArray[Any]], budget_bytes: int) -> BoolArray:
    """Of all records in the order of ``keys``."""
    charge = candidates.charge
    if int(charge.sum()) <= budget_bytes:
        return np.ones(len(charge), dtype=bool)
    group = np.zeros(len(charge), dtype=np.int64)
    return _longest_prefixes(charge, keys, group, np.array([budget_bytes], dtype=np.int64))[0]


def _longest_prefixes(
    charge: IntArray, keys: Sequence[NDArray[Any]], group: IntArray, room: IntArray
) -> tuple[BoolArray, IntArray, IntArray]:
    """The longest prefix of each group that fits its room.

    Sorting everything is not needed to tell where a prefix ends. As in a radix sort from the top digit down,
    one histogram of the bytes a digit's value holds tells, for each group, which values are inside the prefix
    and which behind it; only the records of the one value on the boundary take part in the next round. When few
    are left, they are sorted.

    Args:
        charge: ``(N,)`` bytes, at least 1.
        keys: ``(N,)`` each, the first one decides, ascending; equals stay in the order given.
        group: ``(N,)`` in ``[0, G)``, every group present.
        room: ``(G,)`` bytes, less than each group's records take.

    Returns:
        which records are in them, ``(N,)``; the first record behind each, ``(G,)``; and the bytes that each leaves of
        its group's room, ``(G,)``.
    """
    room = room.copy()
    num_groups = len(room)
    keep = np.zeros(len(charge), dtype=bool)
    places, groups, held = np.arange(len(charge)), group, charge.astype(np.float64)
    widest = max((_CELLS // num_groups).bit_length() - 1, 2)
    # One record of each group is on its boundary to the end.
    few = max(_FEW, 2 * num_groups)
    for key in keys:
        if len(places) <= few:
            break
        digits = _ascending_bits(key[places])
        while len(places) > few:
            digits -= digits.min()
            num_bits = int(digits.max()).bit_length()
            if num_bits == 0:
                break
            width = min(num_bits, widest)
            shift = np.uint64(num_bits - width)
            digit = (digits >> shift).astype(np.int64)
            # Sums of integers in floating point: exact under 2**53.
            sums = np.bincount((groups << width) | digit, weights=held, minlength=num_groups << width)
            running = np.zeros((num_groups, (1 << width) + 1))
            np.cumsum(sums.reshape(num_groups, -1), axis=1, out=running[:, 1:])
            boundary = np.count_nonzero(running[:, 1:] <= room[:, None], axis=1)
            room -= running[np.arange(num_groups), boundary].astype(np.int64)
            boundary_of = boundary[groups]
            keep[places[digit < boundary_of]] = True
            undecided = np.flatnonzero(digit == boundary_of)
            places, groups, held = places[undecided], groups[undecided], held[undecided]
            digits = digits[undecided] & ((np.uint64(1) << shift) - np.uint64(1))

    ranked = np.lexsort((*(key[places] for key in reversed(keys)), groups))
    places, groups = places[ranked], groups[ranked]
    charge = charge[places]
    # Every group is still here: its room ends before its records do.
    starts = np.searchsorted(groups, np.arange(num_groups))
    running_sum = np.cumsum(charge)
    before = running_sum[starts] - charge[starts]
    fits = running_sum - before[groups] <= room[groups]
    keep[places[fits]] = True
    used = np.add.reduceat(np.where(fits, charge, 0), starts)
    next_best = places[starts + np.add.reduceat(fits.astype(np.int64), starts)]
    return keep, next_best, room - used


def _ascending_bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Unsigned numbers in the order of ``values``, which are integers or finite floats; a copy."""
    if values.dtype.kind == "u":
        return values.astype(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    # IEEE 754 orders as sign and magnitude; adding 0 makes -0.0, which equals 0.0, the same bits as it.
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) != 0
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def _dense(class_id: NDArray[Any]) -> tuple[IntArray, int]:
    """``(N,)`` class ids as ``0, 1, ... C - 1`` in ascending order, and C; N at least 1."""
    lowest = class_id.min()
    span = int(class_id.max()) - int(lowest) + 1
    if span > max(4 * len(class_id), _CELLS):
        classes, group = np.unique(class_id, return_inverse=True)
        return group, len(classes)
    offsets = (class_id - lowest).astype(np.int64)
    present = np.bincount(offsets, minlength=span) > 0
    codes = np.cumsum(present) - 1
    return codes[offsets], int(codes[-1]) + 1
