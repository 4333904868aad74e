"""Forks: buffers that start from what another one holds, and share its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import Record
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    all_records,
    assert_consistent,
    assert_problem,
    contents,
    make_exemplar,
    push,
    put_buffer,
    sample,
    stats_of,
    whole_state,
)

URL = "/v1/buffers/b"
CHARGE = make_exemplar(seed=1).charge


def exemplar(class_id: int = 0, rank: int = 0, **fields: Any) -> Record:
    return make_exemplar(class_id, rank, **{"seed": 1, **fields})


def fork(client: httpx.Client, name: str, *, source: str = "b", **wanted: Any) -> dict[str, Any]:
    response = client.post(f"/v1/buffers/{source}/forks", json={"name": name, **wanted})
    assert response.status_code == 201, response.text
    info: dict[str, Any] = response.json()
    assert info == client.get(f"/v1/buffers/{name}").json()
    return info


def consistent(client: httpx.Client, data: Path, *buffers: str) -> None:
    for buffer in buffers:
        assert_consistent(client, data, buffer=buffer)


def files(data: Path) -> set[str]:
    return {path.name for path in (data / "segments").iterdir()}


def test_a_fork_starts_with_the_same_and_goes_its_own_way(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 8 * CHARGE, eviction="fifo", description="the first", retain_snapshots=3)
        push(client, [exemplar(rank % 2, rank, seed=rank) for rank in range(6)], key="k")
        client.patch(f"{URL}/exemplars", json={"exemplar_ids": [2], "scores": [9]})
        client.put(f"{URL}/snapshots/s")
        before = all_records(client)
        info = fork(client, "f")
        source = client.get(URL).json()
        own = {"name": "f", "created_at": info["created_at"]}
        assert info == {**source, **own}
        assert info["version"] == 2
        assert all_records(client, buffer="f") == before
        # Its snapshots are not the other's.
        assert client.get("/v1/buffers/f/snapshots").json() == {"snapshots": [], "next_cursor": None}
        assert_problem(client.get("/v1/buffers/f/diff", params={"from": "s"}), "unknown_snapshot")
        consistent(client, data, "b", "f")
        # Neither notices what happens to the other; ids go on in both.
        assert push(client, [exemplar(5)], buffer="f", key="k")["exemplar_ids"] == [7]
        assert push(client, [exemplar(6, seed=9), exemplar(6, seed=8)])["exemplar_ids"] == [7, 8]
        client.delete("/v1/buffers/f/exemplars/1")
        client.patch("/v1/buffers/f/exemplars", json={"exemplar_ids": [3], "scores": [-4]})
        assert all_records(client)[:6] == before
        assert [r.exemplar_id for r in all_records(client, buffer="f")] == [2, 3, 4, 5, 6, 7]
        assert next(r.score for r in all_records(client, buffer="f", class_id=0)) == -4
        consistent(client, data, "b", "f")
        shown = {name: all_records(client, buffer=name) for name in ("b", "f")}
    with running(data) as client:
        assert {name: all_records(client, buffer=name) for name in ("b", "f")} == shown
        consistent(client, data, "b", "f")


def test_a_fork_of_a_snapshot(data: Path) -> None:
    with running(data) as client:
        put_buffer(client, 6 * CHARGE, eviction="fifo")
        push(client, [exemplar(rank % 2, rank, seed=rank) for rank in range(6)])
        client.put(f"{URL}/snapshots/s")
        then = all_records(client)
        client.patch(f"{URL}/exemplars", json={"exemplar_ids": [5], "scores": [100], "ranks": [50]})
        push(client, [exemplar(7, rank) for rank in range(4)])
        info = fork(client, "f", snapshot="s", description="as it was")
        assert (info["version"], info["num_records"], info["description"]) == (1, 6, "as it was")
        assert all_records(client, buffer="f") == then
        # Ids are never used again, in the fork neither.
        assert push(client, [exemplar(9)], buffer="f")["exemplar_ids"] == [11]
        consistent(client, data, "b", "f")
    with running(data) as client:
        assert all_records(client, buffer="f")[:-1] == then[1:]
        client.delete(f"{URL}/snapshots/s")
        assert all_records(client, buffer="f")[:-1] == then[1:]
        consistent(client, data, "b", "f")


def test_files_are_shared_and_counted_in_both(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 10**6)
    push(client, [exemplar(rank=rank, pad=5000) for rank in range(20)])
    fork(client, "f")
    # Sealed, as what is shared never changes again.
    assert len(files(data)) == len({name.split(".")[0] for name in files(data)})
    assert all(name.endswith(".zarr.zip") for name in files(data))
    on_disk = sum(path.stat().st_size for path in (data / "segments").iterdir())
    for buffer in ("b", "f"):
        stats = assert_consistent(client, data, buffer=buffer)
        assert stats["disk_bytes"] - stats["index_bytes"] == on_disk
    # A segment goes when the last of them lets go of it.
    before = files(data)
    client.delete(f"{URL}/exemplars", params={"class_id": 0})
    assert files(data) == before
    assert assert_consistent(client, data)["segments"] == 0
    consistent(client, data, "f")
    client.delete("/v1/buffers/f/exemplars", params={"class_id": 0})
    assert files(data) == set()
    consistent(client, data, "b", "f")


@pytest.mark.parametrize("restart", [False, True])
def test_a_fork_survives_its_source(data: Path, restart: bool) -> None:
    with running(data) as client:
        put_buffer(client, 10**6)
        push(client, [exemplar(rank % 3, rank, seed=rank) for rank in range(9)])
        fork(client, "f")
        then = all_records(client, buffer="f")
        drawn = contents(sample(client, buffer="f", batch_size=20, seed=1))
        if not restart:
            client.delete(URL)
            # The name is free, for a fork of the fork too.
            fork(client, "b", source="f")
            assert all_records(client) == then
            client.delete(URL)
            assert all_records(client, buffer="f") == then
            consistent(client, data, "f")
            client.delete("/v1/buffers/f")
            assert {name for name, rows in whole_state(data).items() if rows} == {"alembic_version", "store", "intents"}
            return
        client.delete(URL)
    with running(data) as client:
        assert all_records(client, buffer="f") == then
        assert contents(sample(client, buffer="f", batch_size=20, seed=1)) == drawn
        consistent(client, data, "f")


def test_a_segment_that_is_shared_is_not_rewritten_under_the_other(client: httpx.Client, data: Path) -> None:
    large = exemplar(pad=2000).charge
    put_buffer(client, 40 * large)
    push(client, [exemplar(rank=rank, pad=2000, seed=rank) for rank in range(38)])
    fork(client, "f", disk_limit_bytes=120 * large)
    then = all_records(client)
    for round_ in range(60):
        batch = [exemplar(c, 0, seed=round_, score=round_, pad=2000) for c in range(1, 6)]
        push(client, batch, buffer="f")
        stats = stats_of(client, buffer="f")
        assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
    assert all_records(client) == then
    consistent(client, data, "b", "f")


def test_a_fork_of_an_empty_buffer(client: httpx.Client, data: Path) -> None:
    put_buffer(client, None, full_samples_per_class=1, full_sample_bytes=1000)
    info = fork(client, "f")
    assert (info["num_records"], info["full_sample_bytes"]) == (0, 1000)
    push(client, [exemplar()], buffer="f")
    assert stats_of(client)["num_records"] == 0
    consistent(client, data, "b", "f")


def test_the_classes_seen_go_with_a_fork(client: httpx.Client, data: Path) -> None:
    put_buffer(client, None, full_samples_per_class=1, full_sample_bytes=2 * CHARGE)
    push(client, [exemplar(c) for c in range(3)])
    client.delete(f"{URL}/exemplars", params={"class_id": 0})
    assert fork(client, "f")["budget_bytes"] == 6 * CHARGE
    assert push(client, [exemplar(0)], buffer="f")["budget_bytes"] == 6 * CHARGE
    assert push(client, [exemplar(9)], buffer="f")["budget_bytes"] == 8 * CHARGE
    assert client.get(URL).json()["budget_bytes"] == 6 * CHARGE
    consistent(client, data, "b", "f")


def test_a_reservoir_that_is_carried_on_stays_a_sample_of_everything(client: httpx.Client, data: Path) -> None:
    """Whatever it is called: what a fork or an import holds is what the buffer itself holds after the same pushes."""
    stream = [exemplar(rank=rank) for rank in range(800)]
    put_buffer(client, 40 * CHARGE, eviction="reservoir")
    push(client, stream[:400])
    fork(client, "f")
    file = client.get(f"{URL}/export").content
    zipped = {"Content-Type": "application/zip"}
    assert client.post("/v1/buffers/i/import", content=file, headers=zipped).status_code == 201
    for buffer in ("b", "f", "i"):
        assert push(client, stream[400:], buffer=buffer)["kept"] > 0
    held = [record.exemplar_id for record in all_records(client)]
    # Half of it from each half, give or take three standard errors.
    assert abs(np.mean([id_ <= 400 for id_ in held]) - 0.5) < 3 * (0.25 / 40) ** 0.5
    for buffer in ("f", "i"):
        assert [record.exemplar_id for record in all_records(client, buffer=buffer)] == held
        assert contents(sample(client, buffer=buffer, batch_size=20)) == contents(sample(client, batch_size=20))
    # And a buffer of any name keeps the same of the same.
    put_buffer(client, 40 * CHARGE, buffer="another", eviction="reservoir")
    push(client, stream[:400], buffer="another")
    push(client, stream[400:], buffer="another")
    assert [record.exemplar_id for record in all_records(client, buffer="another")] == held
    consistent(client, data, "b", "f", "i", "another")


def test_forks_that_will_not_do(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    put_buffer(client, buffer="taken")
    push(client, [exemplar(rank=rank, pad=5000) for rank in range(20)])
    client.put(f"{URL}/snapshots/s")
    before = whole_state(data)
    url = f"{URL}/forks"
    for name in ("taken", "b"):
        assert_problem(client.post(url, json={"name": name}), "buffer_exists")
    for bad in ({}, {"name": "C"}, {"name": "c" * 64}, {"name": ""}, {"name": 1}, {"name": "c", "budget_bytes": 5}):
        assert_problem(client.post(url, json=bad), "invalid_request")
    assert_problem(client.post(url, json={"name": "c", "snapshot": "x"}), "unknown_snapshot")
    assert_problem(client.post("/v1/buffers/nope/forks", json={"name": "c"}), "unknown_buffer")
    assert whole_state(data) == before
    consistent(client, data, "b", "taken")


def test_a_fork_of_a_time_with_a_larger_budget_is_refused_in_words(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 20 * CHARGE)
    push(client, [exemplar(rank=rank) for rank in range(20)])
    client.put(f"{URL}/snapshots/s")
    client.patch(URL, json={"budget_bytes": 5 * CHARGE}).raise_for_status()
    response = client.post(f"{URL}/forks", json={"name": "c", "snapshot": "s"})
    assert_problem(response, "budget_exceeded", requested_bytes=20 * CHARGE, budget_bytes=5 * CHARGE)
    client.patch(URL, json={"budget_bytes": 20 * CHARGE}).raise_for_status()
    assert fork(client, "c", snapshot="s")["num_records"] == 20
    consistent(client, data, "b", "c")


def test_a_fork_with_less_room_copies_what_it_holds_of_half_empty_segments(client: httpx.Client, data: Path) -> None:
    size = exemplar(pad=5000).charge
    put_buffer(client, 400 * size, disk_limit_bytes=900 * size)
    push(client, [exemplar(rank % 2, rank, pad=5000, seed=rank) for rank in range(400)])
    client.delete(f"{URL}/exemplars", params={"class_id": 1})
    client.patch(URL, json={"budget_bytes": 210 * size, "disk_limit_bytes": 900 * size}).raise_for_status()
    before = all_records(client)
    limit = 210 * size + 200_000
    assert stats_of(client)["disk_bytes"] > limit
    assert fork(client, "f", disk_limit_bytes=limit)["disk_limit_bytes"] == limit
    assert stats_of(client, buffer="f")["disk_bytes"] <= limit
    assert all_records(client, buffer="f") == before == all_records(client)
    consistent(client, data, "b", "f")


@pytest.mark.parametrize("limit", [-1, 0, 5000, 999_999, 2**52, 2**70])
def test_disk_limits_of_forks_that_will_not_do(client: httpx.Client, data: Path, limit: int) -> None:
    put_buffer(client)
    push(client, [exemplar(rank=rank, pad=5000) for rank in range(20)])
    assert_problem(client.post(f"{URL}/forks", json={"name": "c", "disk_limit_bytes": limit}), "invalid_budget")
    assert_problem(client.get("/v1/buffers/c"), "unknown_buffer")
    assert_consistent(client, data)


def test_a_fork_whose_share_does_not_fit_its_disk_limit(client: httpx.Client, data: Path) -> None:
    """A fork consists of whole segments: here of one that is mostly another state's."""
    charge = exemplar(pad=5000).charge
    put_buffer(client, 4 * charge, eviction="fifo", disk_limit_bytes=80 * charge)
    for phase in range(8):
        push(client, [exemplar(phase, rank, pad=5000) for rank in range(4)])
        client.put(f"{URL}/snapshots/p{phase}")
    # It is made to fit: what is shared is copied out of the large segments.
    info = fork(client, "f", snapshot="p3", disk_limit_bytes=20 * charge)
    assert info["disk_limit_bytes"] == 20 * charge
    assert {record.class_id for record in all_records(client, buffer="f")} == {3}
    consistent(client, data, "b", "f")
    response = client.post(f"{URL}/forks", json={"name": "g", "snapshot": "p3", "disk_limit_bytes": 4 * charge})
    assert_problem(response, "disk_limit_exceeded", disk_limit_bytes=4 * charge)
    assert_problem(client.get("/v1/buffers/g"), "unknown_buffer")
    consistent(client, data, "b", "f")


