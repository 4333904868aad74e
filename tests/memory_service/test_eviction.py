"""Eviction as pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memory_format import BudgetError
from memory_format.api.terms import EVICTION_POLICIES, EvictionPolicy
from memory_service.store.pure import prefixes
from memory_service.store.pure.eviction import Candidates, class_balanced, plan, reservoir_keys
from memory_service.store.pure.prefixes import water_fill

Row = tuple[int, int, float, int]
PREFIX_POLICIES: tuple[EvictionPolicy, ...] = ("lowest_score", "fifo", "reservoir")
EVICTING_POLICIES: tuple[EvictionPolicy, ...] = ("class_balanced", *PREFIX_POLICIES)


def candidates_of(rows: list[Row]) -> Candidates:
    """From (class, rank, score, charge), the oldest first."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Candidates(
        class_id=np.array(columns[0], dtype=np.uint32),
        rank=np.array(columns[1], dtype=np.uint32),
        score=np.array(columns[2], dtype=np.float32),
        charge=np.array(columns[3], dtype=np.int64),
        order=np.arange(len(rows)),
        key=reservoir_keys("b", np.arange(1, len(rows) + 1, dtype=np.uint64)),
    )


def reference_class_balanced(candidates: Candidates, budget_bytes: int) -> np.ndarray:
    """By sorting everything, as it was first written: what ``class_balanced`` has to agree with."""
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


def reference_prefix(policy: EvictionPolicy, candidates: Candidates, budget_bytes: int) -> list[bool]:
    """By the words of the documentation."""
    assert candidates.key is not None
    order, score, key = candidates.order.tolist(), candidates.score.tolist(), candidates.key.tolist()
    sort_key = {
        "lowest_score": lambda place: (-score[place], order[place]),
        "fifo": lambda place: -order[place],
        "reservoir": lambda place: (key[place], order[place]),
    }[policy]
    keep = [False] * len(order)
    left = budget_bytes
    for place in sorted(range(len(order)), key=sort_key):
        left -= int(candidates.charge[place])
        if left < 0:
            break
        keep[place] = True
    return keep


rows = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 4),
        st.sampled_from([-0.5, -0.0, 0.0, 0.25, 1.0]),
        st.integers(40, 300) | st.sampled_from([100, 100, 2000]),
    ),
    max_size=40,
)
budgets = st.integers(1, 6000)


def ranking(rows: list[Row], class_id: int) -> list[int]:
    """Places of a class's records, the best first, by the words of the documentation."""
    places = [place for place, row in enumerate(rows) if row[0] == class_id]
    return sorted(places, key=lambda place: (rows[place][1], -rows[place][2], place))


@given(rows, budgets)
def test_what_stays_fits_and_is_a_prefix_of_each_class(rows: list[Row], budget: int) -> None:
    keep = class_balanced(candidates_of(rows), budget)
    charges = np.array([row[3] for row in rows], dtype=np.int64)
    assert charges[keep].sum() <= budget
    for class_id in {row[0] for row in rows}:
        stays = [bool(keep[place]) for place in ranking(rows, class_id)]
        assert stays == sorted(stays, reverse=True)


@given(rows)
def test_everything_that_fits_stays(rows: list[Row]) -> None:
    total = sum(row[3] for row in rows)
    assert class_balanced(candidates_of(rows), max(total, 1)).all()


@given(rows, budgets)
def test_a_class_keeps_its_quota_less_one_record(rows: list[Row], budget: int) -> None:
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
    rows: list[Row], budget: int, random: np.random.Generator
) -> None:
    given_order = candidates_of(rows)
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    for policy in EVICTING_POLICIES:
        keep = plan(policy, given_order, len(rows), budget)
        np.testing.assert_array_equal(plan(policy, given_order.take(shuffled), len(rows), budget), keep[shuffled])


