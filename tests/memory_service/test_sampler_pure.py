"""Drawing, as pure functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_format import FormatError, NotFoundError
from memory_format.api.terms import STRATEGIES, Strategy
from memory_service.store.pure import sampler
from memory_service.store.pure.columns import ROW_DTYPE, Columns, Learners
from memory_service.store.pure.sampler import SampleRequest, draw
from memory_service.store.pure.selection import Filter, Selection, Weights, select

strategies = st.sampled_from(STRATEGIES)


scores = st.sampled_from([-1.0, -0.0, 0.0, 0.25, 1.0, 2.0**-149, 2.0**127]) | st.floats(-1, 1, width=32)


@dataclass(frozen=True)
class Chosen:
    """A selection and what it was made of."""

    selection: Selection
    classes: np.ndarray
    """Of every record."""
    positions: list[int]
    """The records selected."""
    positive: list[int]
    """Those with a positive score."""


@st.composite
def selections(draw_: st.DrawFn) -> Chosen:
    rows = draw_(st.lists(st.tuples(st.integers(0, 4), scores), min_size=1, max_size=40))
    classes = np.array([row[0] for row in rows], dtype=np.uint32)
    score = np.array([row[1] for row in rows], dtype=np.float32)
    positions = None
    chosen = list(range(len(rows)))
    if draw_(st.booleans()):
        chosen = sorted(draw_(st.sets(st.sampled_from(chosen), min_size=1)))
        positions = np.array(chosen, dtype=np.int64)
    positive = [position for position in chosen if score[position] > 0]
    return Chosen(Selection(classes, positions, score), classes, chosen, positive)


@given(
    selections(),
    st.integers(1, 60),
    st.integers(0, 2**63 - 1),
    strategies,
    st.booleans(),
    st.sampled_from([0, 0.5, 1]),
)
def test_a_draw_takes_what_is_selected(
    given_: Chosen,
    batch_size: int,
    seed: int,
    strategy: Strategy,
    replace: bool,
    repair_text: float,
) -> None:
    selection, classes, chosen = given_.selection, given_.classes, given_.positions
    request = SampleRequest(batch_size, seed, 3, strategy, replace, repair_text=repair_text)
    if not replace and batch_size > len(chosen):
        with pytest.raises(FormatError, match="without replacement"):
            draw(selection, request, draw_key="b", version=1)
        return
    drawable = given_.positive if strategy == "score_weighted" else chosen
    if len(drawable) < (1 if replace else batch_size):
        with pytest.raises(FormatError, match="positive score") as caught:
            draw(selection, request, draw_key="b", version=1)
        assert caught.value.code == "invalid_query"
        assert caught.value.details["positive"] == len(drawable)
        return
    drawn = draw(selection, request, draw_key="b", version=1)
    assert len(drawn.positions) == len(drawn.text_from) == batch_size
    assert set(drawn.positions.tolist()) <= set(drawable)
    assert set(drawn.text_from.tolist()) <= set(chosen)
    np.testing.assert_array_equal(classes[drawn.positions], classes[drawn.text_from])
    if not replace:
        assert len(set(drawn.positions.tolist())) == batch_size
        if strategy == "class_balanced":
            sizes = {int(c): int((classes[chosen] == c).sum()) for c in np.unique(classes[chosen])}
            counts = {c: int((classes[drawn.positions] == c).sum()) for c in sizes}
            short_of = [counts[c] for c in sizes if counts[c] < sizes[c]]
            assert max(counts.values()) - min(short_of, default=max(counts.values())) <= 1
    if repair_text == 0:
        np.testing.assert_array_equal(drawn.text_from, drawn.positions)
    if repair_text == 1:
        alone = np.array([(classes[chosen] == classes[position]).sum() == 1 for position in drawn.positions])
        np.testing.assert_array_equal(drawn.text_from == drawn.positions, alone)


def test_nothing_to_draw_from() -> None:
    with pytest.raises(NotFoundError) as caught:
        draw(Selection(np.zeros(0, np.uint32), None), SampleRequest(1), draw_key="b", version=0)
    assert caught.value.code == "no_matching_exemplars"


def test_the_stream_is_what_it_was_when_this_was_written() -> None:
    """Fixed for ever: a batch named in a paper must be the same batch later. Do not update these numbers."""
    places = np.arange(1000, dtype=np.uint32)
    selection = Selection(places % 7, None, np.asarray((places % 11).astype(np.float32) / 16 - 0.25, dtype=np.float32))
    uniform = draw(selection, SampleRequest(5, 11, 22), draw_key="b", version=3)
    assert uniform.positions.tolist() == [110, 922, 328, 765, 515]
    once = draw(selection, SampleRequest(5, 11, 22, replace=False), draw_key="b", version=3)
    assert once.positions.tolist() == [110, 922, 329, 766, 517]
    balanced = draw(selection, SampleRequest(5, 11, 22, "class_balanced", repair_text=0.5), draw_key="b", version=3)
    assert balanced.positions.tolist() == [524, 339, 369, 205, 182]
    assert balanced.text_from.tolist() == [524, 192, 369, 996, 343]
    weighted = draw(selection, SampleRequest(5, 11, 22, "score_weighted", repair_text=0.5), draw_key="b", version=3)
    assert weighted.positions.tolist() == [824, 87, 581, 989, 702]
    assert weighted.text_from.tolist() == [824, 87, 259, 989, 702]
    once = draw(selection, SampleRequest(500, 11, 22, "score_weighted", replace=False), draw_key="b", version=3)
    assert once.positions[[0, 1, 2, 3, 4, 496, 497, 498, 499]].tolist() == [824, 87, 581, 989, 702, 753, 160, 776, 973]


@given(selections(), st.integers(1, 60), st.integers(1, 60), strategies, st.booleans(), st.sampled_from([0, 0.5]))
def test_the_parts_of_a_batch_are_the_batch(
    given_: Chosen, batch_size: int, parts: int, strategy: Strategy, replace: bool, repair_text: float
) -> None:
    parts = min(parts, batch_size)
    request = SampleRequest(batch_size, 5, 3, strategy, replace, repair_text=repair_text, stream="a")
    drawn = []
    try:
        whole = draw(given_.selection, request, draw_key="b", version=1)
    except FormatError:
        with pytest.raises(FormatError):  # also where the part alone would do
            draw(given_.selection, dataclasses.replace(request, parts=parts), draw_key="b", version=1)
        return
    for part in range(parts):
        mine = dataclasses.replace(request, part=part, parts=parts)
        drawn.append(draw(given_.selection, mine, draw_key="b", version=1))
        assert batch_size // parts <= len(drawn[-1].positions) <= -(-batch_size // parts)
    np.testing.assert_array_equal(np.concatenate([part.positions for part in drawn]), whole.positions)
    np.testing.assert_array_equal(np.concatenate([part.text_from for part in drawn]), whole.text_from)


def test_streams_are_independent_draws() -> None:
    """The number of places that two draws have in common is what chance gives."""
    selection = Selection(np.zeros(100, np.uint32), None)

    def positions(stream: str, **more: Any) -> NDArray[np.int64]:
        request = SampleRequest(10_000, 1, 2, stream=stream, **more)
        return draw(selection, request, draw_key="b", version=3).positions

    np.testing.assert_array_equal(positions("left"), positions("left"))
    for other in (positions("right"), positions(""), positions("left", strategy="class_balanced")):
        assert abs(int((positions("left") == other).sum()) - 100) < 50
    swapped = [
        draw(selection, SampleRequest(1000, 1, 2, repair_text=0.5, stream=stream), draw_key="b", version=3)
        for stream in ("left", "right")
    ]
    mine, others = (drawn.text_from == drawn.positions for drawn in swapped)
    assert 400 < int((mine == others).sum()) < 600


def test_draws_are_spread_as_they_should_be() -> None:
    classes = np.repeat(np.arange(4, dtype=np.uint32), [400, 300, 200, 100])
    selection = Selection(classes, None)
    requests = (SampleRequest(4000, seed, strategy="uniform") for seed in range(10))
    uniform = np.concatenate([draw(selection, r, draw_key="b", version=0).positions for r in requests])
    # 40 draws a record expected: chi-square over 1000 cells stays within five deviations of its mean.
    counts = np.bincount(uniform, minlength=1000)
    assert abs(((counts - 40) ** 2 / 40).sum() - 999) < 5 * np.sqrt(2 * 999)
    requests = (SampleRequest(4000, seed, strategy="class_balanced") for seed in range(10))
    balanced = np.concatenate([draw(selection, r, draw_key="b", version=0).positions for r in requests])
    np.testing.assert_allclose(np.bincount(classes[balanced]) / 40_000, 0.25, atol=0.01)
    once = np.concatenate(
        [
            draw(selection, SampleRequest(100, seed, replace=False), draw_key="b", version=0).positions
            for seed in range(400)
        ]
    )
    counts = np.bincount(once, minlength=1000)
    assert abs(((counts - 40) ** 2 / 40).sum() - 999) < 5 * np.sqrt(2 * 999)


def test_weighted_draws_are_spread_by_score() -> None:
    random = np.random.default_rng(3)
    score = random.uniform(-0.5, 1.0, 1000).astype(np.float32)
    positions = np.flatnonzero(random.random(1000) < 0.7)
    selection = Selection(np.zeros(1000, np.uint32), positions, score)
    requests = (SampleRequest(4000, seed, strategy="score_weighted") for seed in range(10))
    drawn = np.concatenate([draw(selection, r, draw_key="b", version=0).positions for r in requests])
    weight = np.zeros(1000)
    weight[positions] = np.maximum(score[positions], 0)
    counts, expected = np.bincount(drawn, minlength=1000), 40_000 * weight / weight.sum()
    assert not counts[weight == 0].any()
    likely = expected >= 5  # chi-square is of no use below
    assert likely.sum() > 400
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert abs(statistic - likely.sum()) < 5 * np.sqrt(2 * likely.sum())


def test_weighted_draws_without_replacement_are_successive() -> None:
    """Every order of 3 of 5 as often as drawing one by one from what is left gives it."""
    score = np.array([8, 0, 4, 2, -1, 1, 1], dtype=np.float32)
    selection = Selection(np.zeros(7, np.uint32), None, score)
    requests = (SampleRequest(3, seed, strategy="score_weighted", replace=False) for seed in range(8000))
    drawn = [tuple(draw(selection, r, draw_key="b", version=0).positions.tolist()) for r in requests]
    statistic, orders = 0.0, list(permutations(np.flatnonzero(score > 0).tolist(), 3))
    for order in orders:
        left, chance = float(score[score > 0].sum()), 1.0
        for place in order:
            chance *= score[place] / left
            left -= score[place]
        statistic += (drawn.count(order) - 8000 * chance) ** 2 / (8000 * chance)
    assert abs(statistic - (len(orders) - 1)) < 5 * np.sqrt(2 * (len(orders) - 1))


@pytest.mark.parametrize("ratio", [0.25, 0.9, 0.98, 0.998])
def test_a_few_heavy_records_do_not_keep_the_others_from_being_drawn(
    ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = np.maximum(ratio ** np.arange(5000.0), 2.0**-140).astype(np.float32)
    rounds = []
    below_total = sampler._Numbers.below_total

    def counted(self: sampler._Numbers, total: int, count: int) -> np.ndarray:
        rounds.append(count)
        return below_total(self, total, count)

    monkeypatch.setattr(sampler._Numbers, "below_total", counted)
    selection = Selection(np.zeros(5000, np.uint32), None, score)
    for batch_size in (1, 4096, 5000):
        rounds.clear()
        request = SampleRequest(batch_size, 1, strategy="score_weighted", replace=False)
        positions = draw(selection, request, draw_key="b", version=0).positions
        assert len(set(positions.tolist())) == batch_size
        assert len(rounds) < 40


@given(st.lists(scores | st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_weights_are_exact(values: list[float]) -> None:
    score = np.array(values, dtype=np.float32)
    weights = Weights.of_scores(score)
    assert weights.num_positive == (score > 0).sum()
    each = weights.at(np.arange(len(score))).tolist()
    assert sum(each) == weights.total < 2**63
    if weights.num_positive == 0:
        assert weights.total == 0
        return
    # The highest score's weight tells the scale: 24 bits are enough to hold it exactly.
    highest = Fraction(float(score.max()))
    scale = each[int(score.argmax())] / highest
    assert scale.numerator == 1 or scale.denominator == 1
    for value, weight in zip(score.tolist(), each, strict=True):
        assert weight == (max(int(Fraction(value) * scale), 1) if value > 0 else 0)
    inside = [*range(min(weights.total, 3)), weights.total - 1]
    found = weights.places_of(np.array(inside, dtype=np.uint64))
    assert (score[found] > 0).all()


def test_scores_of_ten_million_records_neither_overflow_nor_vanish() -> None:
    score = np.full(10_000_000, 2.0**20, dtype=np.float32)
    score[1], score[2] = 2.0**-20, 2.0**-149
    weights = Weights.of_scores(score)
    assert weights.total == (10**7 - 2) * 2**38 + 2
    score = np.ones(10_000_000, dtype=np.float32)
    score[1] = 2.0**-20
    assert Weights.of_scores(score).at(np.array([0, 1])).tolist() == [2**38, 2**18]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(1, 2**64 - 1))
def test_numbers_below_a_total_are_the_high_half_of_the_product(raw: list[int], total: int) -> None:
    numbers = sampler._Numbers(["any"])
    numbers._philox = _Raw(raw)  # type: ignore[assignment]
    assert numbers.below_total(total, len(raw)).tolist() == [(value * total) >> 64 for value in raw]


class _Raw:
    """A generator that gives what it was told to."""

    def __init__(self, values: list[int]) -> None:
        self._values = np.array(values, dtype=np.uint64)

    def random_raw(self, count: int) -> np.ndarray:
        return self._values[:count]


class_ids = st.integers(0, 5) | st.integers(0, 2**32 - 1) | st.sampled_from([2**16 - 1, 2**16, 2**31, 2**32 - 1])


@given(st.lists(class_ids, min_size=1, max_size=60), st.booleans())
def test_groups_are_the_classes_in_ascending_order(values: list[int], all_match: bool) -> None:
    classes = np.array(values, dtype=np.uint32)
    positions = np.arange(len(values)) if all_match else np.arange(0, len(values), 2)
    groups = Selection(classes, None if all_match else positions).groups
    order = positions[np.argsort(classes[positions], kind="stable")]
    np.testing.assert_array_equal(groups.positions, order)
    _, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    np.testing.assert_array_equal(groups.starts, starts)
    np.testing.assert_array_equal(groups.counts, counts)
    np.testing.assert_array_equal(groups.positions[groups.place_of[positions]], positions)


def test_nothing_has_a_positive_score() -> None:
    selection = Selection(np.zeros(3, np.uint32), None, np.array([0, -0.0, -1], dtype=np.float32))
    with pytest.raises(FormatError, match="none of the 3") as caught:
        draw(selection, SampleRequest(1, strategy="score_weighted"), draw_key="b", version=0)
    assert caught.value.code == "invalid_query"


def test_weighted_draws_need_scores() -> None:
    with pytest.raises(ValueError, match="scores"):
        draw(
            Selection(np.zeros(3, np.uint32), None),
            SampleRequest(1, strategy="score_weighted"),
            draw_key="b",
            version=0,
        )


def test_selecting_brings_the_scores() -> None:
    rows = np.ones(4, ROW_DTYPE)
    rows["class_id"] = np.array([0, 1, 0, 1], dtype=np.uint32)
    rows["score"] = np.array([0.5, 0.5, 0.0, -1.0], dtype=np.float32)
    columns = Columns.of_rows(0, rows[:0]).appended(1, rows)
    request = SampleRequest(50, strategy="score_weighted")
    everything = draw(select(columns, request.where, Learners()), request, draw_key="b", version=1)
    assert set(everything.positions.tolist()) == {0, 1}
    of_class = draw(select(columns, Filter(class_id=(1,)), Learners()), request, draw_key="b", version=1)
    assert set(of_class.positions.tolist()) == {1}


def test_a_snapshot_gives_the_batch_of_its_version() -> None:
    selection = Selection(np.zeros(100, np.uint32), None)
    of_buffer = draw(selection, SampleRequest(10, 1), draw_key="b", version=7)
    of_snapshot = draw(selection, SampleRequest(10, 1, snapshot="s"), draw_key="b", version=7)
    np.testing.assert_array_equal(of_buffer.positions, of_snapshot.positions)


def test_only_the_first_draw_of_a_selection_looks_at_every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    selection = Selection(np.zeros(100, np.uint32), None, np.ones(100, np.float32))
    draws = [
        SampleRequest(5, 1, step, strategy, replace, repair_text=0.5)
        for step in range(2)
        for strategy in STRATEGIES
        for replace in (False, True)
    ]
    first = [draw(selection, request, draw_key="b", version=0) for request in draws]
    # Grouping and weighing start with this one.
    monkeypatch.delattr(Selection, "_of_matching")
    again = [draw(selection, request, draw_key="b", version=0) for request in draws]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.text_from, other.text_from)


@pytest.mark.parametrize("batch_size", [1, 4, 33, 700, 4000])
def test_balanced_without_replacement_fills_classes_to_one_level(batch_size: int) -> None:
    """Against the definition, class by class; most classes of a batch give nothing or one record."""
    rng = np.random.default_rng(5)
    classes = np.sort(rng.zipf(1.5, 5000) % 900).astype(np.uint32)
    request = SampleRequest(batch_size, 1, 2, "class_balanced", replace=False)
    drawn = draw(Selection(classes, None), request, draw_key="b", version=3).positions
    assert len(set(drawn.tolist())) == batch_size
    sizes = np.bincount(classes)
    given = np.bincount(classes[drawn], minlength=len(sizes))
    level = max(k for k in range(batch_size + 1) if np.minimum(sizes, k).sum() <= batch_size)
    assert (given >= np.minimum(sizes, level)).all()
    assert (given <= np.minimum(sizes, level + 1)).all()


def test_balanced_without_replacement_is_what_it_was() -> None:
    """Fixed for ever, as the streams above."""
    selection = Selection(np.arange(1000, dtype=np.uint32) ** 2 % 31, None)
    once = draw(selection, SampleRequest(40, 11, 22, "class_balanced", replace=False), draw_key="b", version=3)
    assert once.positions[:6].tolist() == [831, 169, 18, 444, 222, 40]
    assert int(once.positions.sum()) == 18303
