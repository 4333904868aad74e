"""What the ledger says a buffer takes is never less than what it takes, and not absurdly more."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sqlalchemy as sa

from memory_format import BudgetError, Record, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.index import tables
from memory_service.store.pure import ledger
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.segments import appending, files
from tests.memory_service import disk
from tests.memory_service.helpers import make_exemplar, sql_of

ROOM = 10**9
PAGE = 4096


def index_file_bytes(data: Path) -> int:
    """Of the database, everything that was committed in it and no free pages at its end counted twice."""
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        free, page_bytes = (
            int(connection.execute(f"PRAGMA {of}").fetchone()[0]) for of in ("freelist_count", "page_size")
        )
    return (data / "index.sqlite").stat().st_size - free * page_bytes


def small(count: int, *, first: int = 0, **fields: Any) -> list[Record]:
    one = make_exemplar(0, 0, seed=first, **fields)
    return [one] * count


def push_each(buffer: Buffer, batches: list[list[Record]], *, keys: list[str] | None = None) -> None:
    for number, batch in enumerate(batches):
        buffer.push(encode_batch(batch), idempotency_key=keys[number] if keys else None)


def shuffled_ids(buffer: Buffer, count: int) -> list[int]:
    ids = buffer.state.columns["exemplar_id"].astype(np.int64)
    return [int(id_) for id_ in np.random.default_rng(0).permutation(ids)[:count]]


def fill_with_deaths(buffer: Buffer) -> None:
    ids = shuffled_ids(buffer, 6000)
    for first in range(0, len(ids), 500):
        buffer.delete(ids[first : first + 500])


def fill_with_scores(buffer: Buffer) -> None:
    ids = shuffled_ids(buffer, 6000)
    for first in range(0, len(ids), 500):
        part = ids[first : first + 500]
        buffer.update(part, scores=np.random.default_rng(first).random(500).tolist(), ranks=[2**32 - 1] * 500)


def fill_with_scores_for_snapshots(buffer: Buffer) -> None:
    ids = shuffled_ids(buffer, 2000)
    for number in range(4):
        buffer.take_snapshot(f"s{number}")
        buffer.update(ids, scores=np.random.default_rng(number).random(2000).tolist())


def fill_with_snapshots(buffer: Buffer) -> None:
    for number in range(250):
        buffer.take_snapshot(f"{number * 7919 % 1000:03d}".ljust(63, "x"))


def fill_with_classes(buffer: Buffer) -> None:
    ids = np.random.default_rng(0).choice(2**32, 6000, replace=False).tolist()
    one = make_exemplar()
    for first in range(0, 6000, 500):
        batch = [Record(**{**_fields(one), "class_id": id_}) for id_ in ids[first : first + 500]]
        buffer.push(encode_batch(batch))


def fill_with_learners(buffer: Buffer) -> None:
    for number in range(600):
        buffer.phases.enter(np.random.default_rng(number).bytes(32).hex(), number)


def fill_with_names(length: int) -> Callable[[Buffer], None]:
    def fill(buffer: Buffer) -> None:
        ids = np.random.default_rng(0).choice(2**32, 1500, replace=False).tolist()
        for first in range(0, 1500, 100):
            part = ids[first : first + 100]
            names = [np.random.default_rng(id_).bytes(100).hex()[:length] for id_ in part]
            buffer.name_classes(names, part)

    return fill


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def fill_with_answers(key: Callable[[int], str], size: int) -> Callable[[Buffer], None]:
    """Straight into the table: pushes by the thousand take long."""
    random = np.random.default_rng(0)

    def fill(buffer: Buffer) -> None:
        for first in range(0, 2000, 100):
            values = [
                {
                    "buffer_id": buffer.config.id,
                    "idempotency_key": key(number),
                    "digest": random.bytes(16),
                    "answer": random.bytes(size),
                    "created_at": 1.7e9 + number / 7,
                }
                for number in range(first, first + 100)
            ]
            with sql_of(buffer).writing() as transaction:
                transaction.connection.execute(tables.pushes.insert(), values)

    return fill


def random_key(length: int) -> Callable[[int], str]:
    return lambda number: np.random.default_rng(number).bytes(64).hex()[:length]


def fill_with_segments(buffer: Buffer) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        with sql_of(buffer).writing() as transaction:
            connection = transaction.connection
            for _ in range(150):
                values = {"stem": random.bytes(16).hex(), "file_bytes": 2**26, "num_records": 2**16, "sealed": True}
                made = connection.execute(tables.segments.insert().returning(tables.segments.c.id), values).scalar_one()
                connection.execute(tables.buffer_segments.insert(), {"buffer_id": buffer.config.id, "segment_id": made})


def fill_with_open_rows(*sizes: int, times: int) -> Callable[[Buffer], None]:
    def fill(buffer: Buffer) -> None:
        for _ in range(times):
            for size in sizes:
                buffer.push(encode_batch(small(size)))

    return fill


KINDS: dict[str, tuple[Callable[[Buffer], None], int]] = {
    # What fills, and how many records are there before.
    "deaths": (fill_with_deaths, 12_000),
    "scores": (fill_with_scores, 12_000),
    "scores for snapshots": (fill_with_scores_for_snapshots, 4000),
    "snapshots": (fill_with_snapshots, 1),
    "classes": (fill_with_classes, 0),
    "learners": (fill_with_learners, 0),
    "short names": (fill_with_names(12), 0),
    "the longest names": (fill_with_names(200), 0),
    "answers with short keys": (fill_with_answers(random_key(8), 120), 0),
    "answers with the longest keys": (fill_with_answers(random_key(128), 120), 0),
    "answers of middle size": (fill_with_answers(random_key(32), 2100), 0),
    "large answers": (fill_with_answers(random_key(32), 9000), 0),
    "segments": (fill_with_segments, 0),
    "open rows of one record": (fill_with_open_rows(1, times=700), 0),
    "open rows of half a page": (fill_with_open_rows(56, times=120), 0),
    "open rows of a third of a page": (fill_with_open_rows(36, times=120), 0),
    "open rows small and large": (fill_with_open_rows(3, 102, times=80), 0),
    "large open rows": (fill_with_open_rows(900, times=30), 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_takes_no_more_than_the_ledger_says(data: Path, kind: str) -> None:
    fill, records = KINDS[kind]
    store = Store(data)
    buffer, _ = store.create_buffer("b", budget_bytes=ROOM)
    for first in range(0, records, 10_000):
        buffer.push(encode_batch(small(min(10_000, records - first))))
    before, said_before = index_file_bytes(data), said(buffer)
    fill(buffer)
    # Read anew: some were filled straight into the tables.
    real, reported = index_file_bytes(data) - before, said(buffer) - said_before
    store.release()
    print(f"{kind}: {real} bytes really, {reported} in the ledger ({reported / real:.2f} x)")
    assert real >= 9 * PAGE
    # The page that the first row begins, and the one that SQLite keeps for its map of pages.
    assert reported >= real - 2 * PAGE
    assert reported < 4 * real


def said(buffer: Buffer) -> int:
    """The ledger's figure for the rows there are."""
    with sql_of(buffer).reading() as reading:
        counts = reading.contents(buffer.config.id)[buffer.config.id].counts
        s = tables.buffer_segments.c
        segments = reading.connection.execute(
            sa.select(sa.func.count()).select_from(tables.buffer_segments).where(s.buffer_id == buffer.config.id)
        ).scalar_one()
    states = buffer.state.segments.values()
    dead, open_bytes = sum(state.num_dead for state in states), sum(state.open_bytes for state in states)
    return counts.num_bytes(segments=segments, dead=dead) + open_bytes