wide_rows = st.lists(
    st.tuples(
        st.integers(0, 3) | st.sampled_from([2**31, 2**32 - 1]),
        st.integers(0, 4) | st.integers(0, 2**32 - 1),
        st.sampled_from([-0.0, 0.0, 1.0]) | st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.integers(1, 300),
    ),
    max_size=40,
)


@given(wide_rows, budgets, st.sampled_from([(1, 4), (3, 64), (prefixes._FEW, prefixes._CELLS)]))
def test_narrowing_down_finds_what_sorting_everything_finds(
    rows: list[Row], budget: int, limits: tuple[int, int]
) -> None:
    candidates = candidates_of(rows)
    few, cells = limits
    with patch.object(prefixes, "_FEW", few), patch.object(prefixes, "_CELLS", cells):
        keep = class_balanced(candidates, budget)
        np.testing.assert_array_equal(keep, reference_class_balanced(candidates, budget))
        for policy in PREFIX_POLICIES:
            assert plan(policy, candidates, len(rows), budget).tolist() == reference_prefix(policy, candidates, budget)


@pytest.mark.parametrize("num_classes", [1, 10, 10_000, 2**32])
@pytest.mark.parametrize("tied", ["nothing", "ranks", "ranks and scores"])
def test_narrowing_down_many_finds_what_sorting_everything_finds(num_classes: int, tied: str) -> None:
    random = np.random.default_rng(num_classes)
    num = 60_000
    candidates = Candidates(
        class_id=random.choice(random.integers(0, num_classes, 100), num).astype(np.uint32)
        if num_classes > num
        else (random.random(num) ** 2 * num_classes).astype(np.uint32),
        rank=np.zeros(num, np.uint32) if "ranks" in tied else random.integers(0, 2000, num).astype(np.uint32),
        score=np.zeros(num, np.float32) if "scores" in tied else random.normal(size=num).astype(np.float32),
        charge=random.integers(40, 4000, num),
        order=random.permutation(num),
    )
    for share in (0.001, 0.5, 0.9, 0.999):
        budget = int(candidates.charge.sum() * share)
        np.testing.assert_array_equal(
            class_balanced(candidates, budget), reference_class_balanced(candidates, budget), str(share)
        )


@pytest.mark.parametrize("policy", PREFIX_POLICIES)
def test_narrowing_down_many_finds_the_longest_prefix(policy: EvictionPolicy) -> None:
    random = np.random.default_rng(5)
    num = 40_000
    candidates = Candidates(
        class_id=np.zeros(num, np.uint32),
        rank=np.zeros(num, np.uint32),
        score=np.asarray(random.integers(-50, 50, num).astype(np.float32) / 100, dtype=np.float32),
        charge=random.integers(40, 4000, num),
        order=random.permutation(num),
        key=reservoir_keys("b", np.arange(num, dtype=np.uint64)),
    )
    budget = int(candidates.charge.sum() * 0.7)
    assert plan(policy, candidates, num, budget).tolist() == reference_prefix(policy, candidates, budget)


@pytest.mark.parametrize("policy", EVICTING_POLICIES)
@given(rows=rows, budget=budgets)
def test_of_every_policy_what_stays_fits_and_evicting_again_changes_nothing(
    policy: EvictionPolicy, rows: list[Row], budget: int
) -> None:
    candidates = candidates_of(rows)
    keep = plan(policy, candidates, len(rows), budget)
    assert keep.dtype == bool
    assert keep.shape == (len(rows),)
    assert candidates.charge[keep].sum() <= budget
    np.testing.assert_array_equal(plan(policy, candidates, len(rows), budget), keep)
    kept = candidates.take(np.flatnonzero(keep))
    assert plan(policy, kept, len(kept.charge), budget).all()


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
@given(rows=rows, num_stored=st.integers(0, 40))
def test_of_every_policy_everything_that_fits_stays(policy: EvictionPolicy, rows: list[Row], num_stored: int) -> None:
    total = sum(row[3] for row in rows)
    assert plan(policy, candidates_of(rows), min(num_stored, len(rows)), max(total, 1)).all()


