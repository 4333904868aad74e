"""The simulation of many replicas: what is in the way is what has too much to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.decisions.scale import Constants, Outcome, World, simulate

CONSTANTS = Constants(draw=0.001, row=1e-6, record_memory=100, statement=1e-5, push=0.001, note=1e-4, get=1e-4)
WORLD = World(learners=40, replicas=4, exemplars=4e6, buffers=40, push_every=5.0, object_cores=100, cache_bytes=1e15)


def _fullest(outcome: Outcome) -> tuple[str, float]:
    return max(outcome.busy.items(), key=lambda item: item[1])


def test_as_many_draws_as_learners_ask_for_where_nothing_is_full() -> None:
    outcome = simulate(WORLD, CONSTANTS)
    assert outcome.draws == pytest.approx(outcome.wanted, rel=0.02)
    assert outcome.memory == 4e8
    # The work of draws and of catching up, on as many cores.
    (_, share) = _fullest(outcome)
    assert 80 * 0.001 / 4 < share < 0.9


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("a replica's core", {"draw": 0.1}),
        ("the database", {"statement": 0.5}),
        ("a buffer's changes", {"push": 10.0}),
    ],
)
def test_what_takes_too_long_is_full(part: str, change: dict[str, float]) -> None:
    outcome = simulate(replace(WORLD, push_every=5.0, by_learner=True), replace(CONSTANTS, **change))
    name, share = _fullest(outcome)
    assert (name, share > 0.9) == (part, True)


def test_who_stays_with_a_replica_does_not_wait_for_it_to_catch_up() -> None:
    anywhere, stays = simulate(WORLD, CONSTANTS), simulate(replace(WORLD, by_learner=True), CONSTANTS)
    assert stays.p99 < 0.01 < 0.1 < anywhere.p99
    new = simulate(replace(WORLD, only_new=True), CONSTANTS)
    assert new.p99 < 0.01


def test_what_is_not_copied_is_fetched() -> None:
    some = replace(WORLD, cache_bytes=WORLD.exemplars * WORLD.record_bytes / 4)
    assert some.missed == 0.75
    assert replace(some, by_learner=True).missed == 0
    assert simulate(some, CONSTANTS).busy["the object store"] > 0 == simulate(WORLD, CONSTANTS).busy["the object store"]
