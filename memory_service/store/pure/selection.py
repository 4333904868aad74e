"""The records that a query or a draw is about, and what is worked out of them once for many draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format.api.terms import Strategy
from memory_service.store.pure.columns import Columns, Learners, Rows
from memory_service.store.pure.field_index import NO_FIELDS, FieldIndex

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Filter:
    """Which records take part; None = no condition. Values are sorted and unique, so that equal filters are
    equal."""

    class_id: tuple[int, ...] | None = None
    phase: tuple[int, ...] | None = None
    learner_id: tuple[str, ...] | None = None
    not_learner_id: tuple[str, ...] | None = None
    """All but those of these learners."""
    exemplar_id: tuple[int, ...] | None = None
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of the user's fields, ascending, each with values as they are written."""


EVERYTHING: Final = Filter()


class Selection:
    """The records that match a filter, grouped by class or weighted by score when somebody asks.

    Args:
        class_id: ``(N,)`` of all live records.
        positions: ``(M,)`` ascending places of those that match; None = all, which costs nothing to hold.
        score: ``(N,)`` of all live records, finite; only ``score_weighted`` needs it.
    """

    def __init__(
        self,
        class_id: NDArray[np.uint32],
        positions: Indices | None,
        score: NDArray[np.float32] | None = None,
    ) -> None:
        self._class_id = class_id
        self._positions = positions
        self._score = score
        self.num = len(class_id) if positions is None else len(positions)

    @cached_property
    def groups(self) -> Groups:
        order, starts = grouped(self._of_matching(self._class_id))
        counts = np.diff(np.append(starts, self.num))
        positions = order if self._positions is None else self._positions[order]
        # With the groups, so that no later draw has to sort.
        ascending = np.sort(counts)
        return Groups(positions, starts, counts, ascending, np.append(np.int64(0), np.cumsum(ascending)))

    @cached_property
    def weights(self) -> Weights:
        """By score, of the places within it. Raises ``ValueError``: the selection was made without scores."""
        if self._score is None:
            raise ValueError("the selection has no scores")
        return Weights.of_scores(self._of_matching(self._score))

    def is_ready(self, strategy: Strategy) -> bool:
        """Whether what a strategy needs has been worked out."""
        needed = {"uniform": None, "class_balanced": "groups", "score_weighted": "weights"}[strategy]
        return needed is None or needed in vars(self)

    def at(self, places: Indices) -> Indices:
        """Places within the selection -> positions in the buffer."""
        return places if self._positions is None else self._positions[places]

    def _of_matching(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self._positions is None else values[self._positions]


@dataclass(frozen=True)
class Groups:
    """Positions sorted by class, ascending within each; group ``c`` is
    ``positions[starts[c]:][:counts[c]]``."""

    positions: Indices
    starts: Indices
    counts: Indices
    ascending: Indices
    """``counts``, sorted."""
    sums: Indices
    """``(C + 1,)``: of those of ``ascending`` before each place."""

    @cached_property
    def place_of(self) -> Indices:
        """Inverse of ``positions``; only the entries of positions in the selection mean anything."""
        places = np.empty(int(self.positions.max()) + 1, dtype=np.int64)
        places[self.positions] = np.arange(len(self.positions))
        return places

    def filled_to(self, level: int) -> int:
        """Records taken where each class gives ``level``, or all it has."""
        smaller = int(np.searchsorted(self.ascending, level))
        return int(self.sums[smaller]) + level * (len(self.ascending) - smaller)

    def class_of(self, places: Indices) -> Indices:
        """The group that each place in ``positions`` belongs to."""
        return np.searchsorted(self.starts, places, side="right") - 1


@dataclass(frozen=True)
class Weights:
    """Integer weights as running sums, so that draws are the same on every platform."""

    running: NDArray[np.uint64]
    """``(M,)``: the weights up to and with each; the last is the total, under 2**63."""
    num_positive: int

    @classmethod
    def of_scores(cls, score: NDArray[np.float32]) -> Weights:
        """Proportional to ``max(score, 0)``, ``(M,)``.

        A weight is ``floor(score * 2**k)``, at least 1 where the score is positive, so a probability is off by
        2**-k of the sum of scores at most. ``k`` is as large as it can be while M weights of the highest
        score's power of two stay under 2**63; so no score is too large and no sum overflows. Among 10 million
        scores of at most 1.0, 1.0 weighs 2**38, and 2**-20 still 2**18.
        The product is exact: 24 significant bits times a power of two.
        """
        positive = score > 0
        num_positive = int(np.count_nonzero(positive))
        if num_positive == 0:
            return cls(np.zeros(len(score), dtype=np.uint64), 0)
        _, exponent = np.frexp(score.max())
        k = 63 - len(score).bit_length() - int(exponent)
        scaled = np.multiply(score, 2.0**k, dtype=np.float64)
        np.maximum(scaled, positive, out=scaled)
        return cls(np.cumsum(scaled.astype(np.uint64)), num_positive)

    @property
    def total(self) -> int:
        return int(self.running[-1])

    def places_of(self, values: NDArray[np.uint64]) -> Indices:
        """The place whose share of ``[0, total)`` each value falls into; weight 0 has none."""
        return np.searchsorted(self.running, values, side="right")

    def at(self, places: Indices) -> NDArray[np.uint64]:
        """Weights of places."""
        before = np.where(places > 0, self.running[places - 1], np.uint64(0))
        return self.running[places] - before


def grouped(values: NDArray[np.unsignedinteger]) -> tuple[Indices, Indices]:
    """``(M,)`` places in ascending order of their values, equals in the order given, and ``(C,)`` where in it
    each value starts."""
    # numpy sorts 16-bit numbers by radix, five times as fast as wider ones; so 16 bits at a time, low ones first.
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    offsets = values - values.min()
    order = np.argsort(offsets.astype(np.uint16), kind="stable")
    high = (offsets >> np.uint32(16)).astype(np.uint16)
    if high.any():
        order = order[np.argsort(high[order], kind="stable")]
    ascending = values[order]
    starts = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    return order, np.concatenate([np.zeros(1, dtype=np.int64), starts])


def select(columns: Columns, where: Filter, learners: Learners, fields: FieldIndex = NO_FIELDS) -> Selection:
    """The records that match.

    Args:
        learners: those that the columns' ``learner`` points into.
        fields: of the records, where the filter has any.
    """
    if where == EVERYTHING:
        return Selection(columns["class_id"], None, columns["score"])
    return Selection(columns["class_id"], np.flatnonzero(matching(columns, where, learners, fields)), columns["score"])


def matching(
    records: Columns | Rows,
    where: Filter,
    learners: Learners,
    fields: FieldIndex = NO_FIELDS,
    part: slice = slice(None),
) -> NDArray[np.bool_]:
    """Which records, or records of a part, match; ``learners`` and ``fields`` as :func:`select` takes them."""
    codes = None if where.learner_id is None else learners.known_codes(where.learner_id)
    matches = np.ones(len(records["class_id"][part]), dtype=bool)
    for name, wanted in (("class_id", where.class_id), ("phase", where.phase), ("learner", codes)):
        if wanted is not None:
            matches &= np.isin(records[name][part], np.array(wanted, dtype=np.int64))
    if where.exemplar_id is not None:
        matches &= np.isin(records["exemplar_id"][part], np.array(where.exemplar_id, dtype=np.uint64))
    if where.not_learner_id is not None:
        others = np.array(learners.known_codes(where.not_learner_id), dtype=np.int64)
        matches &= ~np.isin(records["learner"][part], others)
    for name, values in where.fields:
        matches &= fields.matching(records["exemplar_id"][part], name, values)
    return matches