def test_a_buffer_that_is_deleted_gives_its_pages_back(data: Path) -> None:
    with Store(data) as store:
        store.create_buffer("stays", budget_bytes=1000)
        before = index_file_bytes(data)
        buffer, _ = store.create_buffer("goes", budget_bytes=10**8)
        fill_with_names(200)(buffer)
        assert index_file_bytes(data) > before + 500_000
        store.delete_buffer("goes")
        assert (data / "index.sqlite-wal").stat().st_size <= sql_of(store)._wal_bytes
        assert (data / "index.sqlite").stat().st_size <= before + 16 * 1024


def test_a_description_counts(data: Path) -> None:
    with Store(data) as store:
        plain, _ = store.create_buffer("plain", budget_bytes=1000)
        wordy, _ = store.create_buffer("wordy", budget_bytes=1000, description="ä" * 10_000)
        assert wordy.stats().index_bytes - plain.stats().index_bytes >= 20_000


@dataclass
class Gauge:
    """The highest figures that the file system ever showed."""

    data: Path
    buffer: Buffer
    written: int = 0
    highest: float = 0.0
    samples: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        # Files come and go while this looks; what two looks agree on was so at one moment.
        first, second = self._total(), self._total()
        if first == second:
            with self._lock:
                self.samples += 1
                self.highest = max(self.highest, first[0] / self.buffer.config.disk_limit_bytes)

    def _total(self) -> tuple[int, int, int]:
        index_bytes = self.buffer.state.index_bytes
        return disk.segment_bytes(self.data) + index_bytes, index_bytes, len(self.buffer.state.segments)

    @contextmanager
    def watching_operations(self) -> Iterator[None]:
        """Look after every operation that can make a file grow, and count what is written."""
        write = files.write_at

        def write_at(descriptor: int, pieces: Any, offset: int) -> int:
            end = write(descriptor, pieces, offset)
            self.written += end - offset
            self.look()
            return end

        with mock.patch.object(files, "write_at", write_at):
            yield

    @contextmanager
    def watching_all_the_time(self) -> Iterator[None]:
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.002):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@dataclass(frozen=True)
class Churn:
    """A buffer, and what is pushed into it."""

    policy: Any
    budget: int
    limit: int | None
    """None: the default."""
    count: int
    """Records a push."""
    pad: int
    seals_at: int = appending.SMALLEST_SEALED
    most_written: float = 2.0
    """Bytes written for each one kept."""


