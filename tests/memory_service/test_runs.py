"""Reports of runs: kept as they came, for who may see them, and shown without anything of them being trusted."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import BudgetError
from memory_format.api.runs import RunReport
from memory_service.store import Store
from memory_service.store.keys import KeyFile
from memory_service.store.pure.model import Options
from memory_service.store.transfer.backup import backup
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_problem, make_exemplar, push, put_buffer

HTML = {"Accept": "text/html"}


def report(**changed: Any) -> dict[str, Any]:
    """One that a run may send."""
    methods = [
        {
            "method": name,
            "label": f"{name} <b>exemplars</b>",
            "buffers": ["b"] if name == "masked" else [],
            "last": {"mean": last, "deviation": 0.01},
            "average": {"mean": 0.8},
            "forgetting": {"mean": -0.02},
            "exemplars": {"mean": 12.5, "deviation": 0.7},
            "bytes_used": {"mean": 4000 * (name == "masked")},
            "phases": [
                {
                    "classes_seen": 2 * phase,
                    "accuracy": last / phase,
                    "exemplars": 6 * phase,
                    "bytes_used": 2000 * phase,
                }
                for phase in (1, 2)
            ],
        }
        for name, last in (("none", 0.25), ("masked", 0.75))
    ]
    whole = {
        "name": "trial",
        "title": '<script>alert("x")</script>',
        "verdict": "<img src=x onerror=alert(1)>",
        "setting": "two phases",
        "num_seeds": 2,
        "budget_bytes": 5000,
        "methods": methods,
        "phases": [["cat", "dog"], ["owl", "emu"]],
        "exemplars": [{"buffer": "b", "exemplar_id": 1}, {"buffer": "b", "exemplar_id": 2}],
        "settings": {"seed": "0"},
        "machine": {"cores": "2"},
    }
    return {**copy.deepcopy(whole), **changed}


def put(client: httpx.Client, run_id: str = "r1", **changed: Any) -> httpx.Response:
    return client.put(f"/v1/runs/{run_id}", json=report(**changed))


def test_a_report_is_kept_as_it_came_and_the_same_again_changes_nothing(data: Path) -> None:
    with running(data) as client:
        first = put(client)
        assert first.status_code == 201, first.text
        path = data / "runs" / "r1.json"
        before = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        again = put(client)
        assert (again.status_code, again.json(), path.read_bytes()) == (200, first.json(), before)
        changed = put(client, verdict="better")
        assert changed.status_code == 200
        assert changed.json()["stored_at"] >= first.json()["stored_at"]
        assert path.read_bytes() != before
    with running(data) as client:
        found = client.get("/v1/runs/r1").json()
        assert found["report"] == report(verdict="better") | {"methods": client_methods(found)}
        (info,) = client.get("/v1/runs").json()["runs"]
        assert info == changed.json()
        assert [(each["method"], each["last"], each["bytes_used"]) for each in info["methods"]] == [
            ("none", 0.25, 0),
            ("masked", 0.75, 4000),
        ]
        assert client.delete("/v1/runs/r1").status_code == 204
        assert not path.exists()
        assert_problem(client.get("/v1/runs/r1"), "unknown_run")
        assert_problem(client.delete("/v1/runs/r1"), "unknown_run")


def client_methods(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods of an answer, once nothing that was sent is missing in them."""
    for sent, got in zip(report()["methods"], found["report"]["methods"], strict=True):
        assert {name: got[name] for name in sent if name not in ("average", "forgetting", "bytes_used")} == {
            name: value for name, value in sent.items() if name not in ("average", "forgetting", "bytes_used")
        }
        assert got["average"] == sent["average"] | {"deviation": None}
    methods: list[dict[str, Any]] = found["report"]["methods"]
    return methods


def test_what_is_no_report_is_refused(client: httpx.Client, data: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"methods": []},
        {"title": ""},
        {"name": "x" * 201},
        {"html": "<p>"},
        {"num_seeds": 1.5},
        {"exemplars": [{"buffer": "b", "exemplar_id": 0}]},
        {"settings": {"": "x"}},
        {"machine": {"a": "\0"}},
    ]
    for changed in bad:
        assert_problem(put(client, **changed), "invalid_request")
    for run_id in ("UPPER", "..%2Fkeys", ".hidden", "x" * 64):
        assert client.put(f"/v1/runs/{run_id}", json=report()).status_code in (404, 422), run_id
    assert list(data.rglob("*.json")) == []


