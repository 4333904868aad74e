"""A store whose index is in PostgreSQL: who holds it, what a lost connection leaves, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from fastapi.testclient import TestClient
from sqlalchemy import event

from memory_format import StorageError, encode_batch
from memory_service.cli import main
from memory_service.http.app import create_app
from memory_service.settings import Settings
from memory_service.store import Buffer, Store
from memory_service.store.directory import Places
from memory_service.store.index import connecting, migrations, tables
from memory_service.store.index import postgres as module
from memory_service.store.index.base import Found, Wanted
from memory_service.store.index.postgres import PostgresIndex
from memory_service.store.pure.change import Answer, PushKey
from memory_service.store.pure.model import Budget, Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.shared import SharedStore
from memory_service.testing import ServiceProcess, expect_loaded_state
from memory_service.testing.round_trips import CountingProxy
from tests.memory_service.helpers import command as run_command
from tests.memory_service.helpers import make_exemplar
from tests.postgres import PASSWORD, PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_schema()


@pytest.fixture
def store(tmp_path: Path, url: str) -> Iterator[Store]:
    store = open_store(tmp_path / "store", url)
    yield store
    with suppress(OSError):
        # Unless the test has closed it.
        store.release()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.0)


def open_store(data: Path, url: str) -> Store:
    return Store(data, open_ports=Places(index=url))


def push(buffer: Buffer, seed: int) -> None:
    buffer.push(encode_batch([make_exemplar(i % 3, 10 * seed + i) for i in range(4)]))


def filled(store: Store) -> Buffer:
    buffer, _ = store.create_buffer("b", budget_bytes=20_000)
    push(buffer, 0)
    return buffer


def held(buffer: Buffer) -> bytes:
    return bytes(buffer.query_encoded(Query(limit=1000))[0])


def holder_of(store: Store) -> sa.Connection:
    assert isinstance(store._index, PostgresIndex)
    assert store._index._holder is not None
    return store._index._holder


def end_session(postgres: PostgresServer, store: Store) -> None:
    """What a broken connection is to the server: the session ends, and with it the lock."""
    driver: Any = holder_of(store).connection.driver_connection
    postgres.execute(f"SELECT pg_terminate_backend({driver.info.backend_pid}, 5000)")


# Who holds it


@pytest.mark.usefixtures("_impatient")
def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path, url: str, store: Store) -> None:
    with pytest.raises(StorageError, match=r"is held by another process \(memory-service, pid \d+ on .+\)") as caught:
        open_store(tmp_path / "other", url)
    assert caught.value.code == "store_locked"
    assert not (tmp_path / "other" / "index.elsewhere").exists()
    # In each schema there is another store.
    filled(store)


def test_a_released_store_can_be_opened_at_once(tmp_path: Path, url: str) -> None:
    with open_store(tmp_path / "store", url) as store:
        before = held(filled(store))
    with open_store(tmp_path / "store", url) as store:
        assert held(store.buffer("b")) == before


def test_who_has_lost_the_store_to_another_changes_nothing(
    tmp_path: Path, postgres: PostgresServer, url: str, store: Store
) -> None:
    """Also where the other one has changed nothing and is gone: its opening counts."""
    buffer = filled(store)
    before = held(buffer)
    shutil.copytree(tmp_path / "store", tmp_path / "elsewhere")
    end_session(postgres, store)
    with open_store(tmp_path / "elsewhere", url) as other:
        assert held(other.buffer("b")) == before
    with pytest.raises(StorageError, match="another process has held the store") as caught:
        push(buffer, 1)
    assert caught.value.code == "store_locked"
    assert held(buffer) == before
    with pytest.raises(StorageError, match="another process has held the store"):
        store.check_ready()
    with open_store(tmp_path / "elsewhere", url) as other:
        assert held(other.buffer("b")) == before


# What a lost connection leaves


def test_it_goes_on_after_the_server_was_away(tmp_path: Path) -> None:
    server = PostgresServer()
    try:
        store = open_store(tmp_path / "store", server.new_schema())
        buffer = filled(store)
        before = held(buffer)
        server.stop()
        with pytest.raises(StorageError, match="the index cannot be used"):
            push(buffer, 1)
        with pytest.raises(StorageError):
            store.check_ready()
        # What is known is answered all the while.
        assert held(buffer) == before
        server.start()
        store.check_ready()
        push(buffer, 1)
        assert buffer.stats().num_records == 8
        expect_loaded_state(buffer)
        store.release()
    finally:
        server.remove()


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_without_an_answer_is_found_out(
    tmp_path: Path, postgres: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The session ends before the server has committed, or behind it: what is held is what the database says."""
    store = open_store(tmp_path / "store", url)
    buffer = filled(store)
    commit = PostgresIndex._commit

    def cut(index: PostgresIndex, connection: sa.Connection) -> None:
        if committed:
            commit(index, connection)
        end_session(postgres, store)
        connection.exec_driver_sql("SELECT 1")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresIndex, "_commit", cut)
        with pytest.raises(StorageError):
            push(buffer, 1)
    assert buffer.stats().num_records == (8 if committed else 4)
    expect_loaded_state(buffer)
    push(buffer, 2)
    before = held(buffer)
    expect_loaded_state(buffer)
    store.release()
    with open_store(tmp_path / "store", url) as store:
        assert held(store.buffer("b")) == before


