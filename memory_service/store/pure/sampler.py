"""Which records a batch draws. Pure functions of (draw key, version, seed, stream, step): the same in any process, for
ever.

Numbers come from Philox's raw 64-bit stream, which NumPy keeps stable, and are mapped to ranges here; what
``numpy.random.Generator`` makes of the same stream may change between versions of NumPy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from memory_format import FormatError, NotFoundError
from memory_format.api.terms import Strategy, part_of
from memory_service.store.pure.selection import EVERYTHING, Filter, Groups, Indices, Selection, Weights


@dataclass(frozen=True)
class SampleRequest:
    """What to draw. The same request on the same version of a buffer gives the same batch."""

    batch_size: int
    seed: int = 0
    step: int = 0
    strategy: Strategy = "uniform"
    replace: bool = True
    where: Filter = EVERYTHING
    repair_text: float = 0.0
    """Probability that a drawn record gets the text of another record of its class."""
    version: int | None = None
    """Draw only if the buffer is at this version."""
    snapshot: str | None = None
    """Draw from the records of this snapshot: the buffer's affair. The batch is the one that the buffer gave at
    the snapshot's version."""
    stream: str = ""
    """A draw of another stream is independent of this one, whatever else is the same."""
    part: int = 0
    parts: int = 1
    """Of the batch, cut into so many parts of as equal a size as there is, give that one: as they are drawn, all
    parts one after another are the batch."""


@dataclass(frozen=True)
class Draw:
    """Positions of the records drawn, ``(B,)`` in drawing order, and whose text each of them carries."""

    positions: Indices
    text_from: Indices

    @property
    def swapped(self) -> Indices:
        """Places of those that carry another record's text."""
        if self.text_from is self.positions:
            return self.positions[:0]
        return np.flatnonzero(self.text_from != self.positions)


def draw(selection: Selection, request: SampleRequest, *, draw_key: str, version: int) -> Draw:
    """Draw a batch, or one of its parts.

    Costs what the batch takes, and for ``class_balanced`` without replacement a pass in NumPy over the classes'
    counts; only the first batch of a selection pays for grouping or weighing all of its records.

    Raises:
        NotFoundError: ``no_matching_exemplars``.
        FormatError: ``invalid_query`` where more are asked for without replacement than there are, or
            ``score_weighted`` finds no positive score, or without replacement not as many as asked for.
    """
    if selection.num == 0:
        raise NotFoundError("no exemplar of the buffer matches", code="no_matching_exemplars", version=version)
    if not request.replace and request.batch_size > selection.num:
        raise FormatError(
            f"{request.batch_size} exemplars were asked for without replacement, {selection.num} match",
            code="invalid_query",
            batch_size=request.batch_size,
            matching=selection.num,
        )
    key: list[str | int] = [draw_key, version, request.seed, request.step, request.strategy]
    # What was drawn before there were streams stays as it was.
    stream = [request.stream] if request.stream else []
    numbers = _Numbers([*key, "draw", *stream])
    if request.strategy == "uniform":
        places = _choose(numbers, selection.num, request.batch_size, request.replace)
        positions = selection.at(places)
    elif request.strategy == "class_balanced":
        draw_places = _balanced if request.replace else _balanced_without_replacement
        positions = selection.groups.positions[draw_places(numbers, selection.groups, request.batch_size)]
    else:
        _check_scores(selection, request)
        weights, count = selection.weights, request.batch_size
        if request.replace:
            places = weights.places_of(numbers.below_total(weights.total, count))
        else:
            places = _weighted_without_replacement(numbers, weights, count)
        positions = selection.at(places)
    mine = part_of(request.batch_size, request.part, request.parts)
    drawn = positions[mine]
    if request.repair_text == 0:
        return Draw(drawn, drawn)
    donors = _text_donors(_Numbers([*key, "text", *stream]), selection.groups, positions, request.repair_text)
    return Draw(drawn, donors[mine])


def _check_scores(selection: Selection, request: SampleRequest) -> None:
    positive = selection.weights.num_positive
    if positive == 0:
        raise FormatError(
            f"score_weighted draws records with a positive score, none of the {selection.num} that match has one",
            code="invalid_query",
            matching=selection.num,
            positive=0,
        )
    if not request.replace and request.batch_size > positive:
        raise FormatError(
            f"{request.batch_size} exemplars were asked for without replacement; of the {selection.num} that match,"
            f" {positive} have a positive score, and score_weighted draws only those",
            code="invalid_query",
            batch_size=request.batch_size,
            matching=selection.num,
            positive=positive,
        )


