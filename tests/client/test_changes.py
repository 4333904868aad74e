"""Settings, scores and deletions after the fact."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from client import (
    Buffer,
    BufferInfo,
    ExemplarCache,
    MemoryClient,
    ServiceTimeoutError,
    ServiceUnavailableError,
    _changes,
)
from memory_format import BudgetError, ConflictError, FormatError, NotFoundError
from tests.client.samples import make, make_many
from tests.client.script import LOST, Script, client_of, problem


@pytest.mark.parametrize("eviction", ["class_balanced", "lowest_score", "fifo", "reservoir", "reject"])
def test_every_eviction_can_be_asked_for(memory: MemoryClient, eviction: Any) -> None:
    settings: dict[str, Any] = {"budget_bytes": 3000, "disk_limit_bytes": 500_000, "eviction": eviction}
    buffer = memory.create_buffer(f"evicts-{eviction}", **settings, retain_snapshots=2, description="d")
    assert memory.create_buffer(f"evicts-{eviction}", **settings, retain_snapshots=2, description="d") == buffer
    info = buffer.info()
    assert (info.eviction, info.disk_limit_bytes, info.retain_snapshots) == (eviction, 500_000, 2)
    assert (info.budget_bytes, info.full_samples_per_class, info.description) == (3000, None, "d")
    if eviction == "reject":
        with pytest.raises(BudgetError):
            buffer.push(make_many(40))
    else:
        assert 0 < buffer.push(make_many(40)).kept < 40


def test_a_budget_of_full_samples_grows_with_the_classes(memory: MemoryClient) -> None:
    buffer = memory.create_buffer("grows", full_samples_per_class=2, full_sample_bytes=10_000)
    info = buffer.info()
    assert (info.budget_bytes, info.full_samples_per_class, info.full_sample_bytes) == (20_000, 2, 10_000)
    assert info.num_classes is None
    assert buffer.push(make_many(8)).budget_bytes == 80_000
    stats = buffer.stats()
    assert (stats.budget_bytes, stats.num_classes, stats.num_classes_seen) == (80_000, 4, 4)
    fixed = memory.create_buffer("fixed", full_samples_per_class=2, full_sample_bytes=10_000, num_classes=7)
    assert (fixed.info().budget_bytes, fixed.info().num_classes) == (140_000, 7)
    lacking: list[dict[str, Any]] = [{}, {"full_samples_per_class": 2}, {"budget_bytes": 5, "num_classes": 2}]
    for settings in lacking:
        with pytest.raises(FormatError) as caught:
            memory.create_buffer("neither", **settings)
        assert caught.value.code == "invalid_budget"


def test_settings_change_one_by_one(buffer: Buffer) -> None:
    buffer.push(make_many(10))
    before = buffer.info()
    assert buffer.configure().evicted == ()
    assert buffer.info() == before
    changed = buffer.configure(description="other", eviction="fifo", retain_snapshots=3, disk_limit_bytes=3_000_000)
    assert (changed.description, changed.eviction, changed.retain_snapshots) == ("other", "fifo", 3)
    assert (changed.disk_limit_bytes, changed.budget_bytes, changed.evicted) == (3_000_000, before.budget_bytes, ())
    default = buffer.configure(disk_limit_bytes=None, retain_snapshots=None)
    assert (default.disk_limit_bytes, default.retain_snapshots) == (before.disk_limit_bytes, None)
    assert default.description == "other"
    assert default == type(default)(**vars(buffer.info()), evicted=())


def test_a_smaller_budget_evicts(buffer: Buffer) -> None:
    ids = buffer.push(make_many(10)).exemplar_ids
    buffer.configure(eviction="fifo")
    held = buffer.info().bytes_used
    changed = buffer.configure(budget_bytes=held // 2)
    assert isinstance(changed, BufferInfo)
    assert 0 < len(changed.evicted) < 10
    assert changed.evicted == ids[: len(changed.evicted)]
    assert changed.num_records == 10 - len(changed.evicted)
    grown = buffer.configure(full_samples_per_class=5, full_sample_bytes=50_000)
    assert (grown.budget_bytes, grown.full_samples_per_class, grown.evicted) == (4 * 250_000, 5, ())
    buffer.configure(eviction="reject")
    with pytest.raises(BudgetError) as caught:
        buffer.configure(budget_bytes=10)
    assert caught.value.code == "budget_exceeded"
    with pytest.raises(FormatError):
        buffer.configure(budget_bytes=0)
    with pytest.raises(TypeError):
        buffer.configure(budget=10)  # type: ignore[call-arg]


def test_only_what_is_given_is_sent() -> None:
    script = Script(problem(422, "invalid_request"))
    with client_of(script) as memory:
        for changes in ({}, {"retain_snapshots": None}, {"budget_bytes": 7, "description": ""}):
            with pytest.raises(FormatError):
                Buffer(memory, "b").configure(**changes)
            assert script.asked[-1].method == "PATCH"
            assert json.loads(script.asked[-1].content) == changes


def test_scores_and_ranks_change(buffer: Buffer) -> None:
    ids = np.array(buffer.push(make_many(6)).exemplar_ids)
    version = buffer.info().version
    result = buffer.update_scores(ids[:3], scores=np.array([0.5, 0.25, -1], dtype=np.float32), ranks=[7, 8, 9])
    assert (result.updated, result.missing, result.version) == (3, (), version + 1)
    found = {item.exemplar_id: (item.score, item.rank) for item in buffer.query()}
    assert [found[id_] for id_ in ids[:3].tolist()] == [(0.5, 7), (0.25, 8), (-1.0, 9)]
    score, rank = found[int(ids[4])]
    assert score == pytest.approx(0.04)
    assert rank == 4
    assert buffer.get(int(ids[0])).score == 0.5

    gone = int(ids[-1]) + 100
    result = buffer.update_scores([gone, int(ids[0])], ranks=np.array([1, 1], dtype=np.uint32))
    assert (result.updated, result.missing) == (1, (gone,))
    assert buffer.get(int(ids[0])).rank == 1

    now = buffer.info().version
    assert buffer.update_scores(ids[:1], [0.75], if_version=now).version == now + 1
    with pytest.raises(ConflictError) as caught:
        buffer.update_scores(ids[:1], [0.5], if_version=now)
    assert caught.value.code == "stale_version"
    assert caught.value.details["version"] == now + 1
    assert buffer.update_scores([], []).version == now + 1


@pytest.mark.parametrize(
    ("ids", "values"),
    [
        ([1, 2], {}),
        ([1, 2], {"scores": [1.0]}),
        ([1, 2], {"scores": [1.0, 2.0], "ranks": [1]}),
        ([1, 1], {"scores": [1.0, 2.0]}),
        ([1, None], {"scores": [1.0, 2.0]}),
        ([1.0, 2.0], {"scores": [1.0, 2.0]}),
        ([[1], [2]], {"scores": [1.0, 2.0]}),
        (1, {"scores": 1.0}),
        ([1, 2], {"scores": [1.0, float("nan")]}),
        ([1, 2], {"ranks": [1.0, 2.0]}),
        (np.arange(1, 100_002), {"ranks": np.arange(100_001), "if_version": 1}),
    ],
)
def test_scores_that_are_none_are_refused_before_anything_is_sent(ids: Any, values: Any) -> None:
    script = Script(httpx.Response(200))
    with client_of(script) as memory, pytest.raises(ValueError, match=r"needed|twice|finite|if_version"):
        Buffer(memory, "b").update_scores(ids, **values)
    assert script.asked == []


def test_many_scores_go_in_several_requests(buffer: Buffer) -> None:
    ids = np.array(buffer.push(make_many(3)).exemplar_ids)
    others = np.arange(2**62, 2**62 + 40_000)
    many = np.concatenate([ids[:1], others, ids[1:]])
    result = buffer.update_scores(
        many, scores=np.linspace(-1 / 3, 1e-30, len(many)), ranks=np.arange(len(many)) + 2**31
    )
    assert result.updated == 3
    assert result.missing == tuple(others.tolist())
    assert [item.rank - 2**31 for item in buffer.query()] == [0, 40_001, 40_002]
    with pytest.raises(FormatError) as caught:
        buffer.update_scores(np.arange(1, 20_001), ranks=np.arange(20_000) * 2**20)
    assert caught.value.details["ids_acknowledged"] == 0
    updated = {"updated": 16_000, "missing": [], "version": 4}
    script = Script(httpx.Response(200, json=updated), httpx.ReadTimeout("late"))
    with client_of(script) as memory, pytest.raises(ServiceTimeoutError) as late:
        Buffer(memory, "b").update_scores(np.arange(1, 20_001), ranks=np.arange(20_000))
    assert late.value.details["ids_acknowledged"] == 16_000
    assert all(len(request.content) < 2**20 for request in script.asked)


def test_what_is_guarded_by_a_version_is_sent_once() -> None:
    updated = httpx.Response(200, json={"updated": 1, "missing": [], "version": 4})
    script = Script(LOST[1], updated)
    with client_of(script) as memory:
        assert Buffer(memory, "b").update_scores([1], [0.5]).version == 4
    script = Script(LOST[1], updated)
    with client_of(script) as memory, pytest.raises(ServiceUnavailableError):
        Buffer(memory, "b").update_scores([1], [0.5], if_version=3)
    assert len(script.asked) == 1


def test_exemplars_are_deleted_by_id(buffer: Buffer) -> None:
    ids = [id_ for id_ in buffer.push(make_many(6)).exemplar_ids if id_ is not None]
    result = buffer.delete(ids[0])
    assert (result.deleted, result.missing) == ((ids[0],), ())
    assert (result.bytes_used, result.version) == (buffer.info().bytes_used, buffer.info().version)
    result = buffer.delete(np.array(ids[:3]))
    assert (result.deleted, result.missing) == ((ids[1], ids[2]), (ids[0],))
    assert (result.bytes_used, result.version) == (buffer.info().bytes_used, buffer.info().version)
    result = buffer.delete([ids[0]])
    assert (result.deleted, result.missing, result.version) == ((), (ids[0],), buffer.info().version)
    assert [item.exemplar_id for item in buffer.query()] == ids[3:]
    assert buffer.delete([]).deleted == ()
    with pytest.raises(NotFoundError) as caught:
        buffer.get(ids[0])
    assert caught.value.code == "unknown_exemplar"
    with pytest.raises(NotFoundError) as caught:
        Buffer(buffer.client, "nowhere").delete([1])
    assert caught.value.code == "unknown_buffer"


def test_many_exemplars_are_deleted_in_few_requests(buffer: Buffer) -> None:
    ids = [id_ for id_ in buffer.push(make_many(6)).exemplar_ids if id_ is not None]
    before = buffer.info().version
    result = buffer.delete([ids[4], 999, ids[1], *range(1000, 1600), ids[4]])
    assert (set(result.deleted), len(result.missing)) == ({ids[1], ids[4]}, 601)
    assert (result.bytes_used, result.version) == (buffer.info().bytes_used, before + 1)
    assert [item.exemplar_id for item in buffer.query()] == [ids[0], ids[2], ids[3], ids[5]]


def test_exemplars_are_fetched_by_id_in_the_order_asked_for(buffer: Buffer) -> None:
    made = make_many(6)
    ids = [id_ for id_ in buffer.push(made).exemplar_ids if id_ is not None]
    buffer.take_snapshot("s")
    buffer.delete(ids[2])
    batch = buffer.fetch([ids[5], ids[0]])
    assert batch.exemplar_id.tolist() == [ids[5], ids[0]]
    assert [record.body for record in batch.records] == [made[5].body, made[0].body]
    assert buffer.fetch(ids, snapshot="s").exemplar_id.tolist() == ids
    with pytest.raises(NotFoundError) as caught:
        buffer.fetch(ids)
    assert caught.value.details["exemplar_ids"] == [ids[2]]
    for wrong in ([], [ids[0], ids[0]], [0.5], range(5000)):
        with pytest.raises(ValueError, match="needed"):
            buffer.fetch(wrong)


def test_exemplars_are_deleted_by_condition(buffer: Buffer) -> None:
    ids = buffer.push(make_many(20)).exemplar_ids
    zero: Any = np.int64(0)  # numpy's numbers are taken too
    result = buffer.delete(class_id=[1, 2], phase=zero)
    assert result.deleted == tuple(ids[number] for number in (1, 2, 5, 6, 9))
    assert result.bytes_used == sum(item.charge for item in buffer.query())
    assert buffer.delete(learner_id="learner-1").deleted == tuple(ids[number] for number in (3, 7, *range(11, 20, 2)))
    assert buffer.delete(class_id=99).deleted == ()
    refused: list[dict[str, Any]] = [{}, {"exemplar_ids": [1], "phase": 0}, {"class_id": []}]
    for arguments in refused:
        with pytest.raises(ValueError, match=r"needed|empty list"):
            buffer.delete(**arguments)
    assert buffer.info().num_records == 8


def test_exemplars_are_erased_with_receipts(buffer: Buffer) -> None:
    ids = [id_ for id_ in buffer.push(make_many(8)).exemplar_ids if id_ is not None]
    buffer.take_snapshot("s")
    buffer.delete(ids[1])
    result = buffer.delete([*ids[:2], 99], erase=True)
    assert (result.deleted, result.missing) == (tuple(ids[:2]), (99,))
    assert [receipt.exemplar_ids for receipt in result.receipts] == [tuple(ids[:2])]
    assert [receipt.buffers[0].snapshots for receipt in result.receipts] == [{"s": 2}]
    # Whose answer was lost asks again.
    again = buffer.delete([ids[1], ids[2]], erase=True)
    assert (again.deleted, again.missing, len(again.receipts)) == ((ids[2],), (ids[1],), 2)
    assert again.receipts[1] == result.receipts[0]
    assert [kept.receipt for kept in buffer.receipts()] == list(again.receipts)
    assert [kept.buffers for kept in buffer.receipts()] == [(buffer.name,)] * 2
    assert (buffer.snapshot("s").num_records, buffer.snapshot("s").erased) == (5, 3)
    result = buffer.delete(class_id=2, erase=True)
    assert [receipt.exemplar_ids for receipt in result.receipts] == [result.deleted]
    assert buffer.delete(class_id=2, erase=True).receipts == ()
    assert buffer.delete(ids[-1]).receipts == ()


def test_exemplars_are_erased_by_a_field_of_the_users(buffer: Buffer) -> None:
    mine, others = (
        [id_ for id_ in buffer.push(make_many(4, first, fields=fields)).exemplar_ids if id_ is not None]
        for first, fields in ((0, {"person": "ann", "age": 7}), (4, {"person": "ann", "age": 8}))
    )
    buffer.take_snapshot("s")
    buffer.delete(mine[0])
    result = buffer.delete(fields={"person": ["ann", "bob"], "age": 7}, erase=True)
    assert result.deleted == tuple(mine)
    (receipt,) = result.receipts
    assert (receipt.exemplar_ids, receipt.buffers[0].snapshots) == (tuple(mine), {"s": 4})
    assert [kept.receipt for kept in buffer.receipts()] == [receipt]
    assert [exemplar.exemplar_id for exemplar in buffer.query(snapshot="s")] == others
    assert buffer.delete(fields={"age": 7}, erase=True).receipts == ()


def test_texts_that_look_like_numbers_are_no_numbers(buffer: Buffer) -> None:
    versions = ["1.1", "1.10", "12e3", 1.1, 12_000]
    buffer.push([make(number, fields={"version": version}) for number, version in enumerate(versions)])
    for wanted, found in (("1.10", [2]), ("12e3", [3]), (1.1, [1, 4]), (12_000.0, [5])):
        assert [exemplar.exemplar_id for exemplar in buffer.query(fields={"version": wanted})] == found
        assert {*buffer.sample(8, fields={"version": wanted}).exemplar_id.tolist()} == {*found}
    assert buffer.delete(fields={"version": "1.10"}, erase=True).deleted == (2,)
    assert [exemplar.exemplar_id for exemplar in buffer.query()] == [1, 3, 4, 5]


def test_a_deletion_that_went_through_before_its_answer_was_lost() -> None:
    info: dict[str, Any] = dict.fromkeys(
        ("budget_bytes", "disk_limit_bytes", "created_at", "bytes_used", "num_records"), 0
    )
    info |= dict.fromkeys(("full_samples_per_class", "full_sample_bytes", "num_classes", "retain_snapshots"))
    buffer = httpx.Response(200, json={**info, "name": "b", "eviction": "fifo", "description": "", "version": 5})
    gone = problem(404, "unknown_exemplar")
    with client_of(Script(LOST[1], gone, buffer)) as memory:
        result = Buffer(memory, "b").delete([7])
    assert (result.deleted, result.missing, result.version) == ((7,), (), 5)
    with client_of(Script(gone, buffer)) as memory:
        assert Buffer(memory, "b").delete([7]).missing == (7,)


def test_draws_by_score(buffer: Buffer) -> None:
    ids = buffer.push([make(0, score=0.0), make(1, score=1.0), make(2, score=3.0)]).exemplar_ids
    drawn = buffer.sample(400, strategy="score_weighted").exemplar_id
    counts = [int((drawn == id_).sum()) for id_ in ids]
    assert counts[0] == 0
    assert 240 < counts[2] < 360
    version = buffer.info().version
    assert len(buffer.sample(2, version=version)) == 2
    with pytest.raises(ConflictError) as caught:
        buffer.sample(2, version=version + 1)
    assert caught.value.code == "stale_version"


# Other arrays


def with_logits(count: int) -> Any:
    return make_many(count, arrays={"logits": np.zeros(4)}, array_dtypes={"logits": "float32"})


def test_arrays_are_replaced_and_draws_have_the_new_ones(buffer: Buffer) -> None:
    ids = [id_ for id_ in buffer.push(with_logits(8)).exemplar_ids if id_ is not None]
    buffer.take_snapshot("then")
    result = buffer.replace([*ids[:2], 99], {"logits": np.arange(12).reshape(3, 4), "mean": [0.5, 0.25, 0]})
    assert (result.updated, result.missing, result.revisions) == (2, (99,), {ids[0]: 1, ids[1]: 1})
    batch = buffer.fetch(ids[:3])
    assert batch.revision.tolist() == [1, 1, 0]
    logits = [arrays["logits"] for arrays in batch.arrays()]
    assert [values.dtype for values in logits] == [np.float32] * 3
    assert np.array(logits).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert batch.arrays()[0]["mean"].dtype == np.float16
    assert "mean" not in batch.arrays()[2]
    assert buffer.fetch(ids[:3], snapshot="then").revision.tolist() == [0, 0, 0]
    assert [info.revision for info in buffer.query(limit=3)] == [1, 1, 0]
    assert buffer.get(ids[0]).revision == 1
    cache = ExemplarCache(2**20)
    for value in (3, 4):
        buffer.replace([ids[2]], {"logits": [[value] * 4]})
        for _ in range(2):
            drawn = buffer.sample(8, replace=False, cache=cache)
            place = drawn.exemplar_id.tolist().index(ids[2])
            assert drawn.arrays()[place]["logits"].tolist() == [value] * 4
    assert buffer.diff("then").revised.exemplar_ids == tuple(ids[:3])
    # Elsewhere they are new.
    copy = buffer.client.create_buffer("copy", budget_bytes=10**6)  # type: ignore[attr-defined]
    copy.push(buffer.records())
    assert [(r.revision, r.arrays()["logits"].tolist()) for r in copy.records(limit=1)] == [(0, [0, 1, 2, 3])]


def test_who_is_late_is_told(buffer: Buffer) -> None:
    ids = [id_ for id_ in buffer.push(with_logits(3)).exemplar_ids if id_ is not None]
    batch = buffer.fetch(ids)
    values = {"logits": np.ones((3, 4))}
    assert buffer.replace(ids, values, if_revisions=batch.revision).updated == 3
    assert buffer.replace(ids, values, if_revisions=batch.revision).version == 2
    with pytest.raises(ConflictError) as caught:
        buffer.replace(ids, {"logits": np.zeros((3, 4))}, if_revisions=batch.revision)
    assert caught.value.code == "precondition_failed"
    assert [caught.value.details[name] for name in ("exemplar_id", "revision", "expected_revision")] == [ids[0], 1, 0]
    with pytest.raises(NotFoundError):
        buffer.replace([99], {"logits": np.zeros((1, 4))}, if_revisions=[0])


def test_many_arrays_go_in_several_requests(buffer: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [id_ for id_ in buffer.push(with_logits(8)).exemplar_ids if id_ is not None]
    monkeypatch.setattr(_changes, "_ARRAY_BYTES", 3 * 16)
    result = buffer.replace(ids, {"logits": np.arange(32).reshape(8, 4)})
    assert (result.updated, result.version, len(result.revisions)) == (8, 4, 8)
    assert buffer.replace([], {"logits": np.zeros((0, 4))}).updated == 0
    # What had been done before is said, and to ask again for all of it does the rest.
    values = {"logits": np.ones((8, 4))}
    buffer.replace(ids[6:], {"logits": np.full((2, 4), 2)})
    with pytest.raises(ConflictError) as caught:
        buffer.replace(ids, values, if_revisions=[1] * 8)
    assert caught.value.details["ids_acknowledged"] == 6
    assert buffer.replace(ids, values, if_revisions=[1] * 6 + [2] * 2).updated == 8


@pytest.mark.parametrize(
    ("ids", "arrays", "more"),
    [
        ([1, 1], {"a": [1, 2]}, {}),
        ([1], {}, {}),
        ([1], {"a": [1, 2]}, {}),
        ([1], {"a": 1.0}, {}),
        ([1], {"a": ["x"]}, {}),
        ([1], {"a": [1e300]}, {}),
        ([1.5], {"a": [1]}, {}),
        ([1], {"a": [1]}, {"if_revisions": [1, 2]}),
        ([1], {"a": [1]}, {"if_revisions": [0.5]}),
        ([1], {"a": [1]}, {"array_dtypes": {"b": "float32"}}),
    ],
)
def test_arrays_that_make_no_sense(buffer: Buffer, ids: Any, arrays: Any, more: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        buffer.replace(ids, arrays, **more)