@pytest.mark.parametrize("policy", PREFIX_POLICIES)
@given(rows=rows, budgets=st.tuples(budgets, budgets).map(sorted))
def test_a_smaller_budget_keeps_a_part_of_what_a_larger_one_keeps(
    policy: EvictionPolicy, rows: list[Row], budgets: list[int]
) -> None:
    candidates = candidates_of(rows)
    under_smaller, under_larger = (plan(policy, candidates, len(rows), budget) for budget in budgets)
    assert not (under_smaller & ~under_larger).any()


@given(rows, st.tuples(budgets, budgets).map(sorted))
def test_class_balanced_keeps_one_record_a_class_at_most_that_a_larger_budget_does_not(
    rows: list[Row], budgets: list[int]
) -> None:
    candidates = candidates_of(rows)
    under_smaller, under_larger = (class_balanced(candidates, budget) for budget in budgets)
    for class_id in {row[0] for row in rows}:
        only = [place for place in ranking(rows, class_id) if under_smaller[place] and not under_larger[place]]
        last = [place for place in ranking(rows, class_id) if under_smaller[place]][-1:]
        assert only in ([], last)


def test_class_balanced_may_give_the_odd_record_to_another_class_under_a_larger_budget() -> None:
    rows = [(0, 0, 0.0, 50), (0, 1, 0.0, 40), (1, 0, 0.0, 60)]
    assert class_balanced(candidates_of(rows), 100).tolist() == [True, True, False]
    assert class_balanced(candidates_of(rows), 120).tolist() == [True, False, True]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(0, 10_000))
def test_no_share_shrinks_when_there_is_more_to_share(needs: list[int], total: int) -> None:
    array = np.array(needs, dtype=np.int64)
    assert (water_fill(array, total) <= water_fill(array, total + 1)).all()


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


def test_reject_refuses_a_budget_below_what_is_stored() -> None:
    rows = [(0, 0, 0.0, 100), (0, 1, 0.0, 100)]
    assert plan("reject", candidates_of(rows), 2, 200).all()
    with pytest.raises(BudgetError, match="stored take 200 bytes, the new budget would be 199") as caught:
        plan("reject", candidates_of(rows), 2, 199)
    assert caught.value.code == "budget_exceeded"
    assert caught.value.details == {"requested_bytes": 200, "free_bytes": 199, "budget_bytes": 199}


@pytest.mark.parametrize("policy", EVICTING_POLICIES)
def test_a_stored_record_over_a_new_budget_goes(policy: EvictionPolicy) -> None:
    rows = [(0, 0, 0.5, 100), (0, 0, 0.5, 301)]
    assert not plan(policy, candidates_of(rows), 2, 300)[1]


def test_the_lowest_score_goes_first_and_then_the_younger() -> None:
    rows = [(0, 9, 0.5, 100), (1, 0, 0.25, 100), (2, 0, 0.5, 100), (0, 0, -1.0, 100)]
    kept = {n: plan("lowest_score", candidates_of(rows), 4, 100 * n).tolist() for n in (1, 2, 3)}
    assert kept == {1: [1, 0, 0, 0], 2: [1, 0, 1, 0], 3: [1, 1, 1, 0]}


def test_the_oldest_goes_first() -> None:
    rows = [(0, 0, 1.0, 100), (0, 0, 0.0, 100), (0, 0, 0.0, 100)]
    assert plan("fifo", candidates_of(rows), 2, 200).tolist() == [False, True, True]


def test_a_prefix_ends_at_the_first_record_that_does_not_fit() -> None:
    rows = [(0, 0, 0.0, 50), (0, 0, 0.5, 200), (0, 0, 1.0, 100)]
    assert plan("lowest_score", candidates_of(rows), 3, 299).tolist() == [False, False, True]


