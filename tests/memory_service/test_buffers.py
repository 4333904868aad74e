"""Buffers and the service's own pages."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import httpx

from memory_format import CODECS
from memory_format.wire_schema import WIRE_VERSION
from memory_service.store.index.migrations import HEAD
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    assert_consistent,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    whole_state,
)


def test_put_is_idempotent_and_refuses_a_change(data: Path) -> None:
    wanted = {"budget_bytes": 5000, "eviction": "reject", "description": "phase test"}
    with running(data) as client:
        response = client.put("/v1/buffers/a", json=wanted)
        assert response.status_code == 201
        info = response.json()
        assert abs(info.pop("created_at") - time.time()) < 60
        assert info == {
            "name": "a",
            **wanted,
            "full_samples_per_class": None,
            "max_budget_bytes": None,
            "full_sample_bytes": None,
            "num_classes": None,
            # Half of the budget is too little for files and index pages here: 256 KiB over it.
            "disk_limit_bytes": 5000 + 2**18,
            "retain_snapshots": None,
            **dict.fromkeys(("learner_floor", "patch_px", "vocabulary")),
            **dict.fromkeys(("vocabulary_name", "owner"), ""),
            "version": 0,
            "bytes_used": 0,
            "num_records": 0,
        }
        state = whole_state(data)
        assert client.put("/v1/buffers/a", json=wanted).status_code == 200
        response = client.put("/v1/buffers/a", json={**wanted, "budget_bytes": 6000})
        assert_problem(response, "buffer_exists", existing={"budget_bytes": 5000})
        assert_problem(client.put("/v1/buffers/a", json={"budget_bytes": 5000}), "buffer_exists")
        assert whole_state(data) == state
    with running(data) as client:
        assert client.put("/v1/buffers/a", json=wanted).status_code == 200
        assert client.get("/v1/buffers/a").json()["description"] == "phase test"


def test_list_and_delete(client: httpx.Client, data: Path) -> None:
    assert client.get("/v1/buffers").json() == {"buffers": [], "next_cursor": None}
    for name in ("z", "a.b-c_d", "0" * 63):
        put_buffer(client, buffer=name)
        push(client, [make_exemplar()], buffer=name, key="k")
    names = [info["name"] for info in client.get("/v1/buffers").json()["buffers"]]
    assert names == sorted(["z", "a.b-c_d", "0" * 63])
    for name in names:
        response = client.delete(f"/v1/buffers/{name}")
        assert (response.status_code, response.content) == (204, b"")
        assert_problem(client.delete(f"/v1/buffers/{name}"), "unknown_buffer")
    state = whole_state(data)
    # No file, and no row but the schema's own.
    assert {name for name, rows in state.items() if rows} == {"alembic_version", "store", "intents"}
    assert not any((data / "segments").iterdir())
    # The name is free again, and nothing of the old buffer shows.
    put_buffer(client, 777, buffer="z")
    assert client.get("/v1/buffers/z/stats").json()["num_records"] == 0


def test_a_long_list_comes_in_pages(client: httpx.Client) -> None:
    names = [f"b{number:03}" for number in range(120)]
    for name in reversed(names):
        put_buffer(client, 1000, buffer=name)
    page = client.get("/v1/buffers").json()
    assert [info["name"] for info in page["buffers"]] == names[:100]
    # What comes and goes in between neither repeats nor hides another one.
    put_buffer(client, 1000, buffer="b000-0")
    client.delete(f"/v1/buffers/{page['next_cursor']}")
    rest = client.get("/v1/buffers", params={"cursor": page["next_cursor"], "limit": 1000}).json()
    assert [info["name"] for info in rest["buffers"]] == names[100:]
    assert rest["next_cursor"] is None
    exactly = client.get("/v1/buffers", params={"limit": 120}).json()
    assert (len(exactly["buffers"]), exactly["next_cursor"]) == (120, None)
    for cursor in ("B", "", "b/c", "\0", "x" * 64):
        assert_problem(client.get("/v1/buffers", params={"cursor": cursor}), "invalid_cursor")
    for limit in ("0", "1001", "-1", "1.0", str(2**64)):
        assert_problem(client.get("/v1/buffers", params={"limit": limit}), "invalid_request")


def test_buffers_do_not_touch_one_another(client: httpx.Client, data: Path) -> None:
    charge = make_exemplar().charge
    put_buffer(client, 3 * charge)
    put_buffer(client, 10**6, buffer="other")
    push(client, [make_exemplar(0, rank) for rank in range(3)], buffer="other")
    for round_ in range(4):
        push(client, [make_exemplar(round_, rank) for rank in range(3)])
    assert client.get("/v1/buffers/other/stats").json()["num_records"] == 3
    client.delete("/v1/buffers/other")
    assert_consistent(client, data)


def test_stats_add_up(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 20_000)
    records = [make_exemplar(c, r, phase=c, learner_id=f"l{r}", pad=50 * c) for c in range(3) for r in range(2 + c)]
    push(client, records)
    client.post("/v1/buffers/b/sample", json={"batch_size": 2})
    stats = assert_consistent(client, data)
    used = sum(record.charge for record in records)
    assert stats["bytes_used"] == used
    assert stats["utilization"] == used / 20_000
    assert stats["bytes_per_exemplar"] == used / 9
    assert stats["num_classes"] == 3
    assert stats["classes"] == [
        {
            "class_id": c,
            "count": 2 + c,
            "bytes": sum(record.charge for record in records if record.class_id == c),
            "name": None,
        }
        for c in range(3)
    ]
    assert stats["phases"] == {"0": 2, "1": 3, "2": 4}
    assert stats["learners"] == {"l0": 3, "l1": 3, "l2": 2, "l3": 1}
    assert (stats["pushes"], stats["samples"], stats["version"]) == (1, 1, 1)


def test_small_pushes_do_not_litter(client: httpx.Client, data: Path) -> None:
    """They go on in one file, which has no frame until it is sealed."""
    put_buffer(client)
    batch = [make_exemplar(0, rank) for rank in range(200)]
    for record in batch:
        push(client, [record])
    stats = assert_consistent(client, data)
    assert stats["num_records"] == 200
    assert stats["segments"] <= 2 + stats["bytes_used"] // 2**15
    # What an open segment costs beside its records: rows with its headers, which pages hold half empty.
    assert stats["disk_bytes"] < stats["bytes_used"] + 200 * 150 + 2000
    assert sum(path.stat().st_size for path in (data / "segments").iterdir()) < stats["bytes_used"]


def test_health_and_what_it_speaks(client: httpx.Client, data: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    info = client.get("/v1").json()
    assert info["service"] == "exemplar-memory"
    assert info["wire_version"] == WIRE_VERSION
    assert info["schema_version"] == HEAD
    assert info["segment_format"] == 1
    assert info["codecs"] == [codec.codec_id for codec in CODECS]
    assert info["eviction"] == ["class_balanced", "lowest_score", "fifo", "reservoir", "reject"]
    assert info["strategies"] == ["uniform", "class_balanced", "score_weighted"]
    assert client.get("/").json()["api"] == "/v1"
    assert client.get("/docs").status_code == 200
    assert client.get("/openapi.json").status_code == 200


def test_not_ready_when_the_index_cannot_be_written(client: httpx.Client, data: Path) -> None:
    blocker = sqlite3.connect(data / "index.sqlite", isolation_level=None)
    blocker.execute("PRAGMA locking_mode=EXCLUSIVE")
    client.app.state.store._index._engine.dispose()  # type: ignore[attr-defined]
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        assert client.get("/healthz").status_code == 200
        assert_problem(client.get("/readyz"), "storage_failed")
    finally:
        blocker.close()
    assert client.get("/readyz").status_code == 200
