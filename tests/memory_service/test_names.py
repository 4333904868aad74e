"""Classes have names, on which learners with numbers of their own agree; and a buffer may belong to a run."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import BudgetError, ConflictError, FormatError, make_record
from memory_service.store import Store
from memory_service.store.pure.naming import agreed
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_consistent, assert_problem, make_exemplar, push, put_buffer

WORDLESS = make_record(class_id=0, patches=np.zeros((1, 4, 4, 3), np.uint8), keep_mask=np.ones((1, 1), bool))
EXPORT = {"Content-Type": "application/zip"}


def name(client: httpx.Client, names: list[str], *, buffer: str = "b", **more: Any) -> Any:
    return client.post(f"/v1/buffers/{buffer}/classes", json={"names": names, **more})


def named(client: httpx.Client, buffer: str = "b", **params: Any) -> dict[int, str]:
    page = client.get(f"/v1/buffers/{buffer}/classes", params=params).json()
    return {entry["class_id"]: entry["name"] for entry in page["classes"]}


@pytest.mark.parametrize(
    ("known", "seen", "names", "class_ids", "expected", "added"),
    [
        ({}, set(), ["a", "b"], None, [0, 1], {0: "a", 1: "b"}),
        ({0: "a"}, set(), ["b", "a"], None, [1, 0], {1: "b"}),
        # Of what a class was offered nobody knows what it is.
        ({2: "c"}, {0, 2, 3}, ["d", "e", "c"], None, [1, 4, 2], {1: "d", 4: "e"}),
        ({0: "a"}, {7}, ["z", "a"], [7, 0], [7, 0], {7: "z"}),
        ({}, set(), ["z"], [2**32 - 1], [2**32 - 1], {2**32 - 1: "z"}),
    ],
)
def test_names_get_ids(
    known: Mapping[int, str],
    seen: set[int],
    names: list[str],
    class_ids: list[int] | None,
    expected: list[int],
    added: dict[int, str],
) -> None:
    assert agreed(known, frozenset(seen), names, class_ids) == (expected, added)


@pytest.mark.parametrize(
    ("names", "class_ids", "error"),
    [
        (["b", "b"], None, FormatError),
        (["b", "c"], [1], FormatError),
        (["b", "c"], [1, 1], FormatError),
        (["b"], [0], ConflictError),
        (["a"], [1], ConflictError),
    ],
)
def test_what_contradicts_itself_or_a_name_is_refused(
    names: list[str], class_ids: list[int] | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        agreed({0: "a"}, frozenset(), names, class_ids)


def test_learners_agree_by_name(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    assert name(client, ["cat", "dog"]).json() == {"class_ids": [0, 1], "added": ["cat", "dog"]}
    assert name(client, ["owl", "dog"]).json() == {"class_ids": [2, 1], "added": ["owl"]}
    push(client, [make_exemplar(1), make_exemplar(9)])
    stats = assert_consistent(client, data)
    assert [(entry["class_id"], entry["name"]) for entry in stats["classes"]] == [(1, "dog"), (9, None)]
    # Names alone make no class of which the budget would grow, and no other version.
    assert (stats["num_classes_seen"], stats["version"]) == (2, 1)
    assert_problem(name(client, ["emu"], class_ids=[1]), "class_name_taken", class_id=1)
    assert name(client, ["emu"], class_ids=[9]).json() == {"class_ids": [9], "added": ["emu"]}
    client.put("/v1/buffers/b/snapshots/s")
    client.delete("/v1/buffers/b/exemplars/1")
    evicted = client.get("/v1/buffers/b/diff", params={"from": "s"}).json()["evicted"]
    assert evicted["classes"][0]["name"] == "dog"


def test_learners_at_once_get_one_id_for_a_name(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        wanted = [[f"class {number}" for number in range(first, first + 10)] for first in range(0, 40, 5)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(buffer.name_classes, wanted))
        pairs = zip(chain(*wanted), (id_ for answer in answers for id_ in answer.class_ids), strict=True)
        ids = dict(pairs)
        assert sorted(ids.values()) == list(range(45))
        assert {id_: n for n, id_ in ids.items()} == dict(buffer.state.names)
        assert sum(len(answer.added) for answer in answers) == 45


def test_names_come_in_pages(client: httpx.Client) -> None:
    put_buffer(client)
    name(client, [f"class {number}" for number in range(25)])
    first = client.get("/v1/buffers/b/classes", params={"limit": 20}).json()
    assert len(first["classes"]) == 20
    rest = named(client, limit=20, cursor=first["next_cursor"])
    assert rest == {number: f"class {number}" for number in range(20, 25)}
    assert client.get("/v1/buffers/b/classes", params={"limit": 25}).json()["next_cursor"] is None
    assert_problem(client.get("/v1/buffers/b/classes", params={"cursor": "x"}), "invalid_cursor")


@pytest.mark.parametrize("names", [[], [""], ["x" * 201], ["a\0"], [1], ["a", "a"]])
def test_what_is_no_name_is_refused(client: httpx.Client, names: list[Any]) -> None:
    put_buffer(client)
    assert_problem(name(client, names), "invalid_request")
    assert named(client) == {}


def test_names_count_towards_the_disk_limit(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=1000, disk_limit_bytes=200_000)
        with pytest.raises(BudgetError) as refused:
            buffer.name_classes([f"{number} ".ljust(200, "x") for number in range(2000)])
        assert refused.value.code == "disk_limit_exceeded"
        assert dict(buffer.state.names) == {}


def test_names_and_owners_go_along(data: Path) -> None:
    about: dict[str, Any] = {"vocabulary": "0" * 32, "vocabulary_name": "bert-base-uncased"}
    with running(data) as client:
        put_buffer(client, owner="run-1", **about)
        name(client, ["cat", "Käuzchen"])
        push(client, [WORDLESS])
        assert client.post("/v1/buffers/b/forks", json={"name": "forked"}).status_code == 201
        exported = client.get("/v1/buffers/b/export").content
        assert client.post("/v1/buffers/imported/import", content=exported, headers=EXPORT).status_code == 201
    with running(data) as client:
        for buffer, owner in (("b", "run-1"), ("forked", ""), ("imported", "run-1")):
            assert named(client, buffer) == {0: "cat", 1: "Käuzchen"}
            info = client.get(f"/v1/buffers/{buffer}").json()
            assert {key: info[key] for key in (*about, "owner")} == {**about, "owner": owner}
            assert_consistent(client, data, buffer=buffer)
            assert client.delete(f"/v1/buffers/{buffer}").status_code == 204
    with closing(sqlite3.connect(data / "index.sqlite")) as index:
        assert index.execute("SELECT * FROM class_names").fetchall() == []


def test_a_buffer_is_deleted_only_if_it_belongs_to_that_run(client: httpx.Client) -> None:
    put_buffer(client, owner="mine")
    put_buffer(client, buffer="shared")
    assert_problem(client.delete("/v1/buffers/b", params={"owner": "other"}), "other_owner", owner="mine")
    assert_problem(client.delete("/v1/buffers/b", params={"owner": ""}), "other_owner", owner="mine")
    assert_problem(client.delete("/v1/buffers/shared", params={"owner": "mine"}), "other_owner", owner="")
    assert_problem(client.put("/v1/buffers/b", json={"budget_bytes": 10**6}), "buffer_exists")
    assert len(client.get("/v1/buffers").json()["buffers"]) == 2
    assert client.delete("/v1/buffers/b", params={"owner": "mine"}).status_code == 204
    assert client.delete("/v1/buffers/shared", params={"owner": ""}).status_code == 204