def test_reservoir_keys_are_what_they_were_when_this_was_written() -> None:
    """Fixed for ever: the keys of records that were dropped are kept nowhere. Do not update these numbers."""
    ids = np.array([1, 2, 3, 2**53 + 1, 2**64 - 1], dtype=np.uint64)
    assert reservoir_keys("b", ids).tolist() == [
        16953917795357998346,
        9105583810004675469,
        3752765076784775001,
        18008412458839972963,
        13404959596850273843,
    ]
    assert reservoir_keys("another", ids[:1]).tolist() == [7777449468957733613]
    assert reservoir_keys("b", ids[:0]).dtype == np.uint64


def test_a_reservoir_needs_keys() -> None:
    with pytest.raises(ValueError, match="keys"):
        plan("reservoir", replace(candidates_of([(0, 0, 0.0, 100)] * 2), key=None), 1, 100)


def reservoir_of(buffer: str, num: int, piece: int, capacity: int) -> np.ndarray:
    """Ids, from 0, that a buffer for ``capacity`` records holds after pushes of ``piece`` records each."""
    held = np.zeros(0, dtype=np.uint64)
    for start in range(0, num, piece):
        ids = np.concatenate([held, np.arange(start, min(start + piece, num), dtype=np.uint64)])
        same = np.zeros(len(ids), dtype=np.int64)
        candidates = Candidates(same, same, same.astype(np.float32), same + 64, same, reservoir_keys(buffer, ids))
        held = ids[plan("reservoir", candidates, len(held), 64 * capacity)]
    return held


@given(st.text(max_size=8), st.integers(1, 200), st.integers(1, 50), st.integers(1, 60))
def test_a_reservoir_does_not_depend_on_how_the_stream_was_split(
    buffer: str, num: int, piece: int, capacity: int
) -> None:
    in_pieces = reservoir_of(buffer, num, piece, capacity)
    assert len(in_pieces) == min(num, capacity)
    np.testing.assert_array_equal(in_pieces, reservoir_of(buffer, num, num, capacity))


def test_a_reservoir_is_a_uniform_sample_of_the_stream() -> None:
    num, capacity, streams = 200, 40, 200
    held = np.concatenate([reservoir_of(f"stream {n}", num, 7, capacity) for n in range(streams)])
    counts = np.bincount(held.astype(np.int64), minlength=num)
    # 40 of 200 expected in every cell; drawn without replacement, so a cell varies by 1 - 40/200 of that.
    expected = streams * capacity / num
    statistic = ((counts - expected) ** 2 / expected).sum() / (1 - capacity / num)
    assert abs(statistic - (num - 1)) < 5 * np.sqrt(2 * (num - 1))


def test_every_policy_is_in_one_of_the_lists_above() -> None:
    assert {*EVICTING_POLICIES, "reject"} == set(get_args(EvictionPolicy))


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_a_record_over_the_whole_budget_is_named(policy: EvictionPolicy) -> None:
    rows = [(0, 0, 0.0, 100), (1, 0, 0.0, 50), (1, 0, 0.0, 301)]
    with pytest.raises(BudgetError) as caught:
        plan(policy, candidates_of(rows), 1, 300)
    assert caught.value.code == "record_exceeds_budget"
    assert caught.value.details == {"index": 1, "requested_bytes": 301, "budget_bytes": 300}


few_rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(-1, 1, width=32), st.integers(1, 40)),
    min_size=1,
    max_size=30,
)


def owned(rows: list[Row], owners: list[int]) -> Candidates:
    """Candidates, and whose they are, in turn."""
    learner = np.resize(np.array(owners, dtype=np.uint32), len(rows))
    return replace(candidates_of(rows), learner=learner)


def floor_by_words(held: list[int], floor_bytes: int, budget: int) -> int:
    """As far as all floors fit the budget."""
    while sum(min(num, floor_bytes) for num in held) > budget:
        floor_bytes -= 1
    return floor_bytes