def test_reports_have_bounds(data: Path) -> None:
    with running(data) as client:
        many = {str(number): "x" * 10_000 for number in range(110)}
        assert_problem(put(client, settings=many), "batch_too_large", limit=2**20)
    given = RunReport.model_validate_json(json.dumps(report()))
    with Store(data) as store:
        store.runs.put("a", given, 1.0)
    num_bytes = (data / "runs" / "a.json").stat().st_size
    with Store(data, Options(run_bytes=num_bytes + 100)) as store:
        with pytest.raises(BudgetError, match="free: delete some") as refused:
            store.runs.put("b", given, 2.0)
        assert refused.value.code == "disk_limit_exceeded"
        # In the place of itself it fits.
        store.runs.put("a", given.model_copy(update={"name": "other"}), 3.0)
        assert [path.name for path in (data / "runs").iterdir()] == ["a.json"]


def test_a_damaged_file_hides_no_other(data: Path) -> None:
    with running(data) as client:
        for run_id in ("a", "b"):
            put(client, run_id)
        path = data / "runs" / "a.json"
        path.write_bytes(path.read_bytes()[:-9])
        assert_problem(client.get("/v1/runs/a"), "corrupt_record")
        assert put(client, "a").status_code == 200
        assert client.get("/v1/runs/a").status_code == 200
        path.write_bytes(path.read_bytes()[:-9])
    (data / "runs" / "c.json").write_bytes(b"{}")
    with running(data) as client:
        listed = client.get("/v1/runs").json()
        assert ([run["run_id"] for run in listed["runs"]], listed["damaged"]) == (["b"], ["a", "c"])
        shown = client.get("/runs", headers=HTML).text
        assert "a, c" in shown
        assert "/runs/b" in shown
        first = client.get("/v1/runs?limit=2").json()
        rest = client.get("/v1/runs", params={"cursor": first["next_cursor"]}).json()
        assert (first["damaged"], rest["runs"], rest["damaged"]) == (["a"], [], ["c"])
        assert_problem(client.get("/v1/runs/a"), "corrupt_record")
        assert put(client, "a").status_code == 200
        assert client.delete("/v1/runs/c").status_code == 204
        listed = client.get("/v1/runs").json()
        assert ([run["run_id"] for run in listed["runs"]], listed["damaged"]) == (["a", "b"], [])


