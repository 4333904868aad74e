"""Batches that a process of this machine reads by itself: what it holds is in the books, and not for long."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from memory_format import NotFoundError, StorageError, checksum, decode_batch, encode_batch
from memory_service.store import Store
from memory_service.store.lent import LentBatch, NotLentError
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from tests.memory_service.memory_ports import MemoryStores
from tests.memory_service.test_leases import ALL, SIZE, batch, full_buffer, push_all


def bodies_of(lent: LentBatch) -> list[bytes]:
    rows = lent.rows.rows
    places = zip(rows["segment"].tolist(), rows["length"].tolist(), rows["offset"].tolist(), strict=True)
    return [os.pread(lent.descriptors[which], length, offset) for which, length, offset in places]


def test_a_lent_batch_is_the_one_that_is_drawn(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        for request in (ALL, SampleRequest(20, seed=3, step=5), SampleRequest(20, seed=3, strategy="class_balanced")):
            lent = buffer.lend(request)
            drawn = decode_batch(bytes(buffer.sample(request)[0]))
            assert lent.rows.rows["exemplar_id"].tolist() == [record.exemplar_id for record in drawn]
            assert bodies_of(lent) == [record.body for record in drawn]
            assert lent.rows.version == buffer.state.version
            lent.lease.close()


def test_what_is_removed_counts_until_who_reads_it_is_done(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        lent = buffer.lend(ALL)
        crcs = lent.rows.rows["crc32"].tolist()
        assert buffer.stats().held_bytes == 0
        buffer.push(encode_batch(batch(60, 60)))
        assert buffer.stats().held_bytes >= 55 * SIZE
        assert [checksum.crc32(body) for body in bodies_of(lent)] == crcs
        lent.lease.close()
        assert buffer.stats().held_bytes == 0


def test_a_change_that_needs_the_room_waits_for_who_reads(data: Path) -> None:
    """The disk limit holds at every moment: what is read is gone before anything is written in its room."""
    with full_buffer(data, limit=1.6) as (_, buffer):
        lent = buffer.lend(ALL)
        pushing = threading.Thread(target=push_all, args=(buffer, range(60, 180, 10)))
        pushing.start()
        time.sleep(0.2)
        assert not lent.lease.ended
        lent.lease.close()
        pushing.join(20)
        assert not lent.lease.ended
        figures = buffer.stats()
        assert figures.disk_bytes <= figures.disk_limit_bytes


def test_who_does_not_say_that_he_is_done_is_not_waited_for_long(data: Path) -> None:
    with full_buffer(data, limit=1.6) as (_, buffer):
        lent = buffer.lend(ALL)
        told = threading.Event()
        lent.lease.on_end = told.set
        began = time.monotonic()
        push_all(buffer, range(60, 180, 10))
        assert told.is_set()
        assert lent.lease.ended
        assert time.monotonic() - began < 15
        figures = buffer.stats()
        assert figures.held_bytes == 0
        assert figures.disk_bytes <= figures.disk_limit_bytes


def test_a_record_that_is_known_to_be_damaged_is_not_lent(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        for path in (data / "segments").iterdir():
            content = bytearray(path.read_bytes())
            for at in range(0, len(content), 1000):
                content[at] ^= 1
            with path.open("r+b") as file:
                file.write(content)
        with pytest.raises(StorageError):
            buffer.sample(ALL)
        with pytest.raises(StorageError) as caught:
            buffer.lend(ALL)
        assert caught.value.code == "corrupt_record"
        assert not buffer.contents.readers.in_the_way()


def test_more_files_than_can_be_held_are_not_lent(data: Path) -> None:
    with Store(data, Options(segment_bytes=100_000, open_segments=4)) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=60 * SIZE)
        buffer.push(encode_batch(batch(0, 60)))
        with pytest.raises(NotLentError, match="files"):
            buffer.lend(ALL)
        with pytest.raises(NotFoundError):
            buffer.lend(SampleRequest(1, snapshot="none"))


def test_segments_that_are_no_files_are_not_lent(data: Path) -> None:
    with Store(data, Options(), open_ports=MemoryStores().open_ports) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=60 * SIZE)
        buffer.push(encode_batch(batch(0, 5)))
        with pytest.raises(NotLentError, match="no files"):
            buffer.lend(SampleRequest(5))
        assert not buffer.contents.readers.in_the_way()