@pytest.mark.parametrize("policy", EVICTING_POLICIES)
@given(
    rows=few_rows,
    owners=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    budget=st.integers(1, 300),
    share=st.floats(0.01, 1),
)
def test_of_every_policy_each_learner_keeps_its_floor(
    policy: EvictionPolicy, rows: list[Row], owners: list[int], budget: int, share: float
) -> None:
    candidates = owned(rows, owners)
    assert candidates.learner is not None
    keep = plan(policy, candidates, len(rows), budget, share)
    assert int(candidates.charge[keep].sum()) <= budget
    learners = np.unique(candidates.learner)
    held = [int(candidates.charge[candidates.learner == of].sum()) for of in learners]
    floor = floor_by_words(held, int(share * budget), budget)
    for of in learners:
        places = np.flatnonzero(candidates.learner == of)
        alone = plan(policy, candidates.take(places), len(places), floor) if floor else np.zeros(len(places), bool)
        lost = (alone & ~keep[places]).any()
        # Of classes, whose shares are others' too, it may be other records, as many bytes of them.
        enough = int(candidates.charge[places][keep[places]].sum()) >= floor
        assert not lost or (policy == "class_balanced" and enough)
    # Evicting again changes nothing, and nobody's number matters.
    left = candidates.take(keep)
    assert plan(policy, left, len(left.charge), budget, share).all()
    renamed = replace(candidates, learner=np.uint32(1000) - candidates.learner)
    assert (plan(policy, renamed, len(rows), budget, share) == keep).all()


def sort_keys(policy: EvictionPolicy, candidates: Candidates) -> list[tuple[float, ...]]:
    """What the records are ordered by, ascending, by the words of the documentation."""
    assert candidates.key is not None
    by: dict[str, list[Any]] = {
        "class_balanced": [candidates.class_id, candidates.rank, -candidates.score, candidates.order],
        "lowest_score": [-candidates.score, candidates.order],
        "fifo": [-candidates.order],
        "reservoir": [candidates.key, candidates.order],
    }
    return list(zip(*(column.tolist() for column in by[policy]), strict=True))


def kept_behind(policy: EvictionPolicy, candidates: Candidates, first: list[bool], budget: int) -> list[bool]:
    """What a policy keeps where the ``first`` stay, by sorting everything."""
    keys, charge = sort_keys(policy, candidates), candidates.charge.tolist()
    ranked = sorted((place for place, stays in enumerate(first) if not stays), key=keys.__getitem__)
    keep = list(first)
    if policy != "class_balanced":
        left = budget - sum(charge[place] for place, stays in enumerate(first) if stays)
        for place in ranked:
            left -= charge[place]
            if left < 0:
                break
            keep[place] = True
        return keep
    unused = []
    for of, quota in class_quotas(candidates, first, budget).items():
        left = quota - sum(
            charge[place] for place, stays in enumerate(first) if stays and candidates.class_id[place] == of
        )
        behind = [place for place in ranked if candidates.class_id[place] == of]
        while behind and charge[behind[0]] <= left:
            left -= charge[behind[0]]
            keep[behind.pop(0)] = True
        unused.append((left, behind))
    left_over = sum(left for left, _ in unused)
    for _, behind in sorted(unused, key=lambda found: -found[0]):
        if behind and charge[behind[0]] <= left_over:
            keep[behind[0]] = True
            left_over -= charge[behind[0]]
    return keep


def class_quotas(candidates: Candidates, first: list[bool], budget: int) -> dict[int, int]:
    """Bytes of each class: one byte after another goes to the class that has fewest, but that of the ``first``."""
    pairs = list(zip(candidates.class_id.tolist(), candidates.charge.tolist(), first, strict=True))
    needs = {of: sum(charge for other, charge, _ in pairs if other == of) for of in sorted({of for of, _, _ in pairs})}
    if not any(first):
        shares = water_fill(np.array(list(needs.values()), dtype=np.int64), budget)
        return dict(zip(needs, shares.tolist(), strict=True))
    quotas = {of: sum(charge for other, charge, stays in pairs if stays and other == of) for of in needs}
    for _ in range(min(budget, sum(needs.values())) - sum(quotas.values())):
        quotas[min((of for of in needs if quotas[of] < needs[of]), key=quotas.__getitem__)] += 1
    return quotas