def test_pages_of_a_list_neither_repeat_nor_hide_a_run(data: Path) -> None:
    given = RunReport.model_validate_json(json.dumps(report()))
    with Store(data) as store:
        for number in range(7):
            store.runs.put(f"r{number}", given.model_copy(update={"name": str(number)}), 1000.0 + number // 2)
        found, cursor = [], None
        while True:
            page = store.runs.page(2, cursor)
            cursor = page.next_cursor
            found += [run.run_id for run in page.runs]
            if cursor is None:
                break
            if len(found) == 2:
                store.runs.put("new", given, 2000.0)
                store.runs.delete(found[-1])
        assert found == ["r6", "r4", "r5", "r2", "r3", "r0", "r1"]


def test_a_backup_has_them(data: Path, tmp_path: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        put(client)
        copy_, num_bytes = tmp_path / "copy", (data / "runs" / "r1.json").stat().st_size
        _, counted = backup(data, copy_)
        assert counted >= num_bytes
        archived = client.get("/v1/backup")
        assert archived.status_code == 200
        assert b"runs/r1.json" in archived.content
        stored = client.get("/v1/runs/r1").json()
    with running(copy_) as client:
        assert client.get("/v1/runs/r1").json() == stored


def test_a_key_sees_the_runs_of_its_buffers_and_replaces_its_own(data: Path) -> None:
    keys = KeyFile(data)

    def of(role: Any, *buffers: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {keys.make(role, time.time(), buffers=buffers)[1]}"}

    admin, left, other, right = of("admin", "*"), of("write", "b", "l*"), of("write", "b"), of("read", "r*")
    with running(data) as client:
        assert client.put("/v1/runs/r1", json=report(), headers=left).status_code == 201
        assert_problem(client.put("/v1/runs/r2", json=report(), headers=right), "forbidden")
        foreign = report(exemplars=[{"buffer": "r", "exemplar_id": 1}])
        assert_problem(client.put("/v1/runs/r2", json=foreign, headers=left), "forbidden")
        for headers, there in ((left, True), (other, True), (right, False), (admin, True)):
            listed = [run["run_id"] for run in client.get("/v1/runs", headers=headers).json()["runs"]]
            assert listed == ["r1"] * there
            assert client.get("/v1/runs/r1", headers=headers).status_code == (200 if there else 404)
            assert client.get("/runs/r1.json", headers=headers).status_code == (200 if there else 404)
            assert len(client.get("/runs.json", headers=headers).json()["runs"]) == there
        # What came with another key.
        for headers, may_delete in ((left, True), (other, False), (admin, True)):
            page = client.get("/runs/r1", headers=HTML | headers).text
            assert ("Delete this report" in page) == may_delete
        assert_problem(client.put("/v1/runs/r1", json=report(verdict="mine"), headers=other), "forbidden")
        assert_problem(client.delete("/v1/runs/r1", headers=other), "forbidden")
        assert client.put("/v1/runs/r1", json=report(verdict="mine"), headers=left).status_code == 200
        # What speaks of buffers that even an admin's key is not for.
        narrow = of("admin", "c*")
        mine = report(methods=report()["methods"][:1], exemplars=[{"buffer": "c", "exemplar_id": 1}])
        assert_problem(client.put("/v1/runs/r1", json=mine, headers=narrow), "forbidden")
        assert_problem(client.delete("/v1/runs/r1", headers=narrow), "unknown_run")
        assert client.delete("/v1/runs/r1", headers=admin).status_code == 204


def test_a_run_that_tells_of_no_buffer_is_its_makers_and_who_may_see_all(data: Path) -> None:
    keys = KeyFile(data)

    def of(role: Any, buffer: str, learner_id: str | None = None) -> dict[str, str]:
        made = keys.make(role, time.time(), buffers=[buffer], learner_id=learner_id)
        return {"Authorization": f"Bearer {made[1]}"}

    admin, left, other = of("admin", "*"), of("write", "b"), of("write", "b")
    # The next key of a learner has what its last one made.
    before, after = (of("write", buffer, learner_id="ann") for buffer in ("b", "c"))
    given = report(methods=report()["methods"][:1], exemplars=[])
    with running(data) as client:

        def listed(headers: dict[str, str]) -> list[str]:
            found = [run["run_id"] for run in client.get("/v1/runs", headers=headers).json()["runs"]]
            assert [run["run_id"] for run in client.get("/runs.json", headers=headers).json()["runs"]] == found
            assert [run["run_id"] for run in client.get("/.json", headers=headers).json()["runs"]] == found
            return sorted(found)

        for run_id, headers in (("r1", left), ("r2", before)):
            for status in (201, 200):
                assert client.put(f"/v1/runs/{run_id}", json=given, headers=headers).status_code == status
        assert list(map(listed, (admin, left, other, before, after))) == [["r1", "r2"], ["r1"], [], ["r2"], ["r2"]]
        for headers, status in ((other, 404), (after, 404), (left, 200), (admin, 200)):
            for address in ("/v1/runs/r1", "/runs/r1.json"):
                assert client.get(address, headers=headers).status_code == status
        assert_problem(client.delete("/v1/runs/r1", headers=other), "unknown_run")
        assert client.delete("/v1/runs/r1", headers=left).status_code == 204
        assert client.delete("/v1/runs/r2", headers=after).status_code == 204
        assert list((data / "runs").iterdir()) == []


def test_pages_show_it_and_execute_nothing(client: httpx.Client) -> None:
    assert "There is none" in client.get("/runs", headers=HTML).text
    put_buffer(client)
    push(client, [make_exemplar(0, rank) for rank in range(2)])
    client.post("/v1/buffers/b/classes", json={"names": ["cat"], "class_ids": [0]})
    put(client)
    listed, shown = client.get("/runs", headers=HTML), client.get("/runs/r1", headers=HTML)
    for page in (listed, shown):
        assert page.status_code == 200, page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
        assert "<script" not in page.text
        assert "<img src=x" not in page.text
        assert "masked &lt;b&gt;exemplars&lt;/b&gt;" in page.text
    assert 'href="/runs/r1"' in listed.text
    assert "/buffers/b/exemplars/1/thumbnail.webp" in shown.text
    assert '<a href="/buffers/b/gallery">b</a>' in shown.text
    assert "75.0 ± 1.0" in shown.text
    assert "Delete this report" in shown.text
    # Exemplars that are gone are not shown, and neither is a link to a buffer that is.
    client.delete("/v1/buffers/b/exemplars/1?erase=true")
    found = client.get("/runs/r1.json").json()
    assert [card["exemplar_id"] for card in found["shown"]] == [2]
    assert found["accuracy"]["curves"][1]["points"] == [[0.0, 0.75], [1.0, 0.375]]
    client.delete("/v1/buffers/b")
    gone = client.get("/runs/r1", headers=HTML).text
    assert "(gone)" in gone
    assert "/buffers/b/" not in gone
    assert "Nothing that the run showed is held any more." in gone
    assert client.post("/runs/r1/delete", data={"sure": "yes"}, headers=HTML, follow_redirects=False).headers[
        "location"
    ] == ("/runs")
    assert client.get("/v1/runs").json()["runs"] == []
    assert client.get("/runs/r1", headers=HTML).status_code == 404
