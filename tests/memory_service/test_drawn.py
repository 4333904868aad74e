"""Large samples, which are sent while they are read."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from client import MemoryClient
from memory_format import StorageError, decode_batch, encode_batch
from memory_service.store import Store
from memory_service.store.drawn import PIECE_BYTES, Drawn
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import Filter
from memory_service.store.segments import files
from memory_service.store.segments.local import SegmentFiles
from tests.descriptors import open_links
from tests.memory_service.helpers import Server, assert_problem, make_exemplar, push, put_buffer, wait_until

RECORDS = 24
PAD = PIECE_BYTES // 4
"""So that a batch of all records is some six pieces."""
ALL = {"batch_size": RECORDS, "replace": False}


def fill(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=64 * 2**20)
        buffer.push(encode_batch([make_exemplar(rank % 3, rank, pad=PAD) for rank in range(RECORDS)]))


def pieces_of(drawn: Drawn) -> Iterator[memoryview]:
    """All pieces, waited for."""
    while piece := drawn.next_piece():
        yield piece


def held_files(data: Path, process: int | str = "self") -> list[Path]:
    """Segment files that a process has open, removed ones too."""
    links = [Path(link) for _, link in open_links(process)]
    return [link for link in links if link.is_relative_to(data / "segments")]


def damage(data: Path, record: int) -> None:
    content = make_exemplar(record % 3, record, pad=PAD).payload
    for path in (data / "segments").iterdir():
        whole = bytearray(path.read_bytes())
        if (place := whole.find(content)) >= 0:
            whole[place + 10] ^= 1
            path.write_bytes(whole)
            return
    raise AssertionError("no segment holds the record")


def files_of(store: Store) -> SegmentFiles:
    """Its segments as what they are: the tests look into them."""
    assert isinstance(store._segments, SegmentFiles)
    return store._segments


def test_pieces_make_the_stream_that_is_read_at_once(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store(tmp_path) as store:
        buffer = store.buffer("b")
        for size in (1, 5, RECORDS):
            request = SampleRequest(batch_size=size, seed=size)
            whole, version = buffer.sample(request)
            with buffer.draw(request) as drawn:
                pieces = [bytes(piece) for piece in pieces_of(drawn)]
                assert drawn.version == version
            assert b"".join(pieces) == bytes(whole)
            assert len(pieces) == (1 if size <= 3 else 1 + -(-(size - 1) // 3))
            assert len(decode_batch(bytes(whole))) == size
            assert sum(descriptor.users for descriptor in files_of(store).open._open.values()) == 0


def test_what_is_rewritten_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store(tmp_path) as store:
        buffer = store.buffer("b")
        expected = bytes(buffer.sample(SampleRequest(batch_size=RECORDS))[0])
        with buffer.draw(SampleRequest(batch_size=RECORDS)) as drawn:
            pieces = pieces_of(drawn)
            got = bytes(next(pieces))
            store.delete_buffer("b")
            assert not list((tmp_path / "segments").iterdir())
            assert held_files(tmp_path)
            assert got + b"".join(map(bytes, pieces)) == expected
        assert not held_files(tmp_path)


def test_a_batch_from_more_segments_than_may_be_held_is_read_at_once(tmp_path: Path) -> None:
    """However many segments a batch is from, few files are open for it."""
    few = Options(segment_bytes=40_000, open_segments=4)
    most = 0
    real = os.preadv

    def counting(*arguments: Any) -> int:
        nonlocal most
        most = max(most, len(held_files(tmp_path)))
        return real(*arguments)

    with Store(tmp_path, few) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=4 * 2**20)
        for rank in range(40):
            buffer.push(encode_batch([make_exemplar(0, rank, pad=40_000)]))
        assert buffer.stats().segments == 40
        with mock.patch.object(os, "preadv", counting), buffer.draw(SampleRequest(batch_size=200)) as drawn:
            assert len(list(pieces_of(drawn))) == 1
            stream = bytes(drawn.stream)
        assert 1 <= most <= 4 + 16
        assert len(decode_batch(stream)) == 200


@pytest.mark.parametrize("answer", [-1, 0, 100], ids=["uncached or unsupported", "none", "part"])
def test_what_is_not_at_hand_is_said_and_nothing_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    # Every read keeps the lock.
    monkeypatch.setattr(files, "_SLOW_SECONDS", -1)
    fill(tmp_path)
    with Store(tmp_path) as store:
        buffer = store.buffer("b")
        request = SampleRequest(batch_size=RECORDS, strategy="class_balanced")
        with pytest.raises(BlockingIOError):
            buffer.draw(request, wait=False)  # the records are not grouped yet
        expected = bytes(buffer.sample(request)[0])
        with buffer.draw(request, wait=False) as drawn:
            got = bytes(drawn.next_piece(wait=False))
            with mock.patch.object(files, "_preadv2", return_value=answer):
                with pytest.raises(BlockingIOError):
                    drawn.next_piece(wait=False)
                got += bytes(drawn.next_piece())
            with mock.patch.object(files, "_IF_CACHED", 0), pytest.raises(BlockingIOError):
                drawn.next_piece(wait=False)
            with mock.patch.object(files, "_preadv2", None):
                # A C library that lacks it: every read gives the lock away.
                got += bytes(drawn.next_piece(wait=False))
            assert got + b"".join(pieces_of(drawn)) == expected
        assert not files_of(store).damaged


def test_what_takes_more_than_memory_is_not_at_hand(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store(tmp_path) as store:
        buffer = store.buffer("b")
        cold = SampleRequest(batch_size=2)
        with pytest.raises(BlockingIOError, match="not open"):
            buffer.draw(cold, wait=False)
        buffer.sample(cold)
        buffer.draw(cold, wait=False).close()
        with files_of(store).open._lock, pytest.raises(BlockingIOError, match="another thread"):
            buffer.draw(cold, wait=False)
        buffer.take_snapshot("now")
        for request in (
            SampleRequest(batch_size=600),
            SampleRequest(batch_size=2, repair_text=0.5),
            SampleRequest(batch_size=2, where=Filter(class_id=(1,))),
            SampleRequest(batch_size=2, strategy="score_weighted"),
            SampleRequest(batch_size=2, snapshot="now"),
        ):
            with pytest.raises(BlockingIOError):
                buffer.draw(request, wait=False)
            buffer.draw(request).close()
        assert sum(descriptor.users for descriptor in files_of(store).open._open.values()) == 0
        assert store._segments.room_to_hold() == Options().open_segments


def test_over_http_it_is_the_same(data: Path) -> None:
    fill(data)
    with Store(data) as store:
        expected = bytes(store.buffer("b").sample(SampleRequest(batch_size=RECORDS, replace=False))[0])
    with Server(data) as server, server.client() as client:
        answer = client.post("/v1/buffers/b/sample", json=ALL)
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["Exemplar-Memory-Version"] == "1"
        assert answer.content == expected


def test_damage_that_shows_late_ends_the_answer_and_is_an_error_from_then_on(data: Path) -> None:
    fill(data)
    with Store(data) as store:
        order = decode_batch(bytes(store.buffer("b").sample(SampleRequest(batch_size=RECORDS, replace=False))[0]))
    damage(data, order[-1].exemplar_id - 1)
    with Server(data) as server, server.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/buffers/b/sample", json=ALL)
        document = assert_problem(client.post("/v1/buffers/b/sample", json=ALL), "corrupt_record")
        assert "memory-service repair" in document["detail"]
        # What is sound can be drawn.
        good = client.post("/v1/buffers/b/sample", json={"batch_size": 1, "class_id": [(order[-1].class_id + 1) % 3]})
        assert len(decode_batch(good.content)) == 1


def test_the_client_says_which_it_is(data: Path) -> None:
    """Its retry of the answer that ended early gets the words."""
    fill(data)
    with Store(data) as store:
        order = decode_batch(bytes(store.buffer("b").sample(SampleRequest(batch_size=RECORDS, replace=False))[0]))
    damage(data, order[-1].exemplar_id - 1)
    with Server(data) as server, MemoryClient(server.url) as memory:
        with pytest.raises(StorageError, match="memory-service repair") as caught:
            memory.buffer("b").sample(RECORDS, replace=False)
        assert caught.value.code == "corrupt_record"


def test_who_goes_away_in_the_middle_leaves_nothing_held(data: Path) -> None:
    fill(data)
    with Server(data) as server, server.client() as client:
        for _ in range(4):
            with client.stream("POST", "/v1/buffers/b/sample", json=ALL) as answer:
                next(answer.iter_raw())
        assert client.delete("/v1/buffers/b").status_code == 204
        wait_until(lambda: not held_files(data, server.process.pid))
        put_buffer(client)
        push(client, [make_exemplar()])


def test_what_is_at_hand_is_read_without_giving_the_lock_away(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    target = memoryview(bytearray(100))
    reads = files.CachedReads(target)
    descriptor = files.open_for_reading(path)
    ended = threading.Event()
    turns = 0

    def take_turns() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    other = threading.Thread(target=take_turns)
    try:
        other.start()
        reads.keep_the_lock()
        # The lock is not asked for while this lasts: it changes hands only where it is given away.
        sys.setswitchinterval(60)
        before = turns
        for offset in range(100):
            assert reads.read(descriptor, target[25:75], offset, 25)
        assert turns == before
        time.sleep(0.01)
        assert turns > before
    finally:
        ended.set()
        sys.setswitchinterval(interval)
        other.join()
    assert bytes(target) == bytes(25) + bytes(range(99, 149)) + bytes(25)
    with pytest.raises(ValueError, match="bytes 51 to 101 do not lie in a target of 100"):
        reads.read(descriptor, target[:50], 0, 51)
    os.close(descriptor)
