"""One contract, all pairs of ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
from memory_service.testing import StoreContract
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.memory_ports import MemoryStores
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)


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
    """Every segment that is full is sealed, and so put: in memory, or where ``--object-store`` says."""

    room = 8

    @pytest.fixture(autouse=True)
    def _bucket(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.urls: dict[Path, str] = {}
        self.new_url: Callable[[], str] = lambda: f"memory://{uuid4().hex}"
        if request.config.getoption("--object-store"):
            store = request.getfixturevalue("object_store")
            use(store, monkeypatch)
            self.new_url = store.new_prefix
        monkeypatch.setattr(appending, "SMALLEST_SEALED", 1)
        yield
        for url in self.urls.values():
            bucket.forget_memory(url)

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


@contextmanager
def second_look(data: Path, options: Options) -> Iterator[Buffer]:
    """Buffer ``b`` as another process would have it open."""
    index = SqliteIndex(data / "index.sqlite")
    segments = SegmentFiles(data / "segments", index)
    with index.reading() as reading:
        entry = reading.find_buffer("b")
        assert entry is not None
        rows = reading.contents(entry.config.id)[entry.config.id]
    sealed, quota = SealedSegments(segments), Quota(None, index.leave_room)
    yield Buffer(entry, rows, index, segments, options, sealed, quota)
    segments.close()
    index.close()


def held(buffer: Buffer) -> bytes:
    return bytes(buffer.query_encoded(Query(limit=1000))[0])


def test_a_state_catches_up_with_what_others_have_committed(tmp_path: Path) -> None:
    options = Options(segment_bytes=2000)
    with Store(tmp_path, options) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000)
        store.create_buffer("other", budget_bytes=20_000)
        buffer.push(encode_batch([make_exemplar(i % 3, i) for i in range(30)]))
        with second_look(tmp_path, options) as seen:
            assert held(seen) == held(buffer)
            assert not seen.refresh()
            before = seen.state
            # A change of records, and compaction, which changes no version.
            buffer.delete(buffer.state.columns["exemplar_id"][::2].tolist())
            assert seen.refresh()
            assert seen.state.version == buffer.state.version > before.version
            assert before.columns.num_records == 30
            with buffer._changing():
                assert buffer._commits.compactor.compact_one(buffer.config.disk_limit_bytes)
            assert seen.refresh()
            assert seen.state.segments.keys() == buffer.state.segments.keys()
            assert held(seen) == held(buffer)
            assert not seen.refresh()
            # In one process there is nothing to see, whichever of its buffers has changed.
            store.buffer("other").push(encode_batch([make_exemplar(0, 0)]))
            buffer.push(encode_batch([make_exemplar(1, 1)]))
            assert not buffer.refresh()
            # Who has not caught up cannot change what others have changed.
            with pytest.raises(StorageError, match="behind the service's back"):
                seen.push(encode_batch([make_exemplar(2, 2)]))
            assert held(seen) == held(buffer)
