"""Whose turn it is: who samples waits for who pushes, and for nobody else."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from memory_service.http.admission import Admission
from memory_service.http.pace import Pace
from memory_service.settings import Settings
from tests.memory_service.helpers import wait_until


def new_admission() -> Admission:
    return Admission(Settings(data=Path("store")))


async def drawn_in_turn(admission: Admission, seconds: float) -> list[tuple[float, float]]:
    """When each of four draws began and ended."""
    found = []

    async def draw() -> None:
        async with admission.turn():
            began = time.monotonic()
            time.sleep(seconds)
            found.append((began, time.monotonic()))

    await asyncio.gather(*(draw() for _ in range(4)))
    return found


def test_samplers_leave_half_of_the_time_to_who_pushes() -> None:
    async def beside_a_push() -> list[tuple[float, float]]:
        admission = new_admission()
        with admission.push():
            return await drawn_in_turn(admission, 0.02)

    found = asyncio.run(beside_a_push())
    for (began, ended), (next_began, _) in pairwise(found):
        assert next_began - ended >= 0.9 * (ended - began)


def test_samplers_leave_pushes_the_time_that_these_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = 3600.0
    monkeypatch.setattr(Pace, "seconds_behind", lambda _self: lacking)

    async def beside_a_push() -> list[tuple[float, float]]:
        nonlocal lacking
        admission, done = new_admission(), threading.Event()
        with admission.push():
            # While it is on its way, no thread lacks anything.
            await drawn_in_turn(admission, 0.0)
            lacking = 0.03
            pushing = asyncio.ensure_future(admission.pushes.run(done.wait))
            await asyncio.sleep(0)
            found = await drawn_in_turn(admission, 0.0)
            done.set()
            await pushing
            return found

    found = asyncio.run(beside_a_push())
    for (_, ended), (next_began, _) in pairwise(found):
        assert next_began - ended >= 0.029


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_one_push_after_another_has_the_priority_of_all_others_whatever_was_before() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    async def pushed() -> tuple[list[int], list[int]]:
        pushes, met = new_admission().pushes, threading.Barrier(4)

        def push() -> int:
            met.wait(30)
            return niceness()

        at_once = await asyncio.gather(*(pushes.run(push) for _ in range(4)))
        return sorted(at_once), [await pushes.run(niceness) for _ in range(20)]

    own = niceness()
    if own > 14:
        pytest.skip("there is no lower priority than this process's")
    assert asyncio.run(pushed()) == ([own, own + 5, own + 5, own + 5], [own] * 20)


def test_threads_are_behind_by_what_they_waited_for_a_processor(tmp_path: Path) -> None:
    pace, told = Pace(), tmp_path / "schedstat"

    def behind(ran_ms: float, waited_ms: float) -> float:
        told.write_text(f"{ran_ms * 1e6:.0f} {waited_ms * 1e6:.0f} 7\n")
        return 1e3 * pace.seconds_behind()

    assert pace.seconds_behind() == 0.0
    told.touch()
    with told.open("rb") as file:
        pace.watch(os.dup(file.fileno()))
        assert behind(100, 0) == 0.0
        # A third of its time each way is no more than it is to wait.
        assert behind(120, 10) == 0.0
        # 2 ms run, and 4 waited: it should have run for 4, and if it runs alone from here on, does so in 6 ms.
        assert behind(122, 14) == pytest.approx(6.0)
        assert behind(128, 14) == pytest.approx(0.0, abs=1e-6)
        # What it had more before is not kept for it; nor is a long wait made up for at once.
        assert behind(200, 14) == 0.0
        assert behind(200, 914) == pytest.approx(15.0)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="it is not counted here")
def test_what_a_thread_has_run_is_told_for_as_long_as_it_is_asked() -> None:
    pace, done, asked = Pace(), threading.Event(), threading.Event()

    def work(pace: Pace) -> None:
        pace.join()
        sum(range(10**5))
        done.set()
        asked.wait()

    thread = threading.Thread(target=work, args=(pace,))
    thread.start()
    done.wait()
    (file,) = pace.files
    assert 0.0 <= pace.seconds_behind() <= 0.015
    # Linux adds up what a thread has run when it stops.
    wait_until(lambda: int(os.pread(file, 64, 0).split()[0]) > 0)
    asked.set()
    thread.join()
    del pace
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_one_draw_a_turn_of_the_loop_and_no_pause_where_nobody_pushes() -> None:
    async def alone() -> tuple[int, list[tuple[float, float]]]:
        turns, ended = 0, False

        async def count() -> None:
            nonlocal turns
            while not ended:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        found = await drawn_in_turn(new_admission(), 0.0)
        ended = True
        await counting
        return turns, found

    turns, found = asyncio.run(alone())
    assert len(found) == 4
    # One between each two; a pause would be thousands.
    assert 3 <= turns <= 20


def test_a_draw_that_fails_ends_its_turn() -> None:
    async def twice() -> int:
        admission = new_admission()
        for _ in range(2):
            with suppress(BlockingIOError):
                async with admission.turn():
                    raise BlockingIOError
        return 2

    assert asyncio.run(asyncio.wait_for(twice(), 5)) == 2