@pytest.mark.parametrize("policy", EVICTING_POLICIES)
@given(
    rows=few_rows,
    owners=st.lists(st.integers(0, 5), min_size=1, max_size=7),
    budget=st.integers(1, 300),
    share=st.floats(0.01, 1),
)
# A floor with room for none of its learner's records.
@example(rows=[(0, 0, 0.0, 8), (2, 2, 0.0, 8)], owners=[0, 1], budget=9, share=1.0)
def test_who_comes_short_of_its_floor_is_taken_in_until_none_does(
    policy: EvictionPolicy, rows: list[Row], owners: list[int], budget: int, share: float
) -> None:
    """The plain definition: turns, each over everything, against what finds the same in fewer."""
    candidates = owned(rows, owners)
    assert candidates.learner is not None
    budget = max(budget, int(candidates.charge.max()))
    places_of = [np.flatnonzero(candidates.learner == of) for of in np.unique(candidates.learner)]
    held = [int(candidates.charge[places].sum()) for places in places_of]
    floor = floor_by_words(held, int(share * budget), budget)
    first, is_short = [False] * len(rows), [False] * len(held)
    while True:
        keep = np.array(kept_behind(policy, candidates, first, budget))
        kept = [int(candidates.charge[places][keep[places]].sum()) for places in places_of]
        short = [at for at in range(len(held)) if not is_short[at] and kept[at] < min(held[at], floor)]
        if not short:
            break
        for at in short:
            is_short[at] = True
            alone = candidates.take(places_of[at])
            for place, stays in zip(
                places_of[at], kept_behind(policy, alone, [False] * len(alone.charge), floor), strict=True
            ):
                first[place] |= stays
    assert plan(policy, candidates, len(rows), budget, share).tolist() == keep.tolist()


@pytest.mark.parametrize("policy", PREFIX_POLICIES)
@given(rows=few_rows, budget=st.integers(1, 300))
def test_one_learner_alone_has_what_there_was_without_a_floor(
    policy: EvictionPolicy, rows: list[Row], budget: int
) -> None:
    assert (
        plan(policy, owned(rows, [7]), len(rows), budget, 0.5) == plan(policy, candidates_of(rows), len(rows), budget)
    ).all()


def test_class_quotas_are_as_equal_as_floors_let_them_be() -> None:
    # Learner 0 has class 0 alone; the other has 1 and 2, and more bytes than there are.
    rows = [(0, 0, 0.0, 1)] * 50 + [(1, 0, 0.0, 1)] * 100 + [(2, 0, 0.0, 1)] * 100
    candidates = replace(candidates_of(rows), learner=np.repeat(np.array([0, 1], np.uint32), [50, 200]))

    def kept(share: float | None) -> list[int]:
        keep = plan("class_balanced", candidates, len(rows), 90, share)
        return [int(np.count_nonzero(candidates.class_id[keep] == of)) for of in range(3)]

    assert kept(None) == [30, 30, 30]
    assert kept(0.2) == [30, 30, 30]
    assert kept(0.5) == [45, 23, 22]


def test_reject_leaves_free_what_others_need_to_come_up_to_their_floor() -> None:
    stored = [(0, 0, 0.0, 10)] * 2
    both = replace(candidates_of([*stored, (0, 0, 0.0, 45)]), learner=np.array([0, 1, 1], np.uint32))
    with pytest.raises(BudgetError) as refused:
        plan("reject", both, 2, 100, 0.5)
    # 40 of the 80 that are free are learner 0's.
    assert refused.value.details["free_bytes"] == 40
    assert plan("reject", both, 2, 100, 0.3).all()
    # Whoever is within its own is not asked to.
    assert plan("reject", replace(both, charge=np.array([10, 45, 5])), 2, 100, 0.5).all()
