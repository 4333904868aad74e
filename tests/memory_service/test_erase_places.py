"""Erasing from a store whose index is in PostgreSQL, or its segments in an object store: the bytes are nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from memory_format import BusyError, Record, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.admin.verify import verify
from memory_service.store.index import database
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.segments import appending
from memory_service.testing import expect_loaded_state
from tests.memory_service.places import NewPlaces, Pair, big_records
from tests.memory_service.searching import files_with, objects_with, tables_with
from tests.objects import ObjectStore
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)


def ids_of(buffer: Buffer, snapshot: str | None = None) -> list[int]:
    return [info.exemplar_id for info in buffer.query(Query(limit=100), snapshot=snapshot)[0]]


@pytest.mark.parametrize("pair", ["objects", "database", "both"])
def test_it_is_nowhere(data: Path, pair: Pair, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    places = NewPlaces(request, monkeypatch)(pair)
    records = big_records(19, first=20_000 + 1000 * len(pair))
    gone = [records[2], records[18]]
    searched: list[Callable[[list[Record]], set[str]]] = [lambda of: files_with(data, of)]
    if places.index is not None:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        searched.append(lambda of: tables_with(postgres, of))
    if places.segments is not None:
        store_of_objects: ObjectStore = request.getfixturevalue("object_store")
        searched.append(lambda of: objects_with(store_of_objects, str(places.segments), of))
    with Store(data, Options(segment_bytes=90_000), open_ports=places) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=9_000_000, disk_limit_bytes=40_000_000)
        buffer.push(encode_batch(records))
        buffer.take_snapshot("s")
        store.fork("b", "f")
        buffer.delete([3])
        for name in ("b", "f"):
            store.buffer(name).query_encoded(Query(limit=100))
        for search in searched:
            if pair != "database" or search is searched[0]:
                assert search(gone)
        receipt = store.erasures.erase(buffer, [3, 19]).receipt
        assert receipt is not None
        assert (receipt.exemplar_ids, receipt.unconfirmed) == ((3, 19), ())
        assert [lost.buffer for lost in receipt.buffers] == ["b", "f"]
        for search in searched:
            assert search(gone) == set()
        expected = [id_ for id_ in range(1, 19) if id_ != 3]
        assert ids_of(buffer) == ids_of(buffer, "s") == ids_of(store.buffer("f")) == expected
        for name in ("b", "f"):
            expect_loaded_state(store.buffer(name))
    # Receipts are where the next start finds them.
    with Store(data, Options(segment_bytes=90_000), open_ports=places) as store:
        (kept,) = store.erasures.receipts.page(5).receipts
        assert kept.receipt == receipt
        assert store.buffer("b").stats().num_records == 17
    assert verify(data, places).sound


def test_rows_that_somebody_elses_transaction_keeps_are_not_told_as_erased(
    data: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    """As that of a dump: what PostgreSQL makes anew has deleted rows that it may look at."""
    monkeypatch.setattr(database, "_SCRUB_PAUSES", ())
    records = big_records(4, first=30_000)
    with Store(data, open_ports=NewPlaces(request, monkeypatch)("both")) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=9_000_000)
        buffer.push(encode_batch(records))
        with psycopg.connect(f"host={postgres.socket} user=postgres dbname=postgres") as other:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT 1 FROM pg_class LIMIT 1")
            with pytest.raises(BusyError, match=r"keeps \d+ deleted rows"):
                store.erasures.erase(buffer, [2])
            assert tables_with(postgres, records[1:2])
            assert ids_of(buffer) == [1, 3, 4]
            assert store.erasures.receipts.page(5).receipts == ()
        receipt = store.erasures.erase(buffer, [2]).receipt
        assert receipt is not None
        assert receipt.exemplar_ids == (2,)
        assert not tables_with(postgres, records[1:2])


def test_receipts_in_files_are_in_the_index_once_that_is_a_database(
    data: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a store that has moved, or is of an earlier version."""
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=9_000_000)
        buffer.push(encode_batch(big_records(3)))
        receipts = [store.erasures.erase(buffer, [id_]).receipt for id_ in (1, 2)]
    assert len(list((data / "receipts").iterdir())) == 2
    moved = data.with_name("moved")
    (data / "receipts").rename(moved.with_name("receipts"))
    moved.mkdir()
    moved.with_name("receipts").rename(moved / "receipts")
    damaged = moved / "receipts" / f"{'0' * 17}-{'a' * 8}.json"
    damaged.write_bytes(b"\xff\x00")
    places = NewPlaces(request, monkeypatch)("database")
    with Store(moved, open_ports=places) as store:
        page = store.erasures.receipts.page(5)
        assert page.damaged == (damaged.stem,)
        assert [kept.receipt for kept in page.receipts] == receipts[::-1]
    assert list((moved / "receipts").iterdir()) == [damaged]
    damaged.unlink()
    with Store(moved, open_ports=places) as store:
        assert store.erasures.receipts.page(5) == replace(page, damaged=())
