"""Payloads that come in are decoded by as many threads as processors are free, and the first bad one is told."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from memory_format import Batch, FormatError, Record, WebP, encode_batch, make_record, read_batch
from memory_format import body as body_module
from memory_service.store import decoding
from memory_service.store.decoding import Decoders, give_way

NUM = 12
SECONDS = 20


def batch_of(*, undecodable: tuple[int, ...] = (), mismatched: tuple[int, ...] = ()) -> Batch:
    """Records whose rank is their place; of some the payload is damaged, of others it is of another size."""

    def record(place: int) -> Record:
        px = 32 if place in mismatched else 16
        patches = np.zeros((1, px, px, 3), np.uint8)
        made = make_record(
            class_id=0, rank=place, patches=patches, keep_mask=np.ones((1, 1), bool), codec=WebP(quality=80)
        )
        payload = made.payload[:10] + b"\xff" * 4 if place in undecodable else made.payload
        return replace(made, payload=payload, patch_px=16)

    return read_batch(encode_batch([record(place) for place in range(NUM)]))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Have something called with the place of each record before it is decoded; all are worth another thread."""
    monkeypatch.setattr(decoding, "_LEAST_EACH", 0.0)
    monkeypatch.setattr(decoding, "_SECONDS_OF_WORK", 1e-9)

    def set_look(look: Callable[[int], None]) -> None:
        def check(row: tuple[int, ...], body: bytes) -> None:
            look(row[2])
            body_module.check_payload(row, body)  # type: ignore[arg-type]

        monkeypatch.setattr(decoding, "check_payload", check)

    return set_look


Looked = Callable[[Callable[[int], None]], None]


def test_as_many_records_are_decoded_at_a_time_as_there_are_processors(looked_at: Looked) -> None:
    together, lock = threading.Barrier(3), threading.Lock()
    now, most, places = 0, 0, []

    def look(place: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            places.append(place)
        if 1 <= place <= 3:
            # Nobody goes on before three are there.
            together.wait(SECONDS)
        with lock:
            now -= 1

    looked_at(look)
    Decoders(3).check(batch_of())
    assert most == 3
    assert sorted(places) == list(range(NUM))


@pytest.mark.parametrize("processors", [1, 3])
def test_the_first_bad_record_is_told_also_where_a_later_one_is_found_before_it(
    looked_at: Looked, processors: int
) -> None:
    found_later = threading.Event()

    def look(place: int) -> None:
        if place == 4 and processors > 1:
            found_later.wait(SECONDS)
        elif place == 6:
            found_later.set()
        assert processors > 1 or place <= 4

    looked_at(look)
    with pytest.raises(FormatError, match=r"^record 4: ") as refused:
        Decoders(processors).check(batch_of(undecodable=(4, 6, 9)))
    assert (refused.value.code, refused.value.details["index"]) == ("invalid_payload", 4)


@pytest.mark.parametrize(("undecodable", "mismatched", "told"), [(3, 7, 3), (7, 3, 3), (11, 0, 0), (0, 11, 0)])
def test_what_needs_no_pixels_and_what_does_are_told_in_the_order_of_the_push(
    undecodable: int, mismatched: int, told: int
) -> None:
    with pytest.raises(FormatError, match=rf"^record {told}: ") as refused:
        Decoders(2).check(batch_of(undecodable=(undecodable,), mismatched=(mismatched,)))
    assert refused.value.code == ("invalid_payload" if told == undecodable else "payload_mismatch")


def test_pushes_that_fill_the_processors_by_themselves_get_no_help(looked_at: Looked) -> None:
    decoders, both, threads = Decoders(2), threading.Barrier(2), set[str]()
    ends = threading.Barrier(2)

    def look(place: int) -> None:
        threads.add(threading.current_thread().name)
        if place == 0:
            both.wait(SECONDS)
        elif place == NUM - 1:
            ends.wait(SECONDS)

    looked_at(look)
    batch = batch_of()
    with ThreadPoolExecutor(2, "push") as pool:
        list(pool.map(lambda _: decoders.check(batch), range(2)))
    assert {name.split("_")[0] for name in threads} == {"push"}


def test_who_helps_leaves_when_another_push_comes(looked_at: Looked) -> None:
    decoders, helped, came, left = Decoders(2), threading.Event(), threading.Event(), threading.Event()
    by_helpers: list[int] = []

    def look(place: int) -> None:
        name = threading.current_thread().name
        if name.startswith("decoder"):
            if not left.is_set():
                by_helpers.append(place)
            helped.set()
            came.wait(SECONDS)
        elif name == "other":
            came.set()
            left.wait(SECONDS)
        elif place > 0:
            # Until the other one has come, and then all that is left.
            helped.wait(SECONDS)
            came.wait(SECONDS)
            if place == NUM - 1:
                left.set()

    looked_at(look)

    def push_another() -> None:
        helped.wait(SECONDS)
        decoders.check(batch_of())

    other = threading.Thread(target=push_another, name="other")
    other.start()
    decoders.check(batch_of())
    other.join(SECONDS)
    assert len(by_helpers) == 1


@pytest.mark.parametrize(("processors", "names"), [(2, {"MainThread"}), (3, {"MainThread", "decoder"})])
def test_a_processor_is_left_to_who_draws(
    looked_at: Looked, monkeypatch: pytest.MonkeyPatch, processors: int, names: set[str]
) -> None:
    monkeypatch.setattr(decoding, "_DRAWN_SECONDS", SECONDS)
    threads, both = set[str](), threading.Barrier(len(names))

    def look(place: int) -> None:
        threads.add(threading.current_thread().name)
        if place in (1, 2):
            both.wait(SECONDS)

    looked_at(look)
    decoders = Decoders(processors)
    decoders.note_draw()
    decoders.check(batch_of())
    assert {name.split("_")[0] for name in threads} == names
    assert len(threads) == len(names)


def test_what_nobody_expects_of_a_codec_is_raised_by_the_push(looked_at: Looked) -> None:
    helped = threading.Event()

    def look(place: int) -> None:
        if threading.current_thread().name.startswith("decoder"):
            helped.set()
            raise ZeroDivisionError
        if place > 0:
            helped.wait(SECONDS)

    looked_at(look)
    decoders = Decoders(2)
    for _ in range(2):
        helped.clear()
        with pytest.raises(ZeroDivisionError):
            decoders.check(batch_of())


def test_small_records_are_decoded_by_who_brings_them(looked_at: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set[str]()
    looked_at(lambda _place: names.add(threading.current_thread().name))
    monkeypatch.setattr(decoding, "_LEAST_EACH", 1000.0)
    Decoders(4).check(batch_of())
    assert names == {threading.current_thread().name}


def test_who_can_have_no_more_threads_goes_on_alone(looked_at: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    looked_at(places.append)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    decoders = Decoders(2)
    for _ in range(2):
        decoders.check(batch_of())
    assert places == 2 * list(range(NUM))


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own elsewhere")
def test_a_thread_that_gives_way_is_behind_the_first_one_and_no_further_if_whoever_made_it_is() -> None:
    found: list[int] = []

    def begin(nice: int) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        with ThreadPoolExecutor(1, initializer=give_way) as pool:
            found.append(pool.submit(os.getpriority, os.PRIO_PROCESS, 0).result())

    first = os.getpriority(os.PRIO_PROCESS, os.getpid())
    for nice in (0, 5, 9):
        thread = threading.Thread(target=begin, args=(nice,))
        thread.start()
        thread.join()
    assert found == [min(19, first + nice) for nice in (5, 5, 9)]
