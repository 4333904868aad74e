"""Erasing reaches what forks have of a buffer, whatever that has lost itself; and nothing that is theirs alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from memory_format import ForbiddenError, NotFoundError, Record, StorageError, encode_batch
from memory_format.api.receipts import HeldElsewhere
from memory_service.store import Buffer, Store
from memory_service.store.admin.verify import verify
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.selection import Filter
from memory_service.store.segments import appending
from memory_service.store.wiping import Wiping
from memory_service.testing import expect_loaded_state
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.places import PAIRS, NewPlaces, Pair
from tests.memory_service.searching import files_with, objects_with, tables_with
from tests.objects import ObjectStore
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)
LIMITS: dict[str, Any] = {"budget_bytes": 9_000_000, "disk_limit_bytes": 40_000_000}
OPTIONS = Options(segment_bytes=30_000)


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)


def records_of(number: int, first: int = 0) -> list[Record]:
    """Every third is of phase 1. No bytes of one are in another."""
    pads = ["".join(f"{at:05}.{place:04}" for place in range(600)) for at in range(first, first + number)]
    return [make_exemplar(0, first + at, phase=int(at % 3 == 2), user_json={"pad": pad}) for at, pad in enumerate(pads)]


def ids_of(buffer: Buffer, snapshot: str | None = None) -> list[int]:
    return [info.exemplar_id for info in buffer.query(Query(limit=100), snapshot=snapshot)[0]]


def lose(buffer: Buffer, ids: list[int]) -> None:
    """From all its files."""
    buffer.delete(ids)
    with buffer._changing():
        while buffer._commits.compactor.compact_one(10**7):
            pass


@pytest.mark.parametrize("pair", PAIRS)
def test_forks_lose_what_their_source_had_lost_before(
    data: Path, pair: Pair, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live, in a snapshot alone, and dead in a segment; in a fork, and in a fork of that when it is gone."""
    places = NewPlaces(request, monkeypatch)(pair)
    records = records_of(12, first=100 * PAIRS.index(pair))
    searched: list[Callable[[list[Record]], set[str]]] = [lambda of: files_with(data, of)]
    if places.index is not None:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        searched.append(lambda of: tables_with(postgres, of))
    if places.segments is not None:
        objects: ObjectStore = request.getfixturevalue("object_store")
        searched.append(lambda of: objects_with(objects, str(places.segments), of))

    def found(*ids: int) -> bool:
        return any(search([records[id_ - 1] for id_ in ids]) for search in searched)

    with Store(data, OPTIONS, open_ports=places) as store:
        source, _ = store.create_buffer("b", **LIMITS)
        source.push(encode_batch(records))
        store.fork("b", "f")
        fork = store.buffer("f")
        fork.take_snapshot("s")
        store.fork("f", "g")
        youngest = store.buffer("g")
        lose(source, [2, 3, 6, 7, 12])
        fork.delete([7])
        youngest.delete([7, 12])
        # The same in each, and not the same exemplar.
        for buffer in (source, fork, youngest):
            buffer.push(encode_batch(records_of(1, first=9000)))
        with pytest.raises(ForbiddenError):
            store.erasures.erase(source, [2], only_learner="somebody-else")
        assert found(7)
        answer = store.erasures.erase(source, [2, 7, 13])
        assert answer.deleted == (2, 7, 13)
        receipt = answer.receipt
        assert receipt is not None
        assert receipt.exemplar_ids == (2, 7, 13)
        assert [(lost.buffer, lost.exemplar_ids, lost.snapshots) for lost in receipt.buffers] == [
            ("b", (13,), {}),
            ("f", (2, 7), {"s": 2}),
            ("g", (2,), {}),
        ]
        assert receipt.elsewhere == (HeldElsewhere("f", 13), HeldElsewhere("g", 13))
        assert not found(2, 7)
        assert ids_of(fork, "s") == [1, *range(3, 7), *range(8, 13)]
        store.delete_buffer("f")
        assert found(12)
        answer = store.erasures.erase(source, None, Filter(phase=(1,)))
        assert answer.deleted == (3, 6, 9, 12)
        assert not found(3, 6, 9, 12)
        assert ids_of(source) == [1, 4, 5, 8, 10, 11]
        assert ids_of(youngest) == [1, 4, 5, 8, 10, 11, 13]
        for name in ("b", "g"):
            expect_loaded_state(store.buffer(name))
        with pytest.raises(NotFoundError):
            store.erasures.erase(source, [2])
    assert verify(data, places).sound


def test_a_fork_that_is_made_while_an_erasure_waits_loses_it_though_its_source_is_gone(data: Path) -> None:
    (record,) = records = records_of(1)
    with Store(data, OPTIONS) as store:
        source, _ = store.create_buffer("b", **LIMITS)
        source.push(encode_batch(records))
        with mock.patch.object(Wiping, "take_out", side_effect=StorageError("not now")), pytest.raises(StorageError):
            store.erasures.erase(source, [1])
        store.fork("b", "f")
        store.fork("f", "g")
        store.delete_buffer("b")
        store.delete_buffer("f")
        assert files_with(data, [record])
    with Store(data, OPTIONS) as store:
        assert ids_of(store.buffer("g")) == []
        assert not files_with(data, [record])
        (kept,) = store.erasures.receipts.page(5).receipts
        assert (kept.buffers, kept.receipt.exemplar_ids) == (("g",), (1,))


def test_in_forks_of_earlier_versions_that_is_erased_which_their_source_has_as_it_was_pushed(data: Path) -> None:
    """They do not say from which id on theirs are others."""
    records = records_of(3)
    with Store(data, OPTIONS) as store:
        source, _ = store.create_buffer("b", **LIMITS)
        source.push(encode_batch(records))
        store.fork("b", "f")
    with closing(sqlite3.connect(data / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE origins SET next_exemplar_id = NULL")
    with Store(data, OPTIONS) as store:
        source, fork = store.buffer("b"), store.buffer("f")
        lose(source, [2])
        for first, buffer in enumerate((source, fork)):
            buffer.push(encode_batch(records_of(1, first=50 + first)))
        with pytest.raises(NotFoundError):
            store.erasures.erase(source, [2])
        store.erasures.erase(source, [1, 4])
        assert ids_of(source) == [3]
        assert ids_of(fork) == [2, 3, 4]
        assert not files_with(data, [records[0], *records_of(1, first=50)])
        store.fork("f", "g")
        # Of a fork of such a one it is known what is the same in these two.
        lose(fork, [2])
        store.erasures.erase(fork, [2])
        assert ids_of(store.buffer("g")) == [3, 4]
        assert not files_with(data, records[1:2])
