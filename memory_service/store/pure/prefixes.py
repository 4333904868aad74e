"""Groups of things in an order, and how much of each fits so many bytes. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_FEW: Final = 1 << 14
"""As many records are sorted without narrowing them down first."""
_CELLS: Final = 1 << 16
"""Histogram cells that stay in a core's cache."""


def water_fill(needs: IntArray, total: int) -> IntArray:
    """Share ``total`` equally: ``(C,)`` allotments, none above its need.

    What one does not need is shared among the rest (max-min fairness). All of ``total`` is given out when the
    needs reach it; shares that do not divide differ by one. No share shrinks when ``total`` grows.
    """
    ascending = np.argsort(needs, kind="stable")
    shares = needs[ascending]
    left = np.arange(len(needs), 0, -1)
    remaining = total - (np.cumsum(shares) - shares)
    wanting = np.flatnonzero(shares > remaining // left)
    if len(wanting):
        first = int(wanting[0])
        share, over = divmod(int(remaining[first]), int(left[first]))
        shares[first:] = share
        shares[len(shares) - over :] += 1
    allotted = np.zeros(len(needs), dtype=np.int64)
    allotted[ascending] = shares
    return allotted


def level(needs: IntArray, least: IntArray, total: int) -> int:
    """The highest level at which groups, filled to it but none above its need or below its least, take no more than
    ``total``, which lies between what all take at least and at most."""
    low, high = 0, int(needs.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.clip(middle, least, needs).sum()) <= total:
            low = middle
        else:
            high = middle - 1
    return low


def sums(group: IntArray, values: IntArray, num_groups: int) -> IntArray:
    """``(G,)``; exact, as charges come to less than 2**53."""
    return np.bincount(group, weights=values, minlength=num_groups).astype(np.int64)


def cut_to(
    charge: IntArray,
    keys: Sequence[NDArray[Any]],
    group: IntArray,
    needs: IntArray,
    quotas: IntArray,
    owner: IntArray | None = None,
    beside: BoolArray | None = None,
) -> BoolArray:
    """The longest prefix of each group that fits its quota, and of what those leave over one more record a group.

    Args:
        needs, quotas: ``(G,)`` bytes of all of a group, and those that it may keep, no more.
        owner: ``(G,)`` from 0: who gets what a group leaves over; None = all the same.
        beside: ``(N,)`` which records stay anyway, and are in no group's bytes.
    """
    num_classes = len(needs)
    # Only classes over their quota lose records; the others are not looked at again.
    is_cut = needs > quotas
    cut = np.flatnonzero(is_cut)
    if len(cut) == num_classes and beside is None:
        keep, next_best, unused = longest_prefixes(charge, keys, group, quotas)
    else:
        places = np.flatnonzero(is_cut[group] if beside is None else is_cut[group] & ~beside)
        group = (np.cumsum(is_cut) - 1)[group[places]]
        narrowed = [key[places] for key in keys]
        kept, next_best, unused = longest_prefixes(charge[places], narrowed, group, quotas[cut])
        keep = np.ones(len(charge), dtype=bool)
        keep[places] = kept
        next_best = places[next_best]

    owner = np.zeros(len(cut), dtype=np.int64) if owner is None else owner[cut]
    left_over = sums(owner, unused, int(owner.max()) + 1).tolist()
    remaining = sum(left_over)
    order = np.argsort(-unused, kind="stable")
    for place, of in zip(next_best[order].tolist(), owner[order].tolist(), strict=True):
        taken = int(charge[place])
        if taken <= left_over[of]:
            keep[place] = True
            left_over[of] -= taken
            remaining -= taken
        if remaining == 0:
            break
    return keep


def longest_prefixes(
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


def dense(class_id: NDArray[Any]) -> tuple[IntArray, int]:
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
