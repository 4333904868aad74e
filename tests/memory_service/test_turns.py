"""Whose turn it is: who samples waits for who pushes, and for nobody else."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import SecretStr

from memory_service.http.admission import Admission
from memory_service.http.pace import Pace, Pushers
from memory_service.settings import Settings
from tests.memory_service.helpers import wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no such lock elsewhere")


def new_admission() -> Admission:
    return Admission(Settings(data=Path("store")))


def replica(data: str, segments: str = "s3://bucket/one") -> Admission:
    return Admission(
        Settings(data=Path(data), replicas=True, index=SecretStr("postgresql+psycopg://"), segments=segments)
    )


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


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """For how long whoever pushes is behind; empty where nobody is to be looked at."""
    told: list[float] = []
    monkeypatch.setattr(Pace, "seconds_behind", lambda _self, _now: told[0])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return told


async def seconds_until_the_fourth_draw(admission: Admission) -> float:
    began = time.monotonic()
    return (await drawn_in_turn(admission, 0.0))[-1][0] - began


def test_samplers_leave_pushes_the_time_that_these_lack(lacking: list[float]) -> None:
    async def beside_a_push() -> float:
        admission, done = new_admission(), threading.Event()
        await admission.pushes.run(lambda: None)
        with admission.push():
            # While it is on its way, no thread lacks anything.
            await drawn_in_turn(admission, 0.0)
            lacking.append(0.03)
            pushing = asyncio.ensure_future(admission.pushes.run(done.wait))
            await asyncio.sleep(0)
            seconds = await seconds_until_the_fourth_draw(admission)
            done.set()
            await pushing
            return seconds

    assert asyncio.run(beside_a_push()) >= 0.089


@linux
def test_samplers_of_a_replica_leave_the_time_to_pushes_through_others_on_the_machine(
    lacking: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def beside_pushes() -> float:
        pushed, drawn, other = replica("a"), replica("b"), replica("c", "s3://bucket/other")
        with monkeypatch.context() as patched:
            patched.setattr(os, "sched_getaffinity", lambda _process: {10_000})
            elsewhere = replica("d")
        done = threading.Event()
        await pushed.pushes.run(lambda: None)
        pushing = [asyncio.ensure_future(pushed.pushes.run(done.wait))]
        await asyncio.sleep(0)
        lacking.append(0.03)
        seconds = await seconds_until_the_fourth_draw(drawn)
        lacking.clear()
        # Of another store, or on other processors; then two that wait for each other, too; then none.
        await drawn_in_turn(other, 0.0)
        await drawn_in_turn(elsewhere, 0.0)
        pushing.append(asyncio.ensure_future(pushed.pushes.run(done.wait)))
        await asyncio.sleep(0)
        await drawn_in_turn(drawn, 0.0)
        done.set()
        await asyncio.gather(*pushing)
        await drawn_in_turn(drawn, 0.0)
        return seconds

    assert asyncio.run(beside_pushes()) >= 0.089


@linux
def test_all_processes_of_a_machine_take_turns_while_one_pushes(
    lacking: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    # Of an earlier start of the machine.
    told.write_bytes(struct.pack("@d", 1e6))
    told.chmod(0o600)
    processes = [Pushers(told) for _ in range(3)]

    def seconds_to_wait(now: float) -> list[float]:
        return [process.seconds_to_wait(now) for process in processes]

    for number, process in enumerate(processes):
        # Where it has no thread yet, it does not push either.
        process.tell(True)
        monkeypatch.setattr(threading, "get_native_id", lambda number=number: 1000 + number)
        process.join()
    assert seconds_to_wait(100.0) == [0.0, 0.0, 0.0]

    lacking.append(0.01)
    processes[1].tell(True)
    assert seconds_to_wait(100.0) == pytest.approx([0.2, 0.2, 0.2])
    assert seconds_to_wait(101.0) == pytest.approx([0.0, 0.01, 0.02])
    assert seconds_to_wait(101.025) == pytest.approx([0.005, 0.015, 0.025])
    # Who is nearer to where it should be is waited for less.
    lacking[0] = 0.002
    assert seconds_to_wait(102.0) == pytest.approx([0.0, 0.002, 0.004])

    with told.open("r+b") as file:
        # By whomever: it is no thread's.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 5000, 10**6)
        assert seconds_to_wait(103.0) == pytest.approx([0.0, 0.002, 0.004])

    processes[1].tell(False)
    lacking.clear()
    assert seconds_to_wait(102.0) == [0.0, 0.0, 0.0]
    # Who has ended does not push any more.
    processes[2].tell(True)
    del process, processes[2]
    gc.collect()
    assert seconds_to_wait(102.0) == [0.0, 0.0]
    assert told.stat().st_mode & 0o777 == 0o600
    # The last one takes it away.
    processes.clear()
    gc.collect()
    assert not told.exists()


@linux
@pytest.mark.parametrize("what", ["link", "directory", "missing"])
def test_who_cannot_tell_others_pushes_all_the_same(lacking: list[float], tmp_path: Path, what: str) -> None:
    told = tmp_path / "told"
    if what == "link":
        told.symlink_to(tmp_path / "elsewhere")
    elif what == "directory":
        told.mkdir()
    else:
        told /= "told"
    pushers = Pushers(told)
    pushers.join()
    pushers.tell(True)
    lacking.append(0.01)
    assert [pushers.seconds_to_wait(1.0), pushers.seconds_to_wait(1.0)] == pytest.approx([0.0, 0.01])
    pushers.tell(False)
    lacking.clear()
    assert pushers.seconds_to_wait(1.0) == 0.0
    assert not (tmp_path / "elsewhere").exists()


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
    told = tmp_path / "schedstat"

    def tell(ran_ms: float, waited_ms: float) -> None:
        told.write_text(f"{ran_ms * 1e6:.0f} {waited_ms * 1e6:.0f} 7\n")

    def behind(ran_ms: float, waited_ms: float) -> float:
        tell(ran_ms, waited_ms)
        return 1e3 * pace.seconds_behind(100.0)

    tell(0, 80)
    pace = Pace(str(told))
    assert behind(100, 80) == 0.0
    # A third of its time each way is no more than it is to wait.
    assert behind(120, 90) == 0.0
    # 2 ms run, and 4 waited: it should have run for 4, and if it runs alone from here on, does so in 6 ms.
    assert behind(122, 94) == pytest.approx(6.0)
    assert behind(128, 94) == pytest.approx(0.0, abs=1e-6)
    # What it had more before is not kept for it; nor is a long wait made up for at once.
    assert behind(200, 94) == 0.0
    assert behind(200, 994) == pytest.approx(15.0)
    # It waits for a disk or a database from here on, which nobody makes up for.
    assert 1e3 * pace.seconds_behind(100.1) == pytest.approx(15.0)
    assert pace.seconds_behind(100.3) == 0.0
    # It has ended.
    assert behind(200, 1094) == pytest.approx(15.0)
    told.unlink()
    assert pace.seconds_behind(100.3) == 0.0
    assert Pace(str(told)).seconds_behind(100.0) == 0.0


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="it is not counted here")
def test_linux_tells_of_a_thread_by_its_number() -> None:
    done, asked = threading.Event(), threading.Event()

    def work() -> None:
        sum(range(10**5))
        done.set()
        asked.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    # Linux adds up what a thread has run when it stops.
    wait_until(lambda: Pace(f"/proc/{thread.native_id}/schedstat")._told()[0] > 0)
    asked.set()
    thread.join()


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
