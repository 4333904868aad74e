"""What threads do ahead of its use: in order, not too far, and no further than asked for."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from client.prefetch import Prefetched
from tests.client.test_dataset import eventually
from tests.client.test_network import in_a_fork


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")] == []


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_the_order_of_their_items(ahead: int, threads: int) -> None:
    done = threading.Event()

    def work(item: int) -> int:
        done.wait(0.01 if item == 0 else 0)  # the first comes last
        return item * item

    assert list(Prefetched(work, range(20), ahead=ahead, threads=threads)) == [item * item for item in range(20)]
    assert list(Prefetched(work, [], ahead=ahead, threads=threads)) == []


def test_items_are_taken_as_far_ahead_as_is_said() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    with Prefetched(str, items(), ahead=3) as results:
        assert taken == [0, 1, 2]
        assert next(results) == "0"
        assert taken == [0, 1, 2, 3]
    assert list(results) == []


def test_an_error_comes_in_its_place_and_ends_it() -> None:
    def work(item: int) -> int:
        return 6 // (3 - item)

    results = Prefetched(work, range(9), ahead=9, threads=3)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_error_of_the_items_ends_it_too() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(Prefetched(str, items(), ahead=1))


def test_what_has_become_useless_is_done_again() -> None:
    edition = 1
    asked: list[int] = []

    def work(item: int) -> tuple[int, int]:
        asked.append(item)
        return item, edition

    results = Prefetched(work, range(6), ahead=3, is_stale=lambda result: result[1] < edition)
    assert next(results) == (0, 1)
    eventually(lambda: asked == [0, 1, 2, 3])
    results._pending[-1][1].result()
    edition = 2
    assert list(results) == [(item, 2) for item in range(1, 6)]
    assert sorted(asked) == [0, 1, 1, 2, 2, 3, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_where_the_threads_are() -> None:
    with Prefetched(str, range(9), ahead=2) as results:

        def ask() -> None:
            with pytest.raises(RuntimeError, match="another process"):
                next(results)
            results.close()

        in_a_fork(ask)
        assert next(results) == "0"


def test_closing_cuts_what_is_under_way() -> None:
    asked = threading.Event()

    def work(item: int) -> int:
        assert asked.wait(60)
        return item

    results = Prefetched(work, range(4), ahead=2, threads=2, cut=asked.set)
    results.close()
    assert asked.is_set()