CHURNS = {
    "small": Churn("class_balanced", 200_000, None, 20, 700),
    "one by one": Churn("reservoir", 60_000, 300_000, 1, 1500),
    # Less headroom: more has to be moved.
    "tight": Churn("class_balanced", 400_000, 700_000, 12, 2000, most_written=4.0),
    "oldest first": Churn("fifo", 400_000, 700_000, 12, 2000),
    # Segments much smaller than real ones, so that their frames weigh much more.
    "sealed": Churn("reservoir", 1_500_000, 3_000_000, 20, 10_000, seals_at=30_000, most_written=4.0),
}


@pytest.mark.parametrize("kind", CHURNS)
def test_the_disk_limit_holds_while_twenty_budgets_are_pushed(data: Path, kind: str) -> None:
    churn = CHURNS[kind]
    random = np.random.default_rng(0)
    batches = [
        [
            make_exemplar(int(c), i, seed=number * 50 + i, pad=int(churn.pad * random.uniform(0.5, 1.5)))
            for i, c in enumerate(random.integers(0, 7, churn.count))
        ]
        for number in range(12)
    ]
    with smallest_sealed(churn.seals_at), Store(data) as store:
        buffer, _ = store.create_buffer(
            "b", budget_bytes=churn.budget, disk_limit_bytes=churn.limit, eviction=churn.policy
        )
        gauge = Gauge(data, buffer)
        offered = kept = number = 0
        with gauge.watching_operations(), gauge.watching_all_the_time():
            while offered < 20 * churn.budget:
                batch = batches[number % len(batches)]
                number += 1
                answer = json.loads(buffer.push(encode_batch(batch)).document)
                pairs = zip(answer["exemplar_ids"], batch, strict=True)
                kept += sum(record.charge for id_, record in pairs if id_ is not None)
                offered += sum(record.charge for record in batch)
                gauge.look()
                figures = buffer.stats()
                assert figures.disk_bytes <= figures.disk_limit_bytes
        assert any(state.sealed for state in buffer.state.segments.values()) == (churn.seals_at < 10**5)
        assert gauge.highest <= 1.0
        assert gauge.samples > number
        print(f"{kind}: {gauge.highest:.3f} of the limit, {gauge.written / kept:.2f} bytes written for each kept")
        assert gauge.written / kept <= churn.most_written


