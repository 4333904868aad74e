"""Fields of the user's: listing, counting, drawing, deleting and erasing by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import MEDIA_TYPE, Record, decode_batch, encode_batch
from memory_service.store import Store
from memory_service.store.pure.columns import Rows
from memory_service.store.pure.field_index import NO_FIELDS, FieldIndex
from memory_service.store.pure.query import Query
from memory_service.store.pure.selection import Filter
from tests.memory_service import disk
from tests.memory_service.conftest import running
from tests.memory_service.helpers import all_records, assert_problem, make_exemplar, push, put_buffer

URL = "/v1/buffers/b/exemplars"

FIELDS: list[dict[str, Any]] = [
    {"split": "train", "epoch": 1},
    {"split": "train", "epoch": 2, "hard": True},
    {"split": "val", "epoch": 2.5},
    {"split": "val", "epoch": "2", "hard": False},
    {},
]


def exemplars(count: int, **changes: Any) -> list[Record]:
    return [
        make_exemplar(number % 3, number, fields=FIELDS[number % 5], learner_id=f"l{number % 2}", **changes)
        for number in range(count)
    ]


@pytest.fixture
def records(client: httpx.Client) -> list[Record]:
    put_buffer(client)
    push(client, exemplars(20))
    return all_records(client)


def listed(client: httpx.Client, *field: str, **params: Any) -> list[int]:
    found: list[int] = []
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        response = client.get(URL, params={"field": list(field), "limit": 3, **params, **more})
        assert response.status_code == 200, response.text
        found += [row["exemplar_id"] for row in response.json()["exemplars"]]
        cursor = response.json()["next_cursor"]
        if cursor is None:
            return found


def ids(records: list[Record], *kinds: int) -> list[int]:
    """Ids of the records whose fields are these of ``FIELDS``."""
    return [record.exemplar_id for record in records if record.fields() in [FIELDS[kind] for kind in kinds]]


@pytest.mark.parametrize(
    ("field", "kinds"),
    [
        (("split:train",), (0, 1)),
        (("split:train", "split:val"), (0, 1, 2, 3)),
        (("split:train", "epoch:2"), (1,)),
        (("epoch:2",), (1, 3)),
        (("epoch:2.0",), ()),
        (("epoch:2.5",), (2,)),
        (("epoch:2.50",), ()),
        (("hard:false",), (3,)),
        (("split:test",), ()),
        (("nothing:1",), ()),
        (("split:",), ()),
    ],
)
def test_listings_are_filtered_by_fields(
    client: httpx.Client, records: list[Record], field: tuple[str, ...], kinds: tuple[int, ...]
) -> None:
    assert listed(client, *field) == ids(records, *kinds)
    whole = client.get(URL, params={"field": list(field), "limit": 1000}, headers={"Accept": MEDIA_TYPE})
    assert [record.exemplar_id for record in decode_batch(whole.content)] == ids(records, *kinds)


def test_fields_go_with_the_other_filters_and_with_a_snapshot(client: httpx.Client, records: list[Record]) -> None:
    mine = [r.exemplar_id for r in records if r.fields().get("split") == "val" and r.learner_id == "l1"]
    assert listed(client, "split:val", learner_id="l1") == mine
    client.put("/v1/buffers/b/snapshots/then")
    push(client, exemplars(10, seed=7))
    assert client.delete(f"{URL}/{mine[0]}").status_code == 200
    assert listed(client, "split:val", learner_id="l1", snapshot="then") == mine
    assert len(listed(client, "split:val", learner_id="l1")) == len(mine) - 1 + 2
    detail = client.get(f"{URL}/{mine[1]}").json()
    assert detail["fields"]["split"] == "val"


def test_a_cursor_belongs_to_its_fields(client: httpx.Client, records: list[Record]) -> None:
    cursor = client.get(URL, params={"field": "split:val", "limit": 2}).json()["next_cursor"]
    assert_problem(client.get(URL, params={"field": "split:train", "cursor": cursor}), "invalid_cursor")


@pytest.mark.parametrize("field", ["split", ":train", "a b:1", "0:1", "a" * 33 + ":1", "a:" + "x" * 300])
def test_what_is_no_condition_is_refused(client: httpx.Client, records: list[Record], field: str) -> None:
    assert_problem(client.get(URL, params={"field": field}), "invalid_request")


def test_records_are_counted_by_a_field(client: httpx.Client, records: list[Record]) -> None:
    def counts(**params: Any) -> dict[Any, tuple[int, int]]:
        answer = client.get(f"{URL}/counts/epoch", params=params).json()
        assert answer["field"] == "epoch"
        assert answer["version"] == 1
        assert answer["num_values"] == (4 if "field" not in params else 2)
        return {row["value"]: (row["count"], row["bytes"]) for row in answer["values"]}

    charges = {
        value: [r.charge for r in records if r.fields().get("epoch") in values]
        for value, values in {1: (1,), 2: (2, "2"), 2.5: (2.5,), None: (None,)}.items()
    }
    assert counts() == {value: (len(of_it), sum(of_it)) for value, of_it in charges.items()}
    assert counts(field="split:train").keys() == {1, 2}
    assert counts(limit=1) == {2: (8, sum(charges[2]))}
    unknown = client.get(f"{URL}/counts/nothing").json()
    assert (unknown["num_values"], unknown["values"][0]["value"], unknown["values"][0]["count"]) == (1, None, 20)
    assert_problem(client.get(f"{URL}/counts/0"), "invalid_request")


def test_a_draw_is_of_those_fields_and_the_same_after_a_restart(data: Path) -> None:
    wanted = {"batch_size": 12, "seed": 3, "fields": {"split": ["val", "test"], "epoch": [2.5, 2]}}
    drawn = []
    for first in (True, False):
        with running(data) as client:
            if first:
                put_buffer(client)
                push(client, exemplars(20))
            answer = client.post("/v1/buffers/b/sample", json=wanted)
            records = decode_batch(answer.content)
            assert {record.fields()["split"] for record in records} == {"val"}
            drawn.append([record.exemplar_id for record in records])
            as_ids = client.post("/v1/buffers/b/sample", json={**wanted, "want": "ids"}).json()
            assert as_ids["exemplar_ids"] == drawn[-1]
            nobody = client.post("/v1/buffers/b/sample", json={"batch_size": 1, "fields": {"split": ["test"]}})
            assert_problem(nobody, "no_matching_exemplars")
            unfit: list[Any] = [{"0": ["a"]}, {"a": "b"}, {"a": [None]}, {"a": []}, {f"a{n}": [1] for n in range(17)}]
            for bad in unfit:
                refused = client.post("/v1/buffers/b/sample", json={"batch_size": 1, "fields": bad})
                assert_problem(refused, "invalid_request")
    assert drawn[0] == drawn[1]


def test_records_are_deleted_by_a_field(client: httpx.Client, records: list[Record], data: Path) -> None:
    answer = client.delete(URL, params={"field": ["split:train", "hard:true"]})
    assert answer.json()["deleted"] == ids(records, 1)
    assert listed(client) == ids(records, 0, 2, 3, 4)
    assert sorted(disk.read_store(data)["b"].live) == ids(records, 0, 2, 3, 4)


def test_records_are_erased_by_a_field_from_snapshots_too(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        push(client, exemplars(20))
        records = all_records(client)
        client.put("/v1/buffers/b/snapshots/then")
        gone = ids(records, 2, 3)
        assert client.delete(f"{URL}/{gone[0]}").status_code == 200
        answer = client.delete(URL, params={"field": "split:val", "erase": "true"})
        assert answer.json()["deleted"] == gone
        assert listed(client, snapshot="then") == ids(records, 0, 1, 4)
    stored = b"".join(path.read_bytes() for path in (data / "segments").iterdir())
    assert b'"split":"train"' in stored
    assert b'"split":"val"' not in stored


def test_only_records_with_fields_are_read_and_each_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Query(where=Filter(fields=(("split", ("train",)),)))
    read: list[list[int]] = []
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        bodies = buffer.contents.bodies

        def noted(rows: Rows) -> list[memoryview]:
            read.append(rows["exemplar_id"].tolist())
            return bodies(rows)

        monkeypatch.setattr(buffer.contents.fields, "_read", noted)
        buffer.push(encode_batch([*exemplars(10), *(make_exemplar(0, rank) for rank in range(30))]))
        assert [len(buffer.query(train)[0]) for _ in range(2)] == [4, 4]
        assert read == [[1, 2, 3, 4, 6, 7, 8, 9]]
        buffer.push(encode_batch(exemplars(2)))
        assert len(buffer.query(train)[0]) == 6
        assert read[1:] == [[41, 42]]


def test_what_is_known_of_records_that_are_gone_is_forgotten() -> None:
    index: FieldIndex = NO_FIELDS.joined(np.arange(4, dtype=np.uint64), [{"a": 1}, {"b": "x"}, {"a": 2, "b": "y"}, {}])
    kept = index.kept(np.array([2, 3, 9], dtype=np.uint64))
    assert kept.ids.tolist() == [2, 3]
    assert kept.matching(np.arange(4, dtype=np.uint64), "b", ["x", "y"]).tolist() == [False, False, True, False]
    assert kept.lacking(np.array([1, 2], dtype=np.uint64)).tolist() == [True, False]
