"""One contract, all pairs of ports."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from memory_format import StorageError, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.directory import Places
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.loading import SealedSegments
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.room import Quota
from memory_service.store.segments import appending, bucket
from memory_service.store.segments.local import SegmentFiles
from memory_service.store.shared import SharedStore
from memory_service.testing import StoreContract
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.memory_ports import MemoryStores
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def sealed_places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Makes URLs for segments, in memory or where ``--object-store`` says. Full ones are sealed, and so put."""
    monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
    if request.config.getoption("--object-store"):
        store: ObjectStore = request.getfixturevalue("object_store")
        use(store, monkeypatch)
        yield store.new_prefix
        return
    made: list[str] = []

    def new() -> str:
        made.append(f"memory://{uuid4().hex}")
        return made[-1]

    yield new
    for url in made:
        bucket.forget_memory(url)


class TestFilesAndSqlite(StoreContract):
    def open(self, data: Path, options: Options) -> Store:
        return Store(data, options)


class TestMemory(StoreContract):
    @pytest.fixture(autouse=True)
    def _stores(self) -> None:
        self.stores = MemoryStores()

    def open(self, data: Path, options: Options) -> Store:
        return Store(data, options, open_ports=self.stores.open_ports)


class TestFilesAndPostgres(StoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgresServer) -> None:
        self.server = postgres
        self.urls: dict[Path, str] = {}

    def open(self, data: Path, options: Options) -> Store:
        url = self.urls.get(data) or self.urls.setdefault(data, self.server.new_schema())
        return Store(data, options, open_ports=Places(index=url))


class TestObjectsAndSqlite(StoreContract):
    """Every segment that is full is put."""

    room = 8

    @pytest.fixture(autouse=True)
    def _bucket(self, sealed_places: Callable[[], str]) -> None:
        self.urls: dict[Path, str] = {}
        self.new_url = sealed_places

    def open(self, data: Path, options: Options) -> Store:
        url = self.urls.get(data) or self.urls.setdefault(data, self.new_url())
        return Store(data, options, open_ports=Places(segments=url))


class TestObjectsAndPostgres(StoreContract):
    """Segments of usual size: most are open, so in the database."""

    @pytest.fixture(autouse=True)
    def _servers(self, postgres: PostgresServer, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        use(object_store, monkeypatch)
        self.places: dict[Path, Places] = {}
        self.servers = postgres, object_store

    def open(self, data: Path, options: Options) -> Store:
        if data not in self.places:
            postgres, object_store = self.servers
            self.places[data] = Places(postgres.new_schema(), object_store.new_prefix())
        places = self.places[data]
        return Store(data, options, open_ports=places)


class TestReplica(StoreContract):
    """Alone among those there may be; every segment that is full is put."""

    room = 8

    @pytest.fixture(autouse=True)
    def _servers(self, postgres: PostgresServer, sealed_places: Callable[[], str]) -> None:
        self.server, self.new_url = postgres, sealed_places
        self.places: dict[Path, Places] = {}

    def places_of(self, data: Path) -> Places:
        if data not in self.places:
            self.places[data] = Places(self.server.new_schema(), self.new_url(), replicas=True)
        return self.places[data]

    def open(self, data: Path, options: Options) -> Store:
        return SharedStore(data, options, open_ports=self.places_of(data))

    # Below, with two in turn.
    test_it_holds_what_its_answers_say = None  # type: ignore[assignment]


class InTurn:
    """Two replicas; each buffer that is asked for is the next one's."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        self._next = itertools.cycle(stores)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._next), name)

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def release(self) -> None:
        for store in self.stores:
            store.release()


class TestReplicasInTurn(TestReplica):
    """What one replica has changed another goes on with."""

    test_it_holds_what_its_answers_say = StoreContract.test_it_holds_what_its_answers_say  # type: ignore[assignment]

    def open(self, data: Path, options: Options) -> Store:
        places = self.places_of(data)
        return cast(Store, InTurn([SharedStore(data / n, options, open_ports=places) for n in ("one", "two")]))

    # Of one store's buffer, which is kept meanwhile.
    test_a_fork_shares_what_it_holds = None  # type: ignore[assignment]
    test_a_closed_store_is_opened_as_it_was = None  # type: ignore[assignment]
    test_a_change_that_fails_is_made_whole_or_not_at_all = None  # type: ignore[assignment]
    test_a_store_that_was_not_closed_is_opened_as_it_was = None  # type: ignore[assignment]
    test_nothing_goes_beyond_its_limits = None  # type: ignore[assignment]


@contextmanager
def second_look(data: Path, options: Options) -> Iterator[Buffer]:
    """Buffer ``b`` as another process would have it open."""
    index = SqliteIndex(data / "index.sqlite")
    segments = SegmentFiles(data / "segments", index)
    with index.reading() as reading:
        entry = reading.find_buffer("b")
        assert entry is not None
        rows = reading.contents(entry.config.id)[entry.config.id]
    sealed, quota = SealedSegments(segments), Quota(index, options)
    yield Buffer(entry, rows, index, segments, options, sealed, quota)
    segments.close()
    index.close()


def held(buffer: Buffer) -> bytes:
    return bytes(buffer.query_encoded(Query(limit=1000))[0])


def reload(buffer: Buffer) -> None:
    with buffer._changing():
        buffer._commits.writer.reload()


def test_a_state_catches_up_with_what_others_have_committed(tmp_path: Path) -> None:
    options = Options(segment_bytes=2000)
    with Store(tmp_path, options) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000)
        buffer.push(encode_batch([make_exemplar(i % 3, i) for i in range(30)]))
        with second_look(tmp_path, options) as seen:
            assert held(seen) == held(buffer)
            before = seen.state
            # A change of records, and compaction, which changes no version.
            buffer.delete(buffer.state.columns["exemplar_id"][::2].tolist())
            reload(seen)
            assert seen.state.version == buffer.state.version > before.version
            assert before.columns.num_records == 30
            with buffer._changing():
                assert buffer._commits.compactor.compact_one(buffer.config.disk_limit_bytes)
            reload(seen)
            assert seen.state.segments.keys() == buffer.state.segments.keys()
            assert held(seen) == held(buffer)
            buffer.push(encode_batch([make_exemplar(1, 1)]))
            # Who has not caught up cannot change what others have changed.
            with pytest.raises(StorageError, match="behind the service's back"):
                seen.push(encode_batch([make_exemplar(2, 2)]))
            assert held(seen) == held(buffer)
