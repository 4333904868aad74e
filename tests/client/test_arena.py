"""The file that processes share: what is found there is what was put there, whoever dies in between."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import _arena
from client._arena import Arena

MIB = 2**20
FORK = multiprocessing.get_context("fork")


def pixels_of(number: int, size: int = 20_000) -> NDArray[np.uint8]:
    """Different for each number, in every byte."""
    return np.random.default_rng(number).integers(0, 256, size + number % 100, dtype=np.uint8)


def front_of(number: int) -> bytes:
    return b"front %d" % number * (1 + number % 5)


def put(arena: Arena, number: int, scope: int = 7) -> None:
    arena.put(scope, number, number ^ 0xABC, front_of(number), pixels_of(number))


def found(arena: Arena, numbers: range, scope: int = 7) -> set[int]:
    """Those that are there, which are right."""
    held = arena.find(scope, {number: number ^ 0xABC for number in numbers})
    for number, (entry, front) in held.items():
        copy = arena.pixels(entry).copy()
        if not arena.lost([entry]):
            assert front == front_of(number)
            np.testing.assert_array_equal(copy, pixels_of(number))
    return set(held)


def another(arena: Arena) -> Arena:
    """The same file as a second process sees it."""
    return Arena(arena.num_bytes, os.dup(arena.descriptor))


def test_the_oldest_make_room_and_nothing_takes_more_than_there_is() -> None:
    arena = Arena(MIB)
    for number in range(200):
        put(arena, number)
        assert number in found(arena, range(number, number + 1))
    here = found(arena, range(200))
    assert here == set(range(200 - len(here), 200))
    assert 40 <= len(here) <= arena.log_bytes // 20_000
    assert os.fstat(arena.descriptor).st_size == MIB
    assert found(another(arena), range(200)) == here


def test_another_crc_or_scope_is_another_exemplar() -> None:
    arena = Arena(MIB)
    put(arena, 1)
    assert arena.find(7, {1: 99}) == {}
    assert arena.find(8, {1: 1 ^ 0xABC}) == {}
    arena.put(7, 1, 99, b"new", np.ones(10, np.uint8))
    ((entry, front),) = arena.find(7, {1: 99}).values()
    assert (front, arena.pixels(entry).tolist()) == (b"new", [1] * 10)
    assert found(arena, range(2)) == set()


def test_a_front_alone_is_completed_later_and_nothing_is_there_twice() -> None:
    arena, other = Arena(MIB), None
    arena.put(7, 3, 3 ^ 0xABC, front_of(3), None)
    ((entry, front),) = arena.find(7, {3: 3 ^ 0xABC}).values()
    assert (entry.pixel_bytes, front) == (0, front_of(3))
    other = another(arena)
    for _ in range(5):
        put(arena, 3)
        put(other, 3)
        other.put(7, 3, 3 ^ 0xABC, front_of(3), None)
    assert found(arena, range(4)) == found(other, range(4)) == {3}
    assert len(other._entries) == 2


def test_what_is_too_large_is_left_out() -> None:
    arena = Arena(MIB)
    put(arena, 1)
    arena.put(7, 2, 2, b"", np.zeros(MIB, np.uint8))
    assert found(arena, range(2)) == {1}
    arena.put(7, 2, 2, b"", np.zeros(arena.log_bytes, np.uint8))
    assert set(arena.find(7, {1: 1 ^ 0xABC, 2: 2})) == {2}
    put(arena, 1)
    assert set(arena.find(7, {1: 1 ^ 0xABC, 2: 2})) == {1}


def test_many_small_ones_do_not_outgrow_their_list() -> None:
    arena = Arena(MIB)
    for number in range(3000):
        arena.put(7, number, 1, b"%d" % number, np.full(8, number % 256, np.uint8))
    here = another(arena).find(7, dict.fromkeys(range(3000), 1))
    assert set(here) == set(range(3000 - MIB // 2048, 3000))
    assert all(front == b"%d" % number for number, (_, front) in here.items())


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 400_000), st.booleans()), max_size=40),
)
def test_two_processes_see_what_was_put_last(puts: list[tuple[bool, int, int, bool]]) -> None:
    arenas = [Arena(MIB)]
    arenas.append(another(arenas[0]))
    content: dict[int, tuple[bytes, int]] = {}
    for count, (which, id_, size, is_whole) in enumerate(puts):
        arena = arenas[which]
        front = b"%d" % count
        arena.put(1, id_, count, front, np.full(size, count, np.uint8) if is_whole else None)
        content[id_] = (front, count)
        held = arenas[1 - which].find(1, {id_: count})
        assert held, "the newest one is there"
        for reader in arenas:
            for known, (expected, crc) in content.items():
                for entry, got in reader.find(1, {known: crc}).values():
                    assert got == expected
                    assert set(reader.pixels(entry).tolist()) <= {crc}
                    assert not reader.lost([entry])


def test_who_reads_learns_that_it_was_written_over() -> None:
    arena = Arena(MIB)
    writer = another(arena)
    put(arena, 0)
    put(arena, 1)
    entries = [entry for entry, _ in arena.find(7, {0: 0xABC, 1: 1 ^ 0xABC}).values()]
    assert arena.lost(entries) == []
    number = 2
    while not arena.lost(entries):
        assert [arena.pixels(entry).tolist() for entry in entries] == [pixels_of(n).tolist() for n in (0, 1)]
        put(writer, number)
        number += 1
    assert number > 30
    assert arena.lost(entries)[0] == 0


@pytest.mark.parametrize("at", range(1, 5))
def test_a_write_that_ends_anywhere_leaves_good_entries(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena(MIB)
    for number in range(60):
        put(arena, number)

    class KilledError(BaseException): ...

    calls = iter(range(1, 5))

    def dying(write: object) -> object:
        def call(descriptor: int, data: object, place: int) -> int:
            if next(calls) == at:
                raise KilledError
            return write(descriptor, data, place)  # type: ignore[operator, no-any-return]

        return call

    monkeypatch.setattr(os, "pwrite", dying(os.pwrite))
    monkeypatch.setattr(os, "pwritev", dying(os.pwritev))
    with pytest.raises(KilledError):
        put(arena, 60)
    monkeypatch.undo()
    survivor = another(arena)
    before = found(survivor, range(61))
    assert 60 not in before
    assert len(before) > 35
    put(survivor, 61)
    assert 61 in found(survivor, range(62))


@pytest.mark.parametrize("is_known", [False, True])
def test_an_interrupt_anywhere_leaves_good_entries(monkeypatch: pytest.MonkeyPatch, is_known: bool) -> None:
    monkeypatch.setattr(_arena, "_PATIENCE_S", 0.01)
    arena = Arena(MIB)
    for number in range(60):
        put(arena, number)
    for at in itertools.count():
        number = 10 if is_known else 100 + at
        if not interrupted(partial(put, arena, number), at):
            break
        if arena._threads.locked():
            # Interrupted between having the lock and knowing it: this process goes without from now on.
            assert found(arena, range(1000)) == set()
            arena.start_anew()
        # Another process puts something, and so does the one that was interrupted.
        survivor = another(arena)
        put(survivor, 300 + at)
        put(arena, 500 + at)
        for reader in (survivor, another(arena), arena):
            here = found(reader, range(1000))
            assert reader is arena or 300 + at in here
    assert at > 20


def interrupted(work: Callable[[], object], at: int) -> bool:
    """Whether Ctrl-C came before ``work`` was done: before it ran so many lines of the arena's code."""
    lines = itertools.count()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != _arena.__file__:
            return None
        if event == "line" and next(lines) == at:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_where_a_file_cannot_be_as_large_its_descriptor_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def full(descriptor: int, _: int) -> None:
        made.append(descriptor)
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "truncate", full)
    with pytest.raises(OSError, match="too large"):
        Arena(MIB)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