class _Key(ISeedSequence):
    """Gives a generator its key as it is. Philox takes a ``key`` too, and asks the system for entropy all the same
    (findings/numpy_philox_key_entropy.sh), which takes twice as long as all the rest."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        return self._words


class _Numbers:
    """A stream of random numbers that depends on nothing but its key."""

    def __init__(self, key: list[str | int]) -> None:
        digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
        # numpy's types name only one of the classes that it takes.
        self._philox = np.random.Philox(_Key(np.frombuffer(digest, dtype="<u8")))  # type: ignore[arg-type]

    def below(self, bounds: Indices | int, count: int) -> Indices:
        """``(count,)`` integers, each in ``[0, bound)``; bounds under 2**32.

        The high 32 bits scaled to the bound: no value is favoured by more than bound / 2**32.
        """
        raw = self._philox.random_raw(count) >> np.uint64(32)
        return ((raw * np.asarray(bounds, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

    def below_total(self, total: int, count: int) -> NDArray[np.uint64]:
        """``(count,)`` integers in ``[0, total)``; total up to 2**64 - 1.

        The high 64 bits of the 128-bit product: a range of values is favoured by no more than 2**-64, whatever
        its width. In 32-bit halves, as numpy has nothing wider than 64 bits.
        """
        raw = self._philox.random_raw(count)
        half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
        raw_high, raw_low = raw >> half, raw & low
        total_high, total_low = np.uint64(total >> 32), np.uint64(total & 0xFFFFFFFF)
        cross = raw_high * total_low + ((raw_low * total_low) >> half)
        carry = (cross & low) + raw_low * total_high
        values: NDArray[np.uint64] = raw_high * total_high + (cross >> half) + (carry >> half)
        return values

    def unit(self, count: int) -> NDArray[np.float64]:
        """``(count,)`` numbers in ``[0, 1)``."""
        return np.asarray(self._philox.random_raw(count) >> np.uint64(11), dtype=np.float64) * 2.0**-53


def _choose(numbers: _Numbers, num: int, count: int, replace: bool) -> Indices:
    """``(count,)`` of ``range(num)`` in random order, at a cost of O(count)."""
    if replace:
        return numbers.below(num, count)
    return _distinct(numbers.below(num - np.arange(count), count) + np.arange(count))


def _distinct(picks: Indices) -> Indices:
    """Fisher-Yates: ``picks[i]``, from i on, is the place that the i-th number drawn is taken from."""
    # The list that it shuffles is only written down where it differs from 0, 1, 2, ...
    moved: dict[int, int] = {}
    out = np.empty(len(picks), dtype=np.int64)
    for here, pick in enumerate(picks.tolist()):
        out[here] = moved.get(pick, pick)
        moved[pick] = moved.get(here, here)
    return out


def _balanced(numbers: _Numbers, groups: Groups, count: int) -> Indices:
    """A class with equal chances, then one of its records; places in ``groups.positions``."""
    group = numbers.below(len(groups.counts), count)
    return groups.starts[group] + numbers.below(groups.counts[group], count)


def _balanced_without_replacement(numbers: _Numbers, groups: Groups, count: int) -> Indices:
    """As equal a number of every class as there are records; who gets the odd ones is drawn too."""
    # The highest level that every class can be filled to with ``count`` draws.
    low, high = 0, int(groups.ascending[-1])
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if groups.filled_to(level) <= count else (low, level - 1)
    take = np.minimum(groups.counts, low)
    able = np.flatnonzero(groups.counts > low)
    take[able[_choose(numbers, len(able), count - groups.filled_to(low), False)]] += 1
    # No more classes than are drawn: their number must not be paid for one by one.
    drawn = np.flatnonzero(take)
    wanted = take[drawn]
    firsts = np.cumsum(wanted) - wanted
    within = np.arange(count) - np.repeat(firsts, wanted)
    picks = numbers.below(np.repeat(groups.counts[drawn], wanted) - within, count) + within
    for first, num in zip(firsts[wanted > 1].tolist(), wanted[wanted > 1].tolist(), strict=True):
        picks[first : first + num] = _distinct(picks[first : first + num])
    places: Indices = np.repeat(groups.starts[drawn], wanted) + picks
    return places[_choose(numbers, count, count, False)]


def _weighted_without_replacement(numbers: _Numbers, weights: Weights, count: int) -> Indices:
    """Successive sampling: each place by its weight among those not drawn before it.

    That is the distribution of Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir", whose
    keys need a pass over all records and floating-point powers, which differ between platforms. Here, a round
    draws with replacement and drops repeats, which leaves the distribution as it is; the next round draws from
    what is left of ``[0, total)`` once the shares of all drawn so far are cut out. The first draw of a round is
    never a repeat, so this ends; and as the heavy records that cause repeats are cut out with it, it ends soon,
    within some twenty rounds for 4096 records even where the weights fall geometrically. No round looks at more
    records than are drawn.
    """
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:
        taken = np.sort(drawn)
        widths = weights.at(taken)
        cut = np.cumsum(widths)
        # Where each share taken would start if those before it were cut out already.
        starts = weights.running[taken] - cut
        left = weights.total - int(widths.sum(dtype=np.uint64))
        values = numbers.below_total(left, count - len(drawn))
        shift = np.concatenate([np.zeros(1, dtype=np.uint64), cut])
        places = weights.places_of(values + shift[np.searchsorted(starts, values, side="right")])
        _, first = np.unique(places, return_index=True)
        drawn = np.concatenate([drawn, places[np.sort(first)]])
    return drawn


def _text_donors(numbers: _Numbers, groups: Groups, positions: Indices, probability: float) -> Indices:
    """For each drawn record the one whose text it carries: itself, or another of its class."""
    count = len(positions)
    swaps = numbers.unit(count) < probability
    places = groups.place_of[positions]
    group = groups.class_of(places)
    start, size = groups.starts[group], groups.counts[group]
    # One of the others: the draw leaves out the record itself.
    within = numbers.below(np.maximum(size - 1, 1), count)
    within += within >= places - start
    swaps &= size > 1
    return np.where(swaps, groups.positions[np.where(swaps, start + within, places)], positions)
