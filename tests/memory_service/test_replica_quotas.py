"""What all buffers of a store may have together holds for all replicas together: never exceeded, and used in full."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from memory_format import BudgetError
from memory_service.store.directory import Places
from memory_service.store.pure.model import Budget, Options
from memory_service.store.segments import bucket
from memory_service.store.shared import SharedStore
from tests.postgres import PostgresServer

Pair = tuple[SharedStore, SharedStore]


@pytest.fixture
def open_pair(tmp_path: Path, postgres: PostgresServer) -> Iterator[Callable[[Options], Pair]]:
    """Opens two replicas in one process."""
    segments = f"memory://{uuid4().hex}"
    places = Places(postgres.new_schema(), segments, replicas=True)
    with ExitStack() as stack:
        stack.callback(bucket.forget_memory, segments)

        def opened(options: Options) -> Pair:
            first, second = (
                stack.enter_context(SharedStore(tmp_path / name, options, open_ports=places)) for name in ("one", "two")
            )
            return first, second

        yield opened


def at_once(number: int, work: Callable[[int], object]) -> None:
    """In so many threads."""
    together, failed = threading.Barrier(number), []

    def run(place: int) -> None:
        together.wait()
        try:
            work(place)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_budgets_of_all_replicas_together_have_a_quota(open_pair: Callable[[Options], Pair]) -> None:
    pair = open_pair(Options(total_budget_bytes=100_000))
    for number, store in enumerate(pair):
        store.create_buffer(f"grows-{number}", budget_bytes=10_000)
    refused: list[str] = []

    def make(place: int) -> None:
        store = pair[place % 2]
        try:
            if place < 4:
                store.create_buffer(f"b{place}", budget_bytes=20_000)
            elif place < 6:
                store.fork(f"grows-{1 - place % 2}", f"fork-{place}")
            else:
                budget = Budget(budget_bytes=40_000)
                store.buffer(f"grows-{place - 6}").configure(lambda config: replace(config, budget=budget))
        except BudgetError as error:
            refused.append(error.code)

    def total() -> int:
        found = {tuple((buffer.name, buffer.config.budget_bytes) for buffer in store.buffers()) for store in pair}
        assert len(found) == 1
        return sum(budget_bytes for _, budget_bytes in found.pop())

    at_once(8, make)
    assert set(refused) == {"quota_exceeded"}
    used = total()
    assert 60_000 < used <= 100_000
    if used < 100_000:
        pair[0].create_buffer("rest", budget_bytes=100_000 - used)
    for store in pair:
        with pytest.raises(BudgetError, match="0 of the 100000") as error:
            store.create_buffer("more", budget_bytes=1)
        assert error.value.details == {"requested_bytes": 1, "free_bytes": 0, "limit": 100_000}
    # What one deletes is free for the other.
    pair[0].delete_buffer("grows-0")
    pair[1].create_buffer("more", budget_bytes=100_000 - total())
    assert total() == 100_000