def test_where_all_connections_are_taken_it_is_said_when_to_ask_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for one longer than the pool's deadline, and nothing of the push is left."""
    monkeypatch.setattr(connecting, "POOL_SECONDS", 0.05)
    batch = encode_batch([make_exemplar(0, 1)])
    headers = {"Content-Type": "application/vnd.apache.arrow.stream", "Idempotency-Key": "k"}
    with open_store(tmp_path / "store", url) as store, ExitStack() as taken:
        buffer = filled(store)
        before = held(buffer)
        pool = holder_of(store).engine.pool
        assert isinstance(pool, sa.QueuePool)
        app = create_app(Settings(data=tmp_path / "store"), store)
        with TestClient(app, "http://127.0.0.1") as client:
            while pool.checkedout() < pool.size():
                taken.callback(pool.connect().close)
            refused = client.post("/v1/buffers/b/exemplars", content=batch, headers=headers)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["code"] == "storage_failed"
            assert held(buffer) == before
            taken.close()
            for replayed in (False, True):
                answer = client.post("/v1/buffers/b/exemplars", content=batch, headers=headers)
                assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, replayed)
        assert buffer.stats().num_records == 5
        expect_loaded_state(buffer)


# How often it is waited for


@pytest.mark.parametrize("segments", [None, "memory://round-trips"])
def test_a_push_waits_twice_for_the_database_and_with_a_key_three_times(
    tmp_path: Path, postgres: PostgresServer, url: str, segments: str | None
) -> None:
    """Also the first of a segment, of a class and of a budget that grows, and one with which old answers go."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as place:
        proxy = CountingProxy(Path(place), Path(postgres.socket))
        near = url.replace(postgres.socket, place)
        with Store(tmp_path / "store", Options(idempotency_seconds=0.001), open_ports=Places(near, segments)) as store:
            buffer, _ = store.create_buffer("b", budget=Budget(full_samples_per_class=9, full_sample_bytes=9000))
            for turn in range(6):
                batch = encode_batch([make_exemplar(turn % 2, turn)])
                for key, most in ((None, 2), (f"k{turn}", 3)):
                    proxy.round_trips = 0
                    buffer.push(batch, idempotency_key=key)
                    assert proxy.round_trips <= most, (turn, key)
            assert buffer.state.counts.answers == 1
            expect_loaded_state(buffer)
        proxy.close()


def test_who_has_changed_the_index_by_hand_is_found_out(postgres: PostgresServer, url: str, store: Store) -> None:
    """The number of a change is foreseen; what the database says is looked at before the change is committed."""
    buffer = filled(store)
    before = held(buffer)
    _changed(postgres, url, "UPDATE store SET changes = changes + 1")
    with pytest.raises(StorageError, match="changed behind the service's back"):
        push(buffer, 1)
    assert held(buffer) == before
    expect_loaded_state(buffer)
    _changed(postgres, url, "UPDATE store SET changes = changes - 1")
    push(buffer, 1)
    expect_loaded_state(buffer)


@pytest.mark.parametrize("where", ["file", "postgres", "replica"])
def test_a_start_asks_ten_times_whatever_the_number_of_buffers(tmp_path: Path, url: str, where: str) -> None:
    """Statements that begin a transaction ask nothing."""
    said: list[str] = []
    kind, places = Store, Places(None if where == "file" else url)
    if where == "replica":
        kind, places = SharedStore, Places(url, (tmp_path / "objects").as_uri(), replicas=True)

    def count() -> int:
        said.clear()
        with kind(tmp_path / "store", open_ports=places) as store:
            asked = sum(not statement.startswith("BEGIN") for statement in said)
            for _ in range(3):
                buffer, _ = store.create_buffer(f"b{len(store.buffers())}", budget_bytes=20_000)
                push(buffer, 0)
                buffer.delete([1])
                buffer.take_snapshot("s")
        return asked

    def note(*given: Any) -> None:
        said.append(given[2])

    count()
    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert count() == count() <= 10
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


def test_a_change_whose_statements_nobody_waits_for_is_committed(store: Store) -> None:
    buffer = filled(store)
    answer = Answer.of(PushKey("l", "k"), b"d", "{}")
    with store._index.writing(counted=False) as transaction:
        transaction.insert_answers(buffer.config.id, [answer], 1.0)
    with store._index.reading() as reading:
        found = reading.find_answers(buffer.config.id, Wanted((PushKey("l", "k"),), older_than=2.0))
    assert found == Found({PushKey("l", "k"): answer}, 1, answer.num_bytes)


# What belongs together


def test_batches_are_those_of_a_store_with_an_index_in_a_file(tmp_path: Path, store: Store) -> None:
    with Store(tmp_path / "embedded") as embedded:
        drawn = []
        for of_them in (store, embedded):
            buffer = filled(of_them)
            buffer.update([1, 2], scores=[0.1, 1 / 3], ranks=[7, 2**32 - 1])
            buffer.take_snapshot("s")
            buffer.delete([3])
            named = buffer.name_classes(["a cat", "a dog"])
            of_them.fork("b", "fork")
            of_them.erasures.erase(buffer, [2])
            assert of_them.buffer("fork").stats().num_records == 2
            drawn.append((held(buffer), bytes(buffer.sample(SampleRequest(2, seed=5))[0]), named))
            expect_loaded_state(buffer)
        assert drawn[0] == drawn[1]


def _changed(postgres: PostgresServer, url: str, statement: str) -> None:
    schema = url.rpartition("search_path%3D")[2]
    postgres.execute(f"SET search_path = {schema}; {statement}")


def test_an_index_that_is_not_of_the_files_is_refused(tmp_path: Path, postgres: PostgresServer, url: str) -> None:
    data = tmp_path / "store"
    with open_store(data, url) as store:
        filled(store)
    _changed(postgres, url, "UPDATE store SET changes = changes - 1")
    with pytest.raises(StorageError, match="is older than its segment files"):
        open_store(data, url)
    _changed(postgres, url, "UPDATE store SET changes = changes + 1, store_id = repeat('0', 32)")
    with pytest.raises(StorageError, match="is of another store"):
        open_store(data, url)
    with pytest.raises(StorageError, match=r"has no index \(database postgres at .*\), and 1 segment files are there"):
        open_store(data, postgres.new_schema())
    # Files of another machine.
    with pytest.raises(StorageError, match="1 of 1 segments are missing"):
        open_store(tmp_path / "empty", url)
    assert not (data / "index.sqlite").exists()


def test_commands_on_a_directory_alone_say_where_its_index_is(
    tmp_path: Path, url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "store"
    before = held(filled(store))
    store.close()
    more = [["export", "b", tmp_path / "b.zip", "--data", data], ["serve", "--data", data], ["inspect", data]]
    for given in [["verify", data], ["repair", data], ["backup", data, tmp_path / "copy"], *more]:
        status, _, err = run_command(*map(str, given))
        assert (status, f"the index of the store in {data} is in database postgres at" in err) == (2, True), err
    # These open the store as the service does.
    monkeypatch.setenv("MEMORY_SERVICE_INDEX", url)
    for given in [
        ["export", "b", tmp_path / "b.zip", "--data", data],
        ["import", "c", tmp_path / "b.zip", "--data", data],
    ]:
        assert main([str(word) for word in given]) == 0
    with open_store(data, url) as store:
        assert held(store.buffer("c")) == held(store.buffer("b")) == before


def test_a_store_that_has_an_index_in_a_file_keeps_it(tmp_path: Path, url: str) -> None:
    with Store(tmp_path / "store") as store:
        before = held(filled(store))
    with pytest.raises(StorageError, match="has an index of its own"):
        open_store(tmp_path / "store", url)
    with Store(tmp_path / "store") as store:
        assert held(store.buffer("b")) == before


# The schema


def test_all_changes_make_what_a_new_store_gets(tmp_path: Path, postgres: PostgresServer, url: str) -> None:
    """As in SQLite: see test_migrations.py."""
    open_store(tmp_path / "fresh", url).close()
    migrated = postgres.new_schema()
    engine = sa.create_engine(migrated)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes.update(connection=connection, store=tmp_path)
        command.upgrade(config, "head")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()
    assert _constraints(postgres, migrated) == _constraints(postgres, url) != []


def _constraints(postgres: PostgresServer, url: str) -> list[Any]:
    schema = url.rpartition("search_path%3D")[2]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute(
            "SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = %s::regnamespace ORDER BY 1, 2, 3",
            [schema],
        ).fetchall()


def test_tables_of_something_else_are_left_alone(tmp_path: Path, postgres: PostgresServer, url: str) -> None:
    _changed(postgres, url, "CREATE TABLE buffers (id int)")
    with pytest.raises(StorageError, match="has a table 'buffers' that is none of a store's"):
        open_store(tmp_path, url)
    _changed(postgres, url, "CREATE TABLE alembic_version (version_num text)")
    with pytest.raises(StorageError, match="is used by something else"):
        open_store(tmp_path, url)
    _changed(postgres, url, "CREATE TABLE store (id int)")
    assert not (tmp_path / "index.elsewhere").exists()


def test_a_database_that_will_not_do_is_refused(tmp_path: Path, postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StorageError, match="has the encoding SQL_ASCII"):
        open_store(tmp_path, postgres.url("ascii"))
    with pytest.raises(StorageError, match="has no schema that search_path names"):
        open_store(tmp_path, postgres.url(options="-csearch_path=none"))
    with pytest.raises(StorageError, match='database "none" does not exist'):
        open_store(tmp_path, postgres.url("none"))


# The password


@pytest.mark.parametrize(
    "wrong",
    [
        f"mysql://u:{PASSWORD}@h/d",
        f"postgresql+psycopg://u:p@{PASSWORD}@h/d",
        f"postgresql+psycopg://u:p@{PASSWORD}:x@h/d",
        f"postgresql+psycopg://u:p@x/{PASSWORD}@h/d",
        f"postgresql+psycopg://u@h:{PASSWORD}/d",
        f"{PASSWORD}",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_a_word_of_it(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(StorageError, match="is written %40") as caught:
        open_store(tmp_path, wrong)
    assert PASSWORD not in str(caught.value)


@pytest.mark.usefixtures("_impatient")
def test_a_service_over_it_survives_kills_and_shows_no_password(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, environment = tmp_path / "store", {"MEMORY_SERVICE_INDEX": url, "MEMORY_SERVICE_LOG_LEVEL": "debug"}
    batch = encode_batch([make_exemplar(i % 3, i) for i in range(8)])
    headers = {"Content-Type": "application/vnd.apache.arrow.stream", "Idempotency-Key": "k"}
    with ServiceProcess(data, environment=environment) as service:
        httpx.put(f"{service.url}/v1/buffers/b", json={"budget_bytes": 20_000}).raise_for_status()
        ids = httpx.post(f"{service.url}/v1/buffers/b/exemplars", content=batch, headers=headers).json()["exemplar_ids"]
        assert main(["serve", "--data", str(tmp_path / "second"), "--index", url]) == 2
        refused = capsys.readouterr().err
        assert f"is held by another process (memory-service, pid {service.process.pid} on " in refused
        ended = service.kill()
        assert PASSWORD not in ended.stderr + ended.stdout + refused
    with open_store(data, url) as store:
        assert store.buffer("b").state.columns["exemplar_id"].tolist() == ids
        assert len(ids) == 8
        again = store.buffer("b").push(batch, idempotency_key="k")
        assert (again.replayed, json.loads(again.document)["exemplar_ids"]) == (True, ids)
        assert store.buffer("b").stats().num_records == 8


def test_who_has_the_index_in_a_file_needs_no_driver() -> None:
    """Neither to be installed nor to be loaded."""
    code = "import sys, memory_service.store; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ran.stdout.split()
    assert "memory_service.store.directory" in loaded
    assert [name for name in loaded if "psycopg" in name or "postgres" in name] == []


def test_without_the_driver_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'exemplar-memory\[service,postgres\]'"):
        open_store(tmp_path, "postgresql+psycopg://u@127.0.0.1/d")
