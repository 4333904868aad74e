"""Stores that earlier versions made: read as they were, brought up to date once, or refused untouched."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_format import StorageError, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.index import migrations
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.testing import expect_loaded_state
from tests.golden.make_schema2 import batch, described
from tests.memory_service import disk

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[int], Path]:
    """A copy of the store that a schema's version made: the one in the repository is never opened."""

    def copy(schema: int) -> Path:
        return Path(shutil.copytree(GOLDEN / f"schema{schema}", tmp_path / "store"))

    return copy


def expected(schema: int) -> Any:
    return json.loads((GOLDEN / f"schema{schema}-expected.json").read_text())


def files_of(data: Path) -> dict[str, str]:
    """Name -> digest of every file but the lock and the index, which SQLite stamps whenever it is opened."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != "lock" and not path.name.startswith("index.sqlite")
    }


def rows_of(data: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def as_schema_1_says(buffer: Buffer) -> dict[str, Any]:
    body, _, version = buffer.query_encoded(Query(limit=1000))
    records = decode_batch(bytes(body))
    found: dict[str, Any] = {
        "version": version,
        "bytes_used": buffer.stats().bytes_used,
        "eviction": buffer.config.eviction,
        "budget_bytes": buffer.config.budget_bytes,
        "description": buffer.config.description,
        "records": [
            {
                **{name: getattr(r, name) for name in ("exemplar_id", "class_id", "phase", "learner_id")},
                **{name: getattr(r, name) for name in ("score", "rank", "crc32", "charge")},
                "codec": r.codec_id,
            }
            for r in records
        ],
    }
    if records:
        drawn, _ = buffer.sample(SampleRequest(8, 3, 7, strategy="class_balanced"))
        found["sample_seed_3_step_7"] = [record.exemplar_id for record in decode_batch(bytes(drawn))]
    return found


def assert_whole(store: Store, data: Path) -> None:
    assert not disk.orphans(data)
    stored = disk.read_store(data)
    for buffer in store.buffers():
        found = stored[buffer.name]
        assert all(record.is_whole for record in found.live.values())
        assert found.bytes_used == buffer.stats().bytes_used
        assert buffer.stats().disk_bytes <= buffer.config.disk_limit_bytes
        expect_loaded_state(buffer)


def test_a_store_of_schema_1_holds_what_it_held(golden: Callable[[int], Path]) -> None:
    data = golden(1)
    store = Store(data)
    assert {buffer.name: as_schema_1_says(buffer) for buffer in store.buffers()} == expected(1)
    assert_whole(store, data)
    store.release()
    assert rows_of(data)["alembic_version"] == [(migrations.HEAD,)]


def test_a_store_of_schema_1_goes_on(golden: Callable[[int], Path]) -> None:
    data = golden(1)
    with Store(data) as store:
        buffer = store.buffer("kept")
        known = {entry["exemplar_id"] for entry in expected(1)["kept"]["records"]}
        answer = json.loads(buffer.push(batch(0, 4)).document)
        assert min(id_ for id_ in answer["exemplar_ids"] if id_) > max(known)
        assert answer["version"] == expected(1)["kept"]["version"] + 1
        buffer.take_snapshot("now")
        assert_whole(store, data)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_second_opening_changes_nothing(golden: Callable[[int], Path], schema: int) -> None:
    data = golden(schema)
    Store(data).release()
    before, rows = files_of(data), rows_of(data)
    Store(data).release()
    assert rows_of(data) == rows
    assert files_of(data) == before


def test_a_store_of_schema_2_holds_what_it_held(golden: Callable[[int], Path]) -> None:
    data = golden(2)
    store = Store(data)
    assert json.loads(json.dumps({buffer.name: described(buffer) for buffer in store.buffers()})) == expected(2)
    assert_whole(store, data)
    # Both kinds of segments are in it, and one that is shared.
    assert {path.suffix for path in (data / "segments").iterdir()} == {".open", ".zip"}
    assert set(disk.read_store(data)["forked"].files) & set(disk.read_store(data)["kept"].files)
    store.release()


def test_a_budget_that_has_grown_beyond_todays_ceiling_keeps_what_it_has(golden: Callable[[int], Path]) -> None:
    data = golden(2)
    with closing(sqlite3.connect(data / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE buffers SET full_samples_per_class = 1, full_sample_bytes = 5 WHERE name = 'kept'")
    with Store(data) as store:
        budget = store.buffer("kept").config.budget
        assert (budget.max_budget_bytes, budget.bytes_for(10**6)) == (6000, 6000)
        assert store.buffer("empty").config.budget.max_budget_bytes is None


def test_answers_of_schema_2_are_replayed(golden: Callable[[int], Path]) -> None:
    with Store(golden(2)) as store:
        before = described(store.buffer("kept"))
        # What was sent then: today's codecs make other payloads of the same pictures.
        for key in ("first", "second"):
            sent = (GOLDEN / f"schema2-{key}.arrow").read_bytes()
            assert store.buffer("kept").push(sent, idempotency_key=key).replayed
        assert described(store.buffer("kept")) == before


def test_what_is_sent_today_is_what_was_sent_then() -> None:
    """Byte by byte, but for the codecs' payloads: a record that was possible then costs what it cost."""
    for key, made in {
        "first": batch(0, 14, learner_id="learner-0"),
        "second": batch(20, 8, learner_id="learner-1", phase=1),
    }.items():
        sent = (GOLDEN / f"schema2-{key}.arrow").read_bytes()
        pairs = zip(decode_batch(made), decode_batch(sent), strict=True)
        assert encode_batch(replace(today, payload=then.payload) for today, then in pairs) == sent


@pytest.mark.parametrize(
    ("schema", "statement", "found"),
    [
        (1, "UPDATE meta SET schema_version = 99", "0099"),
        (2, "UPDATE alembic_version SET version_num = '9999'", "9999"),
    ],
)
def test_a_store_of_a_newer_version_is_refused_and_untouched(
    golden: Callable[[int], Path], schema: int, statement: str, found: str
) -> None:
    data = golden(schema)
    with closing(sqlite3.connect(data / "index.sqlite")) as connection, connection:
        connection.execute(statement)
    before, rows = files_of(data), rows_of(data)
    with pytest.raises(StorageError, match=f"schema {found}, this program knows {migrations.HEAD}.*newer version") as e:
        Store(data)
    assert e.value.code == "storage_failed"
    assert rows_of(data) == rows
    assert files_of(data) == before
    # And so it is the next time: nothing was left half open.
    with pytest.raises(StorageError, match="newer version"):
        Store(data)


def test_the_stores_in_the_repository_were_not_opened() -> None:
    """Opening would leave a lock beside the index."""
    for schema in (1, 2):
        assert sorted(path.name for path in (GOLDEN / f"schema{schema}").iterdir()) == ["index.sqlite", "segments"]