def test_a_description_of_a_fork_has_the_usual_bounds(client: httpx.Client) -> None:
    put_buffer(client)
    response = client.post(f"{URL}/forks", json={"name": "c", "description": "x" * 10_001})
    assert_problem(response, "invalid_request")
    assert_problem(client.get("/v1/buffers/c"), "unknown_buffer")


def test_a_fork_of_what_there_is_no_room_to_seal(client: httpx.Client, data: Path) -> None:
    put_buffer(client, 10**6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = zip(rng.integers(10, size=40).tolist(), rng.integers(99, size=40).tolist(), strict=True)
        push(client, [exemplar(class_id, rank, pad=5000) for class_id, rank in places])
    before = all_records(client)
    fork(client, "f", disk_limit_bytes=4 * 10**6)
    # Some are still open: what the fork holds of them was copied.
    assert stats_of(client)["open_segments"] > 0
    assert all_records(client) == all_records(client, buffer="f") == before
    consistent(client, data, "b", "f")
    push(client, [exemplar(3, 0, pad=5000)])
    (added,) = push(client, [exemplar(4, 0, pad=5000)], buffer="f")["exemplar_ids"]
    consistent(client, data, "b", "f")
    client.delete(URL)
    assert {r.exemplar_id for r in all_records(client, buffer="f")} - {r.exemplar_id for r in before} == {added}
    consistent(client, data, "f")
