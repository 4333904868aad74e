"""Eviction as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import BudgetError
from memory_service.store.eviction import Candidates, class_balanced, plan, water_fill


def candidates_of(rows: list[tuple[int, int, float, int]]) -> Candidates:
    """From (class, rank, score, charge), the oldest first."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Candidates(
        class_id=np.array(columns[0], dtype=np.uint32),
        rank=np.array(columns[1], dtype=np.uint32),
        score=np.array(columns[2], dtype=np.float32),
        charge=np.array(columns[3], dtype=np.int64),
        order=np.arange(len(rows)),
    )


rows = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 4),
        st.sampled_from([-0.5, 0.0, 0.25, 1.0]),
        st.integers(40, 300) | st.sampled_from([100, 100, 2000]),
    ),
    max_size=40,
)
budgets = st.integers(1, 6000)


def ranking(rows: list[tuple[int, int, float, int]], class_id: int) -> list[int]:
    """Places of a class's records, the best first, by the words of the documentation."""
    places = [place for place, row in enumerate(rows) if row[0] == class_id]
    return sorted(places, key=lambda place: (rows[place][1], -rows[place][2], place))


@given(rows, budgets)
def test_what_stays_fits_and_is_a_prefix_of_each_class(rows: list[tuple[int, int, float, int]], budget: int) -> None:
    keep = class_balanced(candidates_of(rows), budget)
    charges = np.array([row[3] for row in rows], dtype=np.int64)
    assert charges[keep].sum() <= budget
    for class_id in {row[0] for row in rows}:
        stays = [bool(keep[place]) for place in ranking(rows, class_id)]
        assert stays == sorted(stays, reverse=True)


@given(rows)
def test_everything_that_fits_stays(rows: list[tuple[int, int, float, int]]) -> None:
    total = sum(row[3] for row in rows)
    assert class_balanced(candidates_of(rows), max(total, 1)).all()


@given(rows, budgets)
def test_a_class_keeps_its_quota_less_one_record(rows: list[tuple[int, int, float, int]], budget: int) -> None:
    keep = class_balanced(candidates_of(rows), budget)
    class_ids = sorted({row[0] for row in rows})
    totals = np.array([sum(row[3] for row in rows if row[0] == class_id) for class_id in class_ids], dtype=np.int64)
    for class_id, total, quota in zip(class_ids, totals, water_fill(totals, budget), strict=True):
        places = ranking(rows, class_id)
        kept = sum(rows[place][3] for place in places if keep[place])
        dropped = [rows[place][3] for place in places if not keep[place]]
        # The next record is what did not fit; so the share is within one record of the quota.
        assert kept + (dropped[0] if dropped else 0) >= min(total, quota)
        # And above it by one record at the most.
        last = max((rows[place][3] for place in places if keep[place]), default=0)
        assert kept <= quota + last


@given(rows, budgets, st.randoms(use_true_random=False))
def test_the_order_in_which_they_are_given_does_not_matter(
    rows: list[tuple[int, int, float, int]], budget: int, random: np.random.Generator
) -> None:
    given_order = candidates_of(rows)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    other = Candidates(
        *(getattr(given_order, name)[shuffled] for name in ("class_id", "rank", "score", "charge", "order"))
    )
    keep = class_balanced(given_order, budget)
    np.testing.assert_array_equal(class_balanced(other, budget), keep[shuffled])


@given(rows, budgets)
def test_evicting_again_changes_nothing(rows: list[tuple[int, int, float, int]], budget: int) -> None:
    keep = class_balanced(candidates_of(rows), budget)
    kept = [row for row, stays in zip(rows, keep, strict=True) if stays]
    assert class_balanced(candidates_of(kept), budget).all()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(0, 10_000))
def test_water_fill_gives_out_all_it_can_and_equally(needs: list[int], total: int) -> None:
    shares = water_fill(np.array(needs, dtype=np.int64), total)
    assert (shares <= needs).all()
    assert (shares >= 0).all()
    assert shares.sum() == min(total, sum(needs))
    wanting = shares[shares < needs]
    if len(wanting):
        assert shares.max() - wanting.min() <= 1


def test_bytes_that_small_classes_leave_are_shared_among_the_rest() -> None:
    rows = [(0, 0, 0.0, 100)] + [(class_id, rank, 0.0, 100) for class_id in (1, 2) for rank in range(10)]
    keep = class_balanced(candidates_of(rows), 1100)
    assert [int(keep[[row[0] == c for row in rows]].sum()) for c in range(3)] == [1, 5, 5]


def test_better_scores_and_then_older_records_win_among_equal_ranks() -> None:
    rows = [(0, 0, 0.1, 100), (0, 0, 0.9, 100), (0, 0, 0.9, 100), (0, 1, 1.0, 100)]
    assert class_balanced(candidates_of(rows), 200).tolist() == [False, True, True, False]
    assert class_balanced(candidates_of(rows), 100).tolist() == [False, True, False, False]


def test_a_budget_of_less_than_one_record_a_class_still_keeps_some() -> None:
    rows = [(class_id, 0, 0.0, 100) for class_id in range(10)]
    assert class_balanced(candidates_of(rows), 350).sum() == 3


def test_reject_evicts_nothing_and_says_what_is_missing() -> None:
    rows = [(0, 0, 0.0, 100), (0, 1, 0.0, 100), (1, 0, 0.0, 100)]
    assert plan("reject", candidates_of(rows), 2, 300).all()
    with pytest.raises(BudgetError) as caught:
        plan("reject", candidates_of(rows), 2, 299)
    assert caught.value.code == "budget_exceeded"
    assert caught.value.details == {"requested_bytes": 100, "free_bytes": 99, "budget_bytes": 299}


@pytest.mark.parametrize("policy", ["reject", "class_balanced"])
def test_a_record_over_the_whole_budget_is_named(policy: str) -> None:
    rows = [(0, 0, 0.0, 100), (1, 0, 0.0, 50), (1, 0, 0.0, 301)]
    with pytest.raises(BudgetError) as caught:
        plan(policy, candidates_of(rows), 1, 300)  # type: ignore[arg-type]
    assert caught.value.code == "record_exceeds_budget"
    assert caught.value.details == {"index": 1, "requested_bytes": 301, "budget_bytes": 300}