@pytest.mark.parametrize(
    ("budget", "count", "pad"), [(1000, 2, 100), (50_000, 20, 500), (50_000, 3, 3000), (10**6, 20, 5000)]
)
def test_all_files_of_a_store_stay_within_its_buffers_limit(data: Path, budget: int, count: int, pad: int) -> None:
    """The database and its log too, at the default limit; also where it is full, as snapshots hold what they can."""
    refused = 0
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=budget)
        limit = buffer.config.disk_limit_bytes
        for number in range(80):
            batch = [make_exemplar(c % 10, (number * 7 + c) % 97, seed=1, pad=pad) for c in range(count)]
            try:
                buffer.push(encode_batch(batch), idempotency_key=f"key {number}")
                if number > 40 and number % 5 == 0:
                    buffer.take_snapshot(f"at-{number}")
            except BudgetError:
                refused += 1
            assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) <= limit
        store.create_buffer("large", budget_bytes=10**8)
        assert sql_of(store)._wal_bytes == ledger.WAL_BYTES
        store.delete_buffer("large")
        assert (data / "index.sqlite-wal").stat().st_size <= sql_of(store)._wal_bytes < ledger.WAL_BYTES
    assert refused < 40


def test_answers_take_an_eighth_of_the_room_over_the_budget(data: Path) -> None:
    keys = [f"{number:032x}" for number in range(400)]
    good, worse = encode_batch([make_exemplar(0, 0, pad=8000)]), encode_batch([make_exemplar(0, 5, pad=8000)])
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10_000)
        headroom = buffer.config.disk_limit_bytes - buffer.config.budget_bytes
        empty = buffer.stats().index_bytes
        first = json.loads(buffer.push(good, idempotency_key=keys[0]).document)
        version = buffer.stats().version
        for key in keys[1:]:
            # Nothing of it is kept: it takes no id, and leaves nothing but its answer.
            assert json.loads(buffer.push(worse, idempotency_key=key).document)["exemplar_ids"] == [None]
            assert buffer.stats().index_bytes - empty <= headroom // 8 + 2048
        assert buffer.stats().version == version
        assert all(buffer.push(worse, idempotency_key=key).replayed for key in keys[-100:])
        assert not buffer.push(worse, idempotency_key=keys[1]).replayed
        better = json.loads(buffer.push(encode_batch([make_exemplar(1, 0, pad=500)])).document)
        assert better["exemplar_ids"] == [first["exemplar_ids"][0] + 1]


@contextmanager
def smallest_sealed(num_bytes: int) -> Iterator[None]:
    with mock.patch.object(appending, "SMALLEST_SEALED", num_bytes):
        yield


@pytest.mark.timeout(60)
def test_closing_where_only_one_segment_can_be_sealed_comes_to_an_end(data: Path) -> None:
    """Sealing one segment takes the room of another, which is had by moving the records of the first out again."""
    options = Options(segment_bytes=1500)
    for seed, count in enumerate((3, 1)):
        store = Store(data, options)
        buffer, _ = store.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=22_000)
        for place in range(count):
            buffer.push(encode_batch(small(1, first=10 * seed + place, pad=300)))
        held = [record.body for record in decode_batch(bytes(buffer.query_encoded(Query(limit=1000))[0]))]
        store.close()
        assert disk.segment_bytes(data) <= 22_000
        with Store(data, options) as again:
            body, _, _ = again.buffer("b").query_encoded(Query(limit=1000))
            assert [record.body for record in decode_batch(bytes(body))] == held


def test_the_constants_are_not_below_the_smallest_possible_row() -> None:
    """A guard against typing errors: a row is not smaller than its columns."""
    assert ledger.DEATH_ROW >= 14
    assert ledger.SCORE_ROW >= 24
    assert ledger.open_row_bytes(10, ["x"]) > 10 * 37
    assert os.sysconf("SC_PAGESIZE") >= PAGE
