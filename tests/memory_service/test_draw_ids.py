"""Draws answered with ids, and records fetched by id."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import MEDIA_TYPE, Record, decode_batch
from memory_format.record import headers_of
from memory_service.store import Store
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import Filter
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_problem, make_exemplar, push, put_buffer, sample

URL = "/v1/buffers/b"
DRAWS: list[dict[str, Any]] = [
    {},
    {"strategy": "class_balanced"},
    {"strategy": "score_weighted", "class_id": [1, 2, 3]},
    {"replace": False, "batch_size": 20},
    {"repair_text": 0.7},
    {"strategy": "class_balanced", "repair_text": 1.0, "phase": [0]},
    {"snapshot": "s", "repair_text": 0.5},
]


@pytest.fixture
def filled(client: httpx.Client) -> httpx.Client:
    put_buffer(client)
    push(client, [make_exemplar(c, rank, phase=c // 2, score=1.0 + rank) for c in range(4) for rank in range(6)])
    client.put(f"{URL}/snapshots/s")
    push(client, [make_exemplar(5, rank) for rank in range(3)])
    return client


def draw_ids(client: httpx.Client, **wanted: Any) -> Any:
    response = client.post(f"{URL}/sample", json={"batch_size": 12, **wanted, "want": "ids"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["Exemplar-Memory-Version"] == str(response.json()["version"])
    return response.json()


def fetch(client: httpx.Client, ids: list[int], **more: Any) -> list[Record]:
    response = client.post(f"{URL}/records", json={"exemplar_ids": ids, **more})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    return decode_batch(response.content)


def fingerprint_of(record: Record) -> int:
    """As docs/format.md has it."""
    fixed = ("class_id", "crc32", "phase", "text_length", "grid_h", "grid_w", "patch_px", "codec", "flags")
    (header,) = headers_of([record], [record.crc32])
    return zlib.crc32(struct.pack("<IIHHBBBBB", *(int(header[name]) for name in fixed)))


@pytest.mark.parametrize("wanted", DRAWS)
@pytest.mark.parametrize("step", [0, 1])
def test_ids_name_the_batch_that_records_would_be(filled: httpx.Client, wanted: dict[str, Any], step: int) -> None:
    for _ in range(2):  # as it comes, and from a selection that is at hand by then
        drawn = draw_ids(filled, step=step, **wanted)
        records = sample(filled, **{"batch_size": 12, "step": step, **wanted})
        assert drawn["exemplar_ids"] == [record.exemplar_id for record in records]
        assert drawn["scores"] == [record.score for record in records]
        assert drawn["ranks"] == [record.rank for record in records]
        snapshot = wanted.get("snapshot")
        stored = {record.exemplar_id: record for record in fetch(filled, drawn["exemplar_ids"], snapshot=snapshot)}
        assert drawn["fingerprints"] == [fingerprint_of(stored[number]) for number in drawn["exemplar_ids"]]
        donors = drawn["text_from"] or drawn["exemplar_ids"]
        texts = {record.exemplar_id: record for record in fetch(filled, donors, snapshot=snapshot)}
        assert (drawn["text_from"] != []) == (wanted.get("repair_text", 0) > 0)
        assert drawn["text_fingerprints"] == [fingerprint_of(texts[number]) for number in drawn["text_from"]]
        for record, donor in zip(records, donors, strict=True):
            assert record.payload == stored[record.exemplar_id].payload
            assert record.token_ids_bytes == texts[donor].token_ids_bytes
            assert record.token_mask_bytes == texts[donor].token_mask_bytes


def test_what_changes_is_told_as_it_is_now(filled: httpx.Client) -> None:
    filled.patch(f"{URL}/exemplars", json={"exemplar_ids": [1, 2], "scores": [0.1, -3.5], "ranks": [70, 80]})
    drawn = draw_ids(filled, batch_size=27, replace=False)
    said = dict(zip(drawn["exemplar_ids"], zip(drawn["scores"], drawn["ranks"], strict=True), strict=True))
    assert said[1] == (pytest.approx(0.1), 70)
    assert said[2] == (-3.5, 80)
    before = draw_ids(filled, batch_size=24, replace=False, snapshot="s")
    assert dict(zip(before["exemplar_ids"], before["ranks"], strict=True))[2] == 1


def test_a_draw_of_ids_is_refused_as_one_of_records_is(filled: httpx.Client) -> None:
    for wanted, code in (
        ({"version": 9}, "stale_version"),
        ({"class_id": [77]}, "no_matching_exemplars"),
        ({"batch_size": 28, "replace": False}, "invalid_query"),
        ({"snapshot": "none"}, "unknown_snapshot"),
        ({"want": "pixels"}, "invalid_request"),
    ):
        body = {"batch_size": 3, "want": "ids", **wanted}
        assert_problem(filled.post(f"{URL}/sample", json=body), code)
    body = {"batch_size": 1, "want": "ids"}
    assert_problem(filled.post("/v1/buffers/none/sample", json=body), "unknown_buffer")


def test_records_of_the_same_body_have_fingerprints_of_their_own(client: httpx.Client) -> None:
    put_buffer(client)
    alike = partial(make_exemplar, seed=1, num_tokens=0)
    push(client, [alike(1), alike(2), alike(1, phase=3), alike(1, 5, score=9.0)])
    drawn = draw_ids(client, batch_size=4, replace=False)
    said = [print_ for _, print_ in sorted(zip(drawn["exemplar_ids"], drawn["fingerprints"], strict=True))]
    assert len({record.crc32 for record in fetch(client, [1, 2, 3, 4])}) == 1, "which is what this is about"
    assert len(set(said[:3])) == 3
    assert said[3] == said[0], "scores and ranks may change"


def test_both_kinds_of_draws_are_counted_and_fetching_is_none(filled: httpx.Client) -> None:
    sample(filled, batch_size=2)
    draw_ids(filled)
    fetch(filled, [1])
    assert filled.get(f"{URL}/stats").json()["samples"] == 2


def test_records_come_in_the_order_asked_for_and_those_gone_are_left_out(filled: httpx.Client) -> None:
    assert [record.exemplar_id for record in fetch(filled, [7, 3, 27, 3, 1000])] == [7, 3, 27, 3]
    filled.delete(f"{URL}/exemplars/3")
    assert [record.exemplar_id for record in fetch(filled, [7, 3])] == [7]
    assert fetch(filled, [3]) == []
    assert [record.exemplar_id for record in fetch(filled, [27, 3], snapshot="s")] == [3]
    response = filled.post(f"{URL}/records", json={"exemplar_ids": [1]})
    assert response.headers["Exemplar-Memory-Version"] == "3"


@pytest.mark.parametrize("ids", [[], [0], [-1], [2**63], ["1"], [1.0], [True], None, list(range(1, 4098))])
def test_ids_that_make_no_sense_are_refused(filled: httpx.Client, ids: Any) -> None:
    assert_problem(filled.post(f"{URL}/records", json={"exemplar_ids": ids}), "invalid_request")


def test_other_bad_requests_for_records(filled: httpx.Client) -> None:
    assert_problem(filled.post(f"{URL}/records", json={"exemplar_ids": [1], "snapshot": "x"}), "unknown_snapshot")
    assert_problem(filled.post("/v1/buffers/x/records", json={"exemplar_ids": [1]}), "unknown_buffer")
    assert_problem(filled.post(f"{URL}/records", json={"exemplar_ids": [1], "colour": 1}), "invalid_request")


def test_no_answer_is_longer_than_allowed(data: Path) -> None:
    with running(data, max_response_bytes=4000) as client:
        put_buffer(client)
        push(client, [make_exemplar(rank=rank, pad=1000) for rank in range(8)])
        assert len(fetch(client, [1, 2])) == 2
        asked = client.post(f"{URL}/records", json={"exemplar_ids": list(range(1, 9))})
        assert_problem(asked, "batch_too_large")
        assert_problem(client.post(f"{URL}/sample", json={"batch_size": 8, "want": "ids"}), "batch_too_large")


def test_ids_are_drawn_without_waiting_once_a_selection_is_at_hand(data: Path) -> None:
    from memory_format import encode_batch

    with Store(data, Options()) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(encode_batch([make_exemplar(c, rank) for c in range(2) for rank in range(5)]))
        plain, paired = SampleRequest(batch_size=4), SampleRequest(batch_size=4, repair_text=0.5)
        assert len(buffer.draw_ids(plain, wait=False).exemplar_ids) == 4
        with pytest.raises(BlockingIOError):
            buffer.draw_ids(paired, wait=False)
        waited = buffer.draw_ids(paired)
        assert buffer.draw_ids(paired, wait=False) == waited
        with pytest.raises(BlockingIOError):
            buffer.draw_ids(SampleRequest(batch_size=4000), wait=False)


def test_a_draw_in_the_middle_of_a_push_does_not_fail_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memory_format import encode_batch

    with Store(data, Options()) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(encode_batch([make_exemplar(c) for c in range(40)]))
        numbers = iter(range(40))

        def draw() -> None:
            buffer.draw_ids(SampleRequest(batch_size=1, where=Filter(class_id=(next(numbers),))))

        for _ in range(4):
            draw()
        hash_, is_drawing = Filter.__hash__, False

        def overtaken(where: Filter) -> int:
            nonlocal is_drawing
            if not is_drawing:
                # Python's code: here another thread may come in.
                is_drawing = True
                draw()
                is_drawing = False
            return hash_(where)

        monkeypatch.setattr(Filter, "__hash__", overtaken)
        for rank in range(1, 4):
            assert buffer.push(encode_batch([make_exemplar(rank=rank)])).kept == 1
        assert next(numbers) > 7, "draws came in between"
