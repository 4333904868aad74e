"""Other arrays for stored exemplars: what is answered, what is on disk, and who still sees what was there before."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest

from memory_format import MEDIA_TYPE, NotFoundError, Record, decode_batch, encode_batch
from memory_format.record import as_pushed
from memory_format.revise import NewArray
from memory_service.store import Store
from memory_service.store.admin.repair import repair
from memory_service.store.admin.verify import verify
from memory_service.store.erasures import Erasures
from memory_service.store.keys import KeyFile
from memory_service.store.segments import appending
from memory_service.testing import expect_loaded_state
from tests.memory_service.conftest import crashing, running
from tests.memory_service.helpers import (
    all_records,
    assert_consistent,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    sample,
    stats_of,
    whole_state,
)

URL = "/v1/buffers/b/exemplars"
ZIP = {"Content-Type": "application/zip"}
LOGITS = np.arange(6, dtype=np.float32)


def logits(value: float) -> dict[str, Any]:
    return {"arrays": {"logits": LOGITS + value}, "array_dtypes": {"logits": "float32"}}


def exemplars(count: int = 6, **fields: Any) -> list[Record]:
    return [make_exemplar(n % 2, n, learner_id=f"l{n % 2}", **{**logits(n), **fields}) for n in range(count)]


def arrays(values: Any, dtype: str | None = None) -> dict[str, Any]:
    """Of so many exemplars, as a request says it."""
    given = np.asarray(values, "<f4")
    said = {"shape": list(given.shape[1:]), "data": base64.b64encode(given.tobytes()).decode()}
    return {"logits": said if dtype is None else {**said, "dtype": dtype}}


def replaced(client: httpx.Client, ids: list[int], values: Any, **more: Any) -> Any:
    body = {"exemplar_ids": ids, "arrays": arrays(values), **more}
    response = client.patch(URL, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def held(records: Sequence[Record]) -> dict[int, tuple[int, list[float]]]:
    """Exemplar id -> revision and logits."""
    return {r.exemplar_id: (r.revision, r.arrays()["logits"].astype(float).tolist()) for r in records}


def at(value: float) -> list[float]:
    return [float(number) for number in LOGITS + value]


def shown(client: httpx.Client, snapshot: str | None = None) -> dict[int, tuple[int, list[float]]]:
    params: dict[str, Any] = {"limit": 1000, **({"snapshot": snapshot} if snapshot else {})}
    response = client.get(URL, params=params, headers={"Accept": MEDIA_TYPE})
    return held(decode_batch(response.content))


def assert_sound(data: Path, now: dict[int, tuple[int, list[float]]]) -> None:
    """Nothing is wrong with what is on disk, and a service that is started over it shows this."""
    assert verify(data).sound
    with running(data) as client:
        assert shown(client) == now
        assert_consistent(client, data)


def test_an_array_is_replaced_and_nothing_else(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, exemplars(user_json={"n": 1}, fields={"split": "train"}))
        before = {r.exemplar_id: r for r in all_records(client)}
        answer = replaced(client, [5, 2, 99], [LOGITS + 50, LOGITS + 20, LOGITS])
        assert answer == {"updated": 2, "missing": [99], "version": 2, "revisions": {"2": 1, "5": 1}, "evicted": []}
        after = {r.exemplar_id: r for r in all_records(client)}
        assert list(after) == [1, 2, 3, 4, 5, 6]
        assert held(list(after.values())) == {
            **{n: (0, at(n - 1)) for n in (1, 3, 4, 6)},
            2: (1, at(20)),
            5: (1, at(50)),
        }
        for id_, old in before.items():
            new = after[id_]
            assert (new.payload, new.token_ids_bytes, new.score, new.rank) == (
                old.payload,
                old.token_ids_bytes,
                old.score,
                old.rank,
            )
            assert (new.user_json(), new.fields(), new.learner_id) == ({"n": 1}, {"split": "train"}, old.learner_id)
            assert new.arrays()["logits"].dtype == np.float32
        # What was not replaced is the same to the byte; what was, says so in a few bytes, which count.
        assert after[1] == before[1]
        assert after[2].charge - before[2].charge == len(b',"revision":[2,1]')
        assert [row["revision"] for row in client.get(URL).json()["exemplars"]] == [0, 1, 0, 0, 1, 0]
        assert held(sample(client, batch_size=6, replace=False)) == held(list(after.values()))
        assert_consistent(client, data)
    with running(data) as client:
        assert shown(client) == held(list(after.values()))
        assert replaced(client, [2], [LOGITS + 21])["revisions"] == {"2": 2}
        assert push(client, [make_exemplar()])["exemplar_ids"] == [10]
        for unused in (7, 8, 9):
            assert_problem(client.get(f"{URL}/{unused}"), "unknown_exemplar")
        assert_consistent(client, data)
    assert verify(data).sound


def test_one_is_changed_if_it_matches(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, exemplars())
    found = client.get(f"{URL}/3")
    assert (found.headers["ETag"], found.json()["revision"]) == ('"0"', 0)
    done = client.patch(f"{URL}/3", json={"arrays": arrays([LOGITS + 9])}, headers={"If-Match": found.headers["ETag"]})
    assert (done.status_code, done.headers["ETag"], done.json()["revisions"]) == (200, '"1"', {"3": 1})
    before = whole_state(data)
    late = client.patch(f"{URL}/3", json={"arrays": arrays([LOGITS])}, headers={"If-Match": '"0"'})
    assert_problem(late, "precondition_failed", status=412, exemplar_id=3, revision=1, expected_revision=0)
    assert "revision 1, 0 was asked for" in late.json()["detail"]
    # Who asks again, as the answer was lost, finds it done.
    again = client.patch(f"{URL}/3", json={"arrays": arrays([LOGITS + 9])}, headers={"If-Match": '"0"'})
    assert (again.json()["version"], again.headers["ETag"]) == (2, '"1"')
    assert whole_state(data) == before
    scored = client.patch(f"{URL}/3", json={"score": 0.5, "rank": 7}, headers={"If-Match": "*"})
    assert (scored.headers["ETag"], client.get(f"{URL}/3").json()["score"]) == ('"1"', 0.5)
    assert_problem(client.patch(f"{URL}/3", json={"score": 1.0}, headers={"If-Match": '"0"'}), "precondition_failed")
    assert_problem(client.patch(f"{URL}/99", json={"score": 1.0}), "unknown_exemplar")
    for bad in ("0", 'W/"0"', '"0", "1"', '"x"', ""):
        answer = client.patch(f"{URL}/3", json={"score": 1.0}, headers={"If-Match": bad})
        assert_problem(answer, "invalid_request")
    assert_problem(client.patch(f"{URL}/3", json={}), "invalid_request")


def test_many_at_once_are_all_replaced_or_none(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, exemplars())
    replaced(client, [4], [LOGITS + 40])
    before = whole_state(data)
    body = {"exemplar_ids": [1, 4, 2], "arrays": arrays([LOGITS + 7] * 3), "if_revisions": [0, 0, 0]}
    answer = client.patch(URL, json=body)
    assert_problem(answer, "precondition_failed", exemplar_id=4, index=1, revision=1, expected_revision=0)
    # A condition on what is gone does not hold.
    gone = {"exemplar_ids": [1, 99], "arrays": arrays([LOGITS + 7] * 2), "if_revisions": [0, 0]}
    assert_problem(client.patch(URL, json=gone), "unknown_exemplar")
    overflow = {"exemplar_ids": [1, 2], "arrays": arrays([[1.0], [1e6]], "float16")}
    assert_problem(client.patch(URL, json=overflow), "invalid_record", index=1)
    assert whole_state(data) == before
    done = replaced(client, [1, 4, 2], [LOGITS + 7] * 3, if_revisions=[0, 1, 0], scores=[3.0, 2.0, 1.0])
    assert done["revisions"] == {"1": 1, "2": 1, "4": 2}
    rows = client.get(URL, params={"sort": "-score", "limit": 3}).json()["exemplars"]
    assert [(row["exemplar_id"], row["score"], row["revision"]) for row in rows] == [(1, 3, 1), (4, 2, 2), (2, 1, 1)]
    # The arrays of one stay, and its score does not.
    mixed = replaced(client, [1, 2], [LOGITS + 7, LOGITS + 8], scores=[-1.0, -2.0])
    assert mixed["revisions"] == {"1": 1, "2": 2}
    assert [client.get(f"{URL}/{n}").json()["score"] for n in (1, 2)] == [-1.0, -2.0]
    assert_consistent(client, data)


def test_of_those_who_read_the_same_one_comes_through(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, exemplars())
    statuses: list[int] = []

    def replace_it(value: int) -> None:
        body = {"exemplar_ids": [1], "arrays": arrays([LOGITS + value]), "if_revisions": [0]}
        statuses.append(client.patch(URL, json=body).status_code)

    threads = [threading.Thread(target=replace_it, args=(value,)) for value in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [412] * 5
    assert client.get(f"{URL}/1").headers["ETag"] == '"1"'
    assert_consistent(client, data)


def test_snapshots_forks_and_exports(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, exemplars())
        client.put("/v1/buffers/b/snapshots/first")
        drawn = client.post("/v1/buffers/b/sample", json={"batch_size": 5, "snapshot": "first"}).content
        client.patch(URL, json={"exemplar_ids": [2], "scores": [9.0]})
        replaced(client, [2, 3], [LOGITS + 20, LOGITS + 30])
        client.put("/v1/buffers/b/snapshots/second")
        replaced(client, [2], [LOGITS + 21])
        of_push = {n: (0, at(n - 1)) for n in range(1, 7)}
        now = {**of_push, 2: (2, at(21)), 3: (1, at(30))}
        assert shown(client, "first") == of_push
        assert shown(client, "second") == {**now, 2: (1, at(20))}
        assert shown(client) == now
        assert client.get(f"{URL}/2", params={"snapshot": "first"}).headers["ETag"] == '"0"'
        again = client.post("/v1/buffers/b/sample", json={"batch_size": 5, "snapshot": "first"}).content
        assert again == drawn
        diff = client.get("/v1/buffers/b/diff", params={"from": "first", "to": "second"}).json()
        assert (diff["revised"]["exemplar_ids"], diff["added"]["count"], diff["evicted"]["count"]) == ([2, 3], 0, 0)
        assert_consistent(client, data)

        assert client.post("/v1/buffers/b/forks", json={"name": "f"}).status_code == 201
        exported = client.get("/v1/buffers/b/export").content
        made = client.post("/v1/buffers/i/import", content=exported, headers=ZIP)
        assert made.status_code == 201, made.text
        for name in ("f", "i"):
            url = f"/v1/buffers/{name}"
            found = client.get(f"{url}/exemplars", params={"limit": 99}, headers={"Accept": MEDIA_TYPE}).content
            assert held(decode_batch(found)) == now
            same = [client.post(f"/v1/buffers/{of}/sample", json={"batch_size": 9}).content for of in ("b", name)]
            assert same[0] == same[1]
            body = {"exemplar_ids": [2], "arrays": arrays([LOGITS + 5]), "if_revisions": [2]}
            assert client.patch(f"{url}/exemplars", json=body).json()["revisions"] == {"2": 3}
            assert_consistent(client, data, buffer=name)
        assert shown(client) == now
        client.delete("/v1/buffers/b/snapshots/first")
        client.delete("/v1/buffers/b/snapshots/second")
        assert stats_of(client)["pinned_bytes"] == 0
        assert_consistent(client, data)
    with running(data) as client:
        assert shown(client) == now
    assert verify(data).sound


def test_a_revised_record_is_pushed_as_it_would_be_anew(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, exemplars(1))
    replaced(client, [1], [LOGITS + 4])
    (record,) = all_records(client)
    answer = client.post(URL, content=encode_batch([record]), headers={"Content-Type": MEDIA_TYPE})
    assert_problem(answer, "invalid_record", index=0)
    assert push(client, [as_pushed(record)])["exemplar_ids"] == [3]
    assert shown(client) == {1: (1, at(4)), 3: (0, at(4))}


@pytest.mark.parametrize("eviction", ["fifo", "reservoir", "lowest_score", "class_balanced"])
def test_larger_arrays_evict_and_an_exemplar_keeps_its_age(data: Path, eviction: str) -> None:
    with running(data) as client:
        records = exemplars(8, score=0.5)
        charge = sum(record.charge for record in records)
        put_buffer(client, charge, eviction=eviction, disk_limit_bytes=10**6)
        push(client, records)
        # The oldest is not the youngest for it.
        small = replaced(client, [1], [np.zeros(0, np.float32)])
        assert small["evicted"] == []
        large = replaced(client, [4], [np.zeros(60, np.float32)])
        assert large["evicted"]
        if eviction == "fifo":
            assert large["evicted"] == sorted(range(1, 1 + len(large["evicted"])))
        assert stats_of(client)["bytes_used"] <= charge
        assert not set(large["evicted"]) & set(shown(client))
        assert_consistent(client, data)


def test_what_does_not_fit_is_refused_whole(client: httpx.Client, data: Path) -> None:
    records = exemplars(4)
    charge = sum(record.charge for record in records)
    put_buffer(client, charge, eviction="reject", disk_limit_bytes=10**6)
    push(client, records)
    before = whole_state(data)
    for body, code in (
        ({"exemplar_ids": [1], "arrays": arrays([LOGITS + 9])}, "budget_exceeded"),
        ({"exemplar_ids": [1], "arrays": arrays([np.zeros(charge)])}, "record_exceeds_budget"),
        ({"exemplar_ids": [1], "arrays": arrays([np.zeros(300_000)])}, "invalid_record"),
    ):
        assert_problem(client.patch(URL, json=body), code)
    assert whole_state(data) == before
    # What frees bytes frees them in the same step.
    assert replaced(client, [1], [np.zeros(1)])["revisions"] == {"1": 1}
    assert stats_of(client)["bytes_used"] < charge
    assert_consistent(client, data)


BAD: list[dict[str, Any]] = [
    {"exemplar_ids": [1], "arrays": {}},
    {"exemplar_ids": [1], "arrays": {"logits": {}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "AAAAAA=="}}, "if_revisions": []},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "AAAAAA=="}}, "if_revisions": [-1]},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [2], "data": "AAAAAA=="}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "AAA"}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "not base64!"}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "é"}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [-1], "data": ""}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [0] * 17, "data": ""}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [2**31 - 1] * 16, "data": "AAAAAA=="}}},
    {"exemplar_ids": [1], "arrays": {"logits": {"shape": [1], "data": "AAAAAA==", "dtype": "int8"}}},
    {"exemplar_ids": [1], "arrays": {"": {"shape": [1], "data": "AAAAAA=="}}},
    {"exemplar_ids": [1], "arrays": {"x" * 65: {"shape": [1], "data": "AAAAAA=="}}},
    {"exemplar_ids": [1], "arrays": [1.0]},
    {"exemplar_ids": [1, 1], "arrays": {"logits": {"shape": [0], "data": ""}}},
    {"exemplar_ids": [1], "if_revisions": [0]},
]


def test_requests_that_will_not_do(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, exemplars(2))
    before = whole_state(data)
    for body in BAD:
        assert_problem(client.patch(URL, json=body), "invalid_request")
    assert whole_state(data) == before
    body = {"exemplar_ids": list(range(1, 4098)), "arrays": {"logits": {"shape": [0], "data": ""}}}
    assert_problem(client.patch(URL, json=body), "batch_too_large")


def test_a_new_array_is_added_and_shapes_may_change(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, [make_exemplar(), make_exemplar(rank=1, fields={"split": "test"})])
    body = {"exemplar_ids": [1, 2], "arrays": {"features": arrays(np.ones((2, 2, 3)))["logits"]}}
    assert client.patch(URL, json=body).json()["revisions"] == {"1": 1, "2": 1}
    first, second = all_records(client)
    for record in (first, second):
        features = record.arrays()["features"]
        assert (str(features.dtype), features.shape) == ("float16", (2, 3))
    assert (first.fields(), second.fields()) == ({}, {"split": "test"})
    assert client.get(f"{URL}/counts/split").json()["values"][0]["count"] == 1
    listed = client.get(URL, params={"field": "split:test"}).json()["exemplars"]
    assert [row["exemplar_id"] for row in listed] == [2]
    scalars = {"features": {**arrays(np.zeros(2))["logits"], "dtype": "float32"}}
    client.patch(URL, json={"exemplar_ids": [1, 2], "arrays": scalars})
    assert all_records(client)[0].arrays()["features"].shape == ()
    levels = {"features": {**arrays(np.array([7.0, 255.0]))["logits"], "dtype": "uint8"}}
    client.patch(URL, json={"exemplar_ids": [1, 2], "arrays": levels})
    # As the array that it replaces, where nothing else is said.
    client.patch(URL, json={"exemplar_ids": [1], "arrays": {"features": arrays(np.array([9.0]))["logits"]}})
    found = [record.arrays()["features"] for record in all_records(client)]
    assert [(str(values.dtype), int(values)) for values in found] == [("uint8", 9), ("uint8", 255)]
    half = {"exemplar_ids": [1], "arrays": {"features": arrays(np.array([0.5]))["logits"]}}
    assert_problem(client.patch(URL, json=half), "invalid_record")
    assert_consistent(client, data)


def test_the_page_of_an_exemplar_says_who_shows_which_arrays(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, exemplars(3))
    for number in range(3):
        client.put(f"/v1/buffers/b/snapshots/s{number}")
        replaced(client, [1, 2], np.stack([LOGITS + number + 9] * 2))
    client.delete(f"{URL}/2")

    def shown(exemplar_id: int, snapshot: str = "") -> tuple[Any, ...]:
        address, query = f"/buffers/b/exemplars/{exemplar_id}", {"snapshot": snapshot} if snapshot else {}
        page = client.get(f"{address}.json", params=query).raise_for_status().json()
        text = client.get(address, params=query, headers={"Accept": "text/html"}).text
        assert ("arrays as they were pushed" in text) == (page["revision"] > 0)
        names = [mark["name"] for mark in page["snapshots"]]
        for name, revision in zip(names, page["revisions"], strict=True):
            detail = client.get(f"{URL}/{exemplar_id}", params={"snapshot": name}).json()
            assert detail["revision"] == revision
        return page["detail"]["revision"], page["revision"], names

    assert shown(1) == (3, 3, ["s2", "s1", "s0"])
    assert shown(1, "s1") == (1, 3, ["s2", "s1", "s0"])
    # What was deleted with its last arrays is shown with those of the snapshots.
    assert shown(2, "s0") == (0, 2, ["s2", "s1", "s0"])
    assert shown(3) == (0, 0, ["s2", "s1", "s0"])
    client.delete("/v1/buffers/b/snapshots/s1")
    assert shown(1) == (3, 3, ["s2", "s0"])


def test_pages_of_a_list_go_on_past_a_replacement(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, exemplars())
    first = client.get(URL, params={"limit": 3}).json()
    replaced(client, [2, 5], [LOGITS, LOGITS])
    rest = client.get(URL, params={"limit": 9, "cursor": first["next_cursor"]}).json()
    assert [row["exemplar_id"] for page in (first, rest) for row in page["exemplars"]] == [1, 2, 3, 4, 5, 6]


def test_deletion_by_id_and_by_what_matches(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    push(client, exemplars())
    replaced(client, [1, 2, 3], [LOGITS + 9] * 3)
    assert client.delete(f"{URL}/2").json()["deleted"] == [2]
    assert_problem(client.delete(f"{URL}/7"), "unknown_exemplar")
    assert client.delete(URL, params={"exemplar_id": [1, 7, 9, 4]}).json()["deleted"] == [1, 4]
    assert client.delete(URL, params={"class_id": 0}).json()["deleted"] == [3, 5]
    assert list(shown(client)) == [6]
    assert_consistent(client, data)


def test_a_learners_key_replaces_its_own(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, exemplars())
        keys = KeyFile(data)
        secret = keys.make("write", time.time(), learner_id="l1")[1]
        client.headers["Authorization"] = f"Bearer {secret}"
        assert replaced(client, [2, 4], [LOGITS, LOGITS])["updated"] == 2
        body = {"exemplar_ids": [2, 1], "arrays": arrays([LOGITS + 1] * 2)}
        assert_problem(client.patch(URL, json=body), "forbidden")
        assert_problem(client.patch(f"{URL}/1", json={"arrays": arrays([LOGITS])}), "forbidden")
        client.headers["Authorization"] = f"Bearer {keys.make('read', time.time())[1]}"
        assert_problem(client.patch(f"{URL}/2", json={"arrays": arrays([LOGITS])}), "forbidden")


def test_a_learners_quota_counts_the_new_arrays(data: Path) -> None:
    records = exemplars(2)
    with running(data, learner_bytes=sum(record.charge for record in records)) as client:
        put_buffer(client, 100_000)
        push(client, records)
        body = {"exemplar_ids": [1], "arrays": arrays([np.zeros(2000)])}
        assert_problem(client.patch(URL, json=body), "learner_quota_exceeded")
        assert replaced(client, [1], [LOGITS + 3])["updated"] == 1
        assert_consistent(client, data)


def traces(data: Path, records: Sequence[Record]) -> set[str]:
    return {
        str(path.relative_to(data))
        for path in data.rglob("*")
        if path.is_file()
        for record in records
        if record.body in path.read_bytes() or record.arrays()["logits"].tobytes() in path.read_bytes()
    }


@pytest.mark.parametrize("sealed", [False, True])
def test_erasing_reaches_all_that_an_exemplar_was(data: Path, sealed: bool) -> None:
    rng = np.random.default_rng(7)
    given = rng.normal(size=(5, 40)).astype(np.float32)
    with (
        mock.patch.multiple(appending, SMALLEST_SEALED=1 if sealed else 2**62),
        running(data, segment_bytes=1500) as client,
    ):
        put_buffer(client, 60_000, disk_limit_bytes=3_000_000)
        push(client, exemplars(6, arrays={"logits": given[0]}, array_dtypes={"logits": "float32"}))
        was = [record for record in all_records(client) if record.exemplar_id == 2]
        client.put("/v1/buffers/b/snapshots/first")
        client.post("/v1/buffers/b/forks", json={"name": "f"})
        client.post("/v1/buffers/b/forks", json={"name": "g"})
        for row in (1, 2):
            replaced(client, [2], given[row : row + 1])
            was += [record for record in all_records(client) if record.exemplar_id == 2]
        in_fork = {"exemplar_ids": [2], "arrays": arrays(given[3:4])}
        assert client.patch("/v1/buffers/f/exemplars", json=in_fork).status_code == 200
        was += [record for record in all_records(client, buffer="f") if record.exemplar_id == 2]
        # Another exemplar of the fork, under an id that a revision has here.
        push(client, [make_exemplar(0, 77)], buffer="g")
        assert traces(data, was)
        others = shown(client).keys() - {2}
        answer = client.delete(f"{URL}/2", params={"erase": "true"}).json()
        assert answer["deleted"] == answer["receipt"]["exemplar_ids"] == [2]
        assert [one["buffer"] for one in answer["receipt"]["buffers"]] == ["b", "f", "g"]
        changed = [record for record in was if record.revision]
        assert not traces(data, changed)
        assert not any(was[0].body in path.read_bytes() for path in data.rglob("*") if path.is_file())
        assert shown(client).keys() == shown(client, "first").keys() == others
        assert [r.exemplar_id for r in all_records(client, buffer="g")] == [1, 3, 4, 5, 6, 7]
        for name in ("b", "f", "g"):
            assert_consistent(client, data, buffer=name)
    assert verify(data).sound


def test_what_is_being_erased_gets_no_other_arrays(data: Path) -> None:
    finish = Erasures._finish

    def late(self: Erasures, *more: Any) -> Any:
        """As a learner does that replaces between the choice of what is erased and its end."""
        given = {"logits": NewArray(np.full((2, 9), 7, np.float32), "float32")}
        answers = [store.buffer(name).update([2, 3], arrays=given) for name in ("b", "f")]
        assert [(answer.updated, answer.missing, answer.revisions) for answer in answers] == [(1, (2,), {3: 1})] * 2
        return finish(self, *more)

    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=50_000)
        buffer.push(encode_batch(exemplars()))
        store.fork("b", "f")
        with mock.patch.object(Erasures, "_finish", late):
            assert store.erasures.erase(buffer, [2]).deleted == (2,)
        for name in ("b", "f"):
            with pytest.raises(NotFoundError):
                store.buffer(name).get(2)
            assert store.buffer(name).update([3], scores=[0.5]).updated == 1
        # What is refused holds nobody back.
        with pytest.raises(NotFoundError):
            store.erasures.erase(buffer, [4, 99])
        assert buffer.update([4], arrays={"logits": NewArray(np.ones((1, 2), np.float32))}).revisions == {4: 1}
    assert verify(data).sound


def test_a_repair_without_an_index_keeps_the_newest(data: Path) -> None:
    with mock.patch.multiple(appending, SMALLEST_SEALED=1), running(data, segment_bytes=600) as client:
        put_buffer(client, 50_000)
        push(client, exemplars())
        for value in (20, 30, 40):
            replaced(client, [2, 5], [LOGITS + value] * 2)
        now = shown(client)
    assert not list((data / "segments").glob("*.open"))
    for path in data.glob("index.sqlite*"):
        path.unlink()
    assert repair(data).recovered["b"] >= 6
    assert_sound(data, now)
    with running(data) as client:
        assert replaced(client, [2], [LOGITS + 50])["revisions"] == {"2": 4}
        assert_consistent(client, data)


def test_a_repair_knows_records_that_a_segment_has_in_another_order(data: Path) -> None:
    with mock.patch.multiple(appending, SMALLEST_SEALED=1), running(data) as client:
        put_buffer(client, 50_000)
        push(client, exemplars())
        replaced(client, [1, 2, 3, 4], [LOGITS + value for value in (10, 20, 30, 40)])
        client.put("/v1/buffers/b/snapshots/first")
        replaced(client, [1], [LOGITS + 11])
        # What is live is moved first, and what a snapshot holds behind it.
        assert client.delete(f"{URL}/6", params={"erase": "true"}).status_code == 200
        now = shown(client)
    for path in data.glob("index.sqlite*"):
        path.unlink()
    repair(data)
    assert_sound(data, now)


def test_what_an_index_says_is_held_against_the_records(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, exemplars())
        replaced(client, [2], [LOGITS + 20])
        now = shown(client)
    with Store(data) as store:
        expect_loaded_state(store.buffer("b"))
        with store._index.writing() as transaction:
            transaction.connection.exec_driver_sql("UPDATE revisions SET exemplar_id = 3")
    assert {problem.kind for problem in verify(data).problems} == {"wrong_revision", "wrong_rows"}
    repair(data)
    assert_sound(data, now)


def test_a_crash_leaves_all_of_it_or_nothing(data: Path) -> None:
    with crashing(data) as client:
        put_buffer(client)
        push(client, exemplars())
        replaced(client, [2], [LOGITS + 20])
    with running(data) as client:
        assert shown(client)[2] == (1, at(20))
        assert_consistent(client, data)


def test_ids_alone_name_what_was_replaced(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, exemplars())
    asked = {"batch_size": 6, "replace": False, "want": "ids"}
    before = client.post("/v1/buffers/b/sample", json=asked).json()
    replaced(client, [2], [LOGITS + 20])
    after = client.post("/v1/buffers/b/sample", json=asked).json()
    prints = [dict(zip(drawn["exemplar_ids"], drawn["fingerprints"], strict=True)) for drawn in (before, after)]
    assert {id_ for id_ in prints[0] if prints[0][id_] != prints[1][id_]} == {2}
    answer = client.post("/v1/buffers/b/records", json={"exemplar_ids": [2, 7, 1]}, headers={"Accept": MEDIA_TYPE})
    assert held(decode_batch(answer.content)) == {2: (1, at(20)), 1: (0, at(0))}


def test_an_import_that_contradicts_itself_is_refused(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, exemplars())
    replaced(client, [2], [LOGITS + 20])
    exported = client.get("/v1/buffers/b/export").content
    other = exported.replace(b'"revision":[2,1]', b'"revision":[3,1]')
    assert other != exported
    answer = client.post("/v1/buffers/i/import", content=other, headers=ZIP)
    assert answer.status_code == 422
