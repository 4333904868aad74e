"""Which records a batch draws. Pure functions of (buffer, version, seed, step): the same in any process, for
ever.

Numbers come from Philox's raw 64-bit stream, which NumPy keeps stable, and are mapped to ranges here; what
``numpy.random.Generator`` makes of the same stream may change between versions of NumPy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from memory_format import FormatError, NotFoundError
from memory_service.store.columns import Columns

Strategy = Literal["uniform", "class_balanced"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Filter:
    """Which records take part; None = no condition. Values are sorted and unique, so that equal filters are
    equal."""

    class_id: tuple[int, ...] | None = None
    phase: tuple[int, ...] | None = None
    learner_id: tuple[str, ...] | None = None


EVERYTHING: Final = Filter()


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


@dataclass(frozen=True)
class Draw:
    """Positions of the records drawn, ``(B,)`` in drawing order, and whose text each of them carries."""

    positions: Indices
    text_from: Indices


class Selection:
    """The records that match a filter, grouped by class when somebody asks.

    Args:
        class_id: ``(N,)`` of all live records.
        positions: ``(M,)`` ascending places of those that match; None = all, which costs nothing to hold.
    """

    def __init__(self, class_id: NDArray[np.uint32], positions: Indices | None) -> None:
        self._class_id = class_id
        self._positions = positions
        self.num = len(class_id) if positions is None else len(positions)

    @cached_property
    def groups(self) -> Groups:
        classes = self._class_id if self._positions is None else self._class_id[self._positions]
        order = np.argsort(classes, kind="stable")
        _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
        positions = order if self._positions is None else self._positions[order]
        return Groups(positions, starts.astype(np.int64), counts.astype(np.int64))

    def at(self, places: Indices) -> Indices:
        """Places within the selection -> positions in the buffer."""
        return places if self._positions is None else self._positions[places]


@dataclass(frozen=True)
class Groups:
    """Positions sorted by class, ascending within each; group ``c`` is
    ``positions[starts[c]:][:counts[c]]``."""

    positions: Indices
    starts: Indices
    counts: Indices

    @cached_property
    def place_of(self) -> Indices:
        """Inverse of ``positions``; only the entries of positions in the selection mean anything."""
        places = np.empty(int(self.positions.max()) + 1, dtype=np.int64)
        places[self.positions] = np.arange(len(self.positions))
        return places

    def class_of(self, places: Indices) -> Indices:
        """The group that each place in ``positions`` belongs to."""
        return np.searchsorted(self.starts, places, side="right") - 1


def select(columns: Columns, where: Filter, learner_codes: list[int]) -> Selection:
    """The records that match; ``learner_codes`` stand for ``where.learner_id``."""
    if where == EVERYTHING:
        return Selection(columns["class_id"], None)
    codes = None if where.learner_id is None else learner_codes
    matches = np.ones(columns.num_records, dtype=bool)
    for name, wanted in (("class_id", where.class_id), ("phase", where.phase), ("learner", codes)):
        if wanted is not None:
            matches &= np.isin(columns[name], np.array(wanted, dtype=np.int64))
    return Selection(columns["class_id"], np.flatnonzero(matches))


def draw(selection: Selection, request: SampleRequest, *, buffer: str, version: int) -> Draw:
    """Draw a batch.

    Raises:
        NotFoundError: ``no_matching_exemplars``.
        FormatError: ``invalid_query`` where more are asked for without replacement than there are.
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
    numbers = _Numbers([buffer, version, request.seed, request.step, request.strategy, "draw"])
    if request.strategy == "uniform":
        places = _choose(numbers, selection.num, request.batch_size, request.replace)
        positions = selection.at(places)
    else:
        draw_places = _balanced if request.replace else _balanced_without_replacement
        positions = selection.groups.positions[draw_places(numbers, selection.groups, request.batch_size)]
    text_from = positions
    if request.repair_text > 0:
        numbers = _Numbers([buffer, version, request.seed, request.step, request.strategy, "text"])
        text_from = _text_donors(numbers, selection.groups, positions, request.repair_text)
    return Draw(positions, text_from)


class _Numbers:
    """A stream of random numbers that depends on nothing but its key."""

    def __init__(self, key: list[str | int]) -> None:
        digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
        self._philox = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))

    def below(self, bounds: Indices | int, count: int) -> Indices:
        """``(count,)`` integers, each in ``[0, bound)``; bounds under 2**32.

        The high 32 bits scaled to the bound: no value is favoured by more than bound / 2**32.
        """
        raw = self._philox.random_raw(count) >> np.uint64(32)
        return ((raw * np.asarray(bounds, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

    def unit(self, count: int) -> NDArray[np.float64]:
        """``(count,)`` numbers in ``[0, 1)``."""
        return np.asarray(self._philox.random_raw(count) >> np.uint64(11), dtype=np.float64) * 2.0**-53


def _choose(numbers: _Numbers, num: int, count: int, replace: bool) -> Indices:
    """``(count,)`` of ``range(num)`` in random order, at a cost of O(count)."""
    if replace:
        return numbers.below(num, count)
    # Fisher-Yates over a list that is only written down where it differs from 0, 1, 2, ...
    picks = numbers.below(num - np.arange(count), count) + np.arange(count)
    moved: dict[int, int] = {}
    out = np.empty(count, dtype=np.int64)
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
    low, high = 0, int(groups.counts.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if int(np.minimum(groups.counts, level).sum()) <= count else (low, level - 1)
    take = np.minimum(groups.counts, low)
    able = np.flatnonzero(groups.counts > low)
    take[able[_choose(numbers, len(able), count - int(take.sum()), False)]] += 1
    chosen = [
        start + _choose(numbers, size, wanted, False)
        for start, size, wanted in zip(groups.starts.tolist(), groups.counts.tolist(), take.tolist(), strict=True)
        if wanted
    ]
    places = np.concatenate(chosen)
    return places[_choose(numbers, count, count, False)]


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
