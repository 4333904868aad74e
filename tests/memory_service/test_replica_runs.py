"""Reports of runs over replicas: every one of them has all, within one bound, and whatever moves a store moves them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from memory_format import BudgetError, ForbiddenError, StorageError
from memory_format.api.runs import RunList, RunReport
from memory_service.store import Store
from memory_service.store.admin.inspect import inspect
from memory_service.store.admin.migrate import migrate
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places, open_local
from memory_service.store.index import tables
from memory_service.store.keys import KeyFile
from memory_service.store.pure.model import Options
from memory_service.store.shared import SharedStore
from memory_service.store.transfer.backup import backup
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_problem
from tests.memory_service.test_replica_quotas import at_once
from tests.memory_service.test_runs import HTML, report
from tests.postgres import PostgresServer

GIVEN = RunReport.model_validate_json(json.dumps(report()))


@pytest.fixture
def shared(tmp_path: Path, postgres: PostgresServer) -> Places:
    return Places(postgres.new_schema(), (tmp_path / "objects").as_uri(), replicas=True)


def alone(places: Places) -> Places:
    return Places(places.index, places.segments)


def run_ids(store: Store) -> list[str]:
    return [run.run_id for run in store.runs.page(100).runs]


def test_what_one_is_sent_all_of_them_show_to_whom_it_is_for(tmp_path: Path, shared: Places) -> None:
    keys = KeyFile(tmp_path / "keys")

    def of(role: Any, *buffers: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {keys.make(role, time.time(), buffers=buffers)[1]}"}

    admin, left, other, right = of("admin", "*"), of("write", "b"), of("write", "b"), of("read", "r*")
    given = {"index": shared.index, "segments": shared.segments, "replicas": True, "keys": tmp_path / "keys"}
    with running(tmp_path / "one", **given) as first, running(tmp_path / "two", **given) as second:
        both: Sequence[httpx.Client] = (first, second)
        made = first.put("/v1/runs/r1", json=report(), headers=left)
        assert made.status_code == 201, made.text
        again = second.put("/v1/runs/r1", json=report(), headers=left)
        assert (again.status_code, again.json()) == (200, made.json())
        answers = [client.get("/v1/runs/r1", headers=left).json() for client in both]
        assert answers[0] == answers[1]
        assert answers[0]["report"]["title"] == report()["title"]
        for client in both:
            for headers, there in ((left, True), (other, True), (right, False), (admin, True)):
                assert [run["run_id"] for run in client.get("/v1/runs", headers=headers).json()["runs"]] == [
                    "r1"
                ] * there
                assert client.get("/runs/r1", headers=HTML | headers).status_code == (200 if there else 404)
                assert ("/runs/r1" in client.get("/runs", headers=HTML | headers).text) == there
            assert_problem(client.put("/v1/runs/r1", json=report(verdict="mine"), headers=other), "forbidden")
            assert_problem(client.delete("/v1/runs/r1", headers=other), "forbidden")
        assert second.put("/v1/runs/r1", json=report(verdict="better"), headers=left).status_code == 200
        assert first.get("/v1/runs/r1", headers=left).json()["report"]["verdict"] == "better"
        assert second.delete("/v1/runs/r1", headers=left).status_code == 204
        assert_problem(first.get("/v1/runs/r1", headers=left), "unknown_run")
        assert first.get("/v1/runs", headers=admin).json()["runs"] == []
    # The directory of a replica holds nothing of them.
    assert not (tmp_path / "one" / "runs").exists()


def test_all_of_them_keep_to_one_bound(tmp_path: Path, shared: Places) -> None:
    with SharedStore(tmp_path / "one", open_ports=shared) as store:
        store.runs.put("a0", GIVEN, 1.0)
        with store._index.reading() as reading:
            size = len(reading.connection.execute(sa.select(tables.runs.c.content)).scalar_one())
    options, refused = Options(run_bytes=5 * size), []
    with (
        SharedStore(tmp_path / "one", options, open_ports=shared) as first,
        SharedStore(tmp_path / "two", options, open_ports=shared) as second,
    ):

        def put(place: int) -> None:
            for turn in range(2):
                try:
                    (first, second)[place % 2].runs.put(f"r{place}-{turn}", GIVEN, 2.0)
                except BudgetError as error:
                    refused.append(error.code)

        at_once(4, put)
        assert refused == ["disk_limit_exceeded"] * 4
        assert run_ids(first) == run_ids(second)
        assert len(run_ids(first)) == 5
        # In the place of itself it fits, and what is deleted makes room for another one.
        second.runs.put("a0", GIVEN.model_copy(update={"verdict": "other"}), 1.0)
        first.runs.delete("a0")
        second.runs.put("b0", GIVEN, 3.0)
        assert run_ids(first)[0] == "b0"
        pages, cursor = list[list[str]](), None
        while True:
            page = second.runs.page(2, cursor)
            cursor = page.next_cursor
            pages.append([run.run_id for run in page.runs])
            if cursor is None:
                break
        assert list(chain(*pages)) == run_ids(first)
        assert [len(page) for page in pages] == [2, 2, 1]


def test_a_damaged_row_hides_no_other(tmp_path: Path, shared: Places) -> None:
    with SharedStore(tmp_path / "one", open_ports=shared) as store:
        for number in range(3):
            store.runs.put(f"r{number}", GIVEN, 1.0 + number)
        runs = store.runs.page(5).runs
        with store._index.writing() as transaction:
            # What is said in a list; of one the report itself, too.
            transaction.connection.execute(sa.update(tables.runs).values(summary="{}"))
            transaction.connection.execute(
                sa.update(tables.runs).where(tables.runs.c.run_id == "r1").values(content=b"{}")
            )
        assert store.runs.page(5) == RunList((runs[0], runs[2]), damaged=("r1",))
        assert store.runs.page(1, store.runs.page(1).next_cursor).damaged == ("r1",)
        assert store.runs.page(5, only=lambda buffers, _: bool(buffers)).damaged == ()
        with pytest.raises(StorageError, match="run r1 is damaged"):
            store.runs.get("r1")
        with pytest.raises(ForbiddenError, match="run r1 came with another key"):
            store.runs.delete("r1", only_maker="somebody")
        assert store.runs.put("r1", GIVEN, 9.0)[1] is False
        assert run_ids(store) == ["r1", "r2", "r0"]


def test_whatever_moves_a_store_moves_them(tmp_path: Path, shared: Places) -> None:
    with Store(tmp_path / "files") as store:
        store.runs.put("r1", GIVEN, 1.0)
        kept = (tmp_path / "files" / "runs" / "r1.json").read_bytes()
        stored = store.runs.get("r1")
    migrate(tmp_path / "files", open_local, tmp_path / "moved", alone(shared))
    # As an earlier version kept them, and one that is none.
    (tmp_path / "moved" / "runs").mkdir()
    (tmp_path / "moved" / "runs" / "r2.json").write_bytes(kept)
    (tmp_path / "moved" / "runs" / "r3.json").write_bytes(b"{}")
    with Store(tmp_path / "moved", open_ports=alone(shared)) as store:
        assert sorted(run_ids(store)) == ["r1", "r2"]
        assert [path.name for path in (tmp_path / "moved" / "runs").iterdir()] == ["r3.json"]
    with SharedStore(tmp_path / "one", open_ports=shared) as replica:
        assert replica.runs.get("r1") == stored
        replica.runs.delete("r2")
        backup(tmp_path / "moved", tmp_path / "backup", alone(shared))
        archived = b"".join(replica.archive())
        assert b"runs/r1.json" in archived
        assert inspect(tmp_path / "one", alone(shared)).document()["reports"] == 1
        assert verify(tmp_path / "one", alone(shared)).sound
    problems = verify(tmp_path / "moved", alone(shared)).problems
    assert [(problem.kind, problem.where) for problem in problems] == [("damaged_report", "runs/r3")]
    migrate(tmp_path / "one", alone(shared), tmp_path / "back", open_local)
    for name, others in (("backup", ["r3.json"]), ("back", [])):
        runs = tmp_path / name / "runs"
        assert sorted(path.name for path in runs.iterdir()) == ["r1.json", *others]
        assert (runs / "r1.json").read_bytes() == kept
        with Store(tmp_path / name) as store:
            assert store.runs.get("r1") == stored
            with store._index.reading() as reading:
                assert reading.connection.execute(sa.select(tables.runs)).all() == []