def fill_for_ever(arena: Arena, first: int) -> None:
    random.seed(first)
    while True:
        put(arena, first + random.randrange(100))


@pytest.fixture
def fillers() -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started: list[multiprocessing.process.BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join(10)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_processes_leave_it_whole_and_free(fillers: list[multiprocessing.process.BaseProcess]) -> None:
    arena = Arena(MIB)
    rng = random.Random(0)
    process: multiprocessing.process.BaseProcess
    for round_ in range(12):
        while len(fillers) < 3:
            process = FORK.Process(target=fill_for_ever, args=(arena, 100 * rng.randrange(3)))
            process.start()
            fillers.append(process)
        deadline = time.monotonic() + rng.random() * 0.05
        while time.monotonic() < deadline:
            found(arena, range(300))
        victim = fillers.pop(rng.randrange(3))
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(10)
        put(arena, 1000 + round_)
        found(arena, range(300))
    fillers_now, fillers[:] = list(fillers), []
    for process in fillers_now:
        process.kill()
        process.join(10)
    put(arena, 2000)
    assert 2000 in found(arena, range(2000, 2001))
    assert len(found(another(arena), range(300))) > 20


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_stopped_process_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arena, "_PATIENCE_S", 0.2)
    arena = Arena(MIB)
    put(arena, 1)
    (entry,) = (entry for entry, _ in arena.find(7, {1: 1 ^ 0xABC}).values())
    has_it, done = FORK.Event(), FORK.Event()

    def hold() -> None:
        with arena._locked():
            has_it.set()
            done.wait(60)

    process = FORK.Process(target=hold)
    process.start()
    try:
        assert has_it.wait(30)
        started = time.monotonic()
        assert found(arena, range(2)) == set()
        put(arena, 2)
        assert arena.lost([entry]) == [0], "nobody knows"
        for number in range(50):
            put(arena, number)
        assert time.monotonic() - started < 5
    finally:
        done.set()
        process.join(30)
    assert found(arena, range(3)) == {1}
    put(arena, 2)
    assert found(arena, range(3)) == {1, 2}


def test_threads_share_it() -> None:
    arena = Arena(MIB)
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            rng = random.Random(first)
            for _ in range(100):
                put(arena, rng.randrange(80))
                found(arena, range(rng.randrange(80), 80))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len({entry.exemplar_id for entry in arena._entries}) == len(arena._entries), "none is there twice"
