"""What is refused: each with its code, and nothing changed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from memory_format import ERROR_CODES, MEDIA_TYPE, Record, encode_batch
from memory_format.masks import mask_to_bytes
from memory_format.wire import SCHEMA, read_batch, write_batch
from memory_service.problems import PROBLEMS
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, assert_problem, make_exemplar, push, put_buffer, whole_state

URL = "/v1/buffers/b/exemplars"
GOOD = make_exemplar(1, 1)
WEBP = make_exemplar(1, 1, codec="webp")


@contextmanager
def unchanged(client: httpx.Client, data: Path) -> Iterator[None]:
    """Nothing in the store, on disk or in the stats, is different after the block."""
    before = whole_state(data), client.get("/v1/buffers/b/stats").json()
    yield
    assert (whole_state(data), client.get("/v1/buffers/b/stats").json()) == before


@pytest.fixture
def filled(client: httpx.Client) -> httpx.Client:
    put_buffer(client)
    push(client, [make_exemplar(0, rank) for rank in range(3)])
    return client


def test_every_code_has_a_status_and_a_title() -> None:
    assert set(PROBLEMS) == set(ERROR_CODES)
    assert all(400 <= status < 600 and title for status, title in PROBLEMS.values())


def changed(record: Record, *, body: bytes | None = None, learner_id: str | None = None, **header: Any) -> bytes:
    """A batch of a good record and one of which single things are changed behind the encoder's back; its CRC is
    right."""
    batch = read_batch(encode_batch([GOOD, record]))
    bodies = [bytes(batch.bodies[0]), bytes(batch.bodies[1]) if body is None else body]
    batch.headers["crc32"][1] = zlib.crc32(bodies[1])
    for name, value in header.items():
        batch.headers[name][1] = value
    learner_ids = [GOOD.learner_id, record.learner_id if learner_id is None else learner_id]
    return bytes(write_batch(batch.headers, learner_ids, b"".join(bodies), [len(body) for body in bodies]))


def one_more_patch() -> bytes:
    mask = GOOD.keep_mask.copy()
    mask.flat[np.flatnonzero(~mask.reshape(-1))[:2]] = True
    return mask_to_bytes(mask)


def with_mask(mask: bytes) -> bytes:
    return mask + GOOD.body[2:]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        # A mosaic of 5 patches is 3 x 2, of 3 patches 2 x 2.
        (changed(GOOD, body=with_mask(one_more_patch())), "payload_mismatch"),
        (changed(GOOD, body=with_mask(b"\0\0")), "mask_mismatch"),
        (changed(GOOD, body=with_mask(GOOD.body[:1] + bytes([GOOD.body[1] | 1]))), "mask_mismatch"),
        (changed(GOOD, body=GOOD.body[:3]), "mask_mismatch"),
        (changed(GOOD, body=b""), "mask_mismatch"),
        # The token mask holds more cells than the header says; then more ids than it keeps.
        (changed(GOOD, body=GOOD.body[:3] + b"\xff" + GOOD.body[4:]), "mask_mismatch"),
        (changed(GOOD, body=GOOD.body[:12] + b"\0\0" + GOOD.body[12:]), "invalid_payload"),
        (changed(GOOD, body=GOOD.body[:12] + b"this is no image at all"), "invalid_payload"),
        (changed(WEBP, body=WEBP.body[:12] + b"this is no image at all"), "invalid_payload"),
        (changed(WEBP, body=WEBP.body[:12]), "invalid_payload"),
        (
            changed(WEBP, body=WEBP.body[:12] + make_exemplar(1, 1, codec="webp", layout="mosaic").payload),
            "payload_mismatch",
        ),
        (changed(GOOD, codec=99), "unknown_codec"),
        (changed(GOOD, codec=0), "unknown_codec"),
        (changed(GOOD, grid_h=0), "invalid_record"),
        (changed(GOOD, patch_px=0), "invalid_record"),
        (changed(GOOD, flags=128), "invalid_record"),
        (changed(GOOD, score=float("nan")), "invalid_record"),
        (changed(GOOD, score=float("-inf")), "invalid_record"),
        (changed(GOOD, learner_id="no spaces please"), "invalid_record"),
        (changed(GOOD, learner_id=""), "invalid_record"),
        (encode_batch([GOOD, replace(GOOD, extras=b"neither JSON nor arrays")]), "invalid_record"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_record_refuses_the_whole_push(filled: httpx.Client, data: Path, body: bytes, code: str) -> None:
    with unchanged(filled, data):
        response = filled.post(URL, content=body, headers=ARROW)
        assert "record 1" in assert_problem(response, code, index=1)["detail"]


def test_a_crc_that_is_not_the_bodys(filled: httpx.Client, data: Path) -> None:
    batch = read_batch(encode_batch([GOOD, GOOD]))
    batch.headers["crc32"][1] ^= 1
    body = write_batch(batch.headers, batch.learner_ids, GOOD.body * 2, [len(GOOD.body)] * 2)
    with unchanged(filled, data):
        assert_problem(filled.post(URL, content=bytes(body), headers=ARROW), "invalid_record", index=1)


def arrow(**columns: Any) -> bytes:
    """A batch of one good record with some columns replaced by others."""
    batch = pa.ipc.open_stream(encode_batch([GOOD])).read_all()
    names = [name for name in SCHEMA.names if columns.get(name, "") is not None]
    table = pa.table({name: columns.get(name, batch.column(name)) for name in names})
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata(SCHEMA.metadata)
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    return bytes(sink.getvalue())


def of_wire_version(version: str) -> bytes:
    schema = SCHEMA.with_metadata({"exemplar_memory_wire": version})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.ipc.open_stream(encode_batch([GOOD])).read_all().cast(schema))
    return bytes(sink.getvalue())


WIRE_1 = of_wire_version("1")


def with_nulls() -> bytes:
    batch = pa.ipc.open_stream(encode_batch([GOOD])).read_all()
    columns = [pa.nulls(1, field.type) if field.name == "body" else batch.column(field.name) for field in SCHEMA]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(
            pa.RecordBatch.from_arrays(
                [pa.concat_arrays([*pa.chunked_array(c).chunks]) for c in columns], schema=SCHEMA
            )
        )
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff\xff\xff\xff" + b"\0" * 100,
        b'{"class_id": 1}',
        encode_batch([GOOD])[:-200],
        encode_batch([GOOD])[:100],
        arrow(body=None),
        WIRE_1,
        arrow(class_id=pa.array(["one"])),
        with_nulls(),
        encode_batch([GOOD]) * 2,
    ],
    ids=[
        "empty",
        "text",
        "header",
        "json",
        "cut",
        "cut_short",
        "column_missing",
        "wire_1",
        "wrong_type",
        "nulls",
        "twice",
    ],
)
def test_a_body_that_is_no_batch(filled: httpx.Client, data: Path, body: bytes) -> None:
    with unchanged(filled, data):
        assert_problem(filled.post(URL, content=body, headers=ARROW), "invalid_batch")


def test_damage_on_the_way_is_seen(filled: httpx.Client, data: Path) -> None:
    body = bytearray(encode_batch([WEBP]))
    body[body.index(WEBP.payload) + len(WEBP.payload) - 8] ^= 1
    with unchanged(filled, data):
        response = filled.post(URL, content=bytes(body), headers=ARROW)
        assert "CRC" in assert_problem(response, "invalid_record", index=0)["detail"]


@pytest.mark.parametrize("content_type", [None, "application/json", "text/plain", "application/octet-stream"])
def test_a_wrong_content_type(filled: httpx.Client, data: Path, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    with unchanged(filled, data):
        response = filled.post(URL, content=encode_batch([GOOD]), headers=headers)
        assert MEDIA_TYPE in assert_problem(response, "invalid_request", status=415)["detail"]


def test_a_content_type_with_parameters_is_fine(filled: httpx.Client) -> None:
    headers = {"Content-Type": MEDIA_TYPE + "; charset=binary"}
    assert filled.post(URL, content=encode_batch([GOOD]), headers=headers).status_code == 200


def in_chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


def test_bodies_over_their_limit(data: Path) -> None:
    with running(data, max_body_bytes=10_000, max_json_bytes=500, max_batch_records=3) as client:
        put_buffer(client)
        many = encode_batch([make_exemplar(0, rank) for rank in range(100)])
        with unchanged(client, data):
            assert_problem(client.post(URL, content=many, headers=ARROW), "batch_too_large", limit=10_000)
            # Without a Content-Length it is seen while it is read.
            assert_problem(client.post(URL, content=in_chunks(many), headers=ARROW), "batch_too_large", limit=10_000)
            four = encode_batch([make_exemplar(0, rank, kept=1, num_tokens=0) for rank in range(4)])
            assert len(four) < 10_000
            assert_problem(client.post(URL, content=four, headers=ARROW), "batch_too_large")
            large = {"budget_bytes": 1000, "description": "x" * 500}
            assert_problem(client.put("/v1/buffers/c", json=large), "batch_too_large", limit=500)
            for url in ("/v1/buffers/c", "/v1/buffers/b/sample"):
                method = "PUT" if url.endswith("c") else "POST"
                headers = {"Content-Type": "application/json"}
                response = client.request(method, url, content=in_chunks(b"[" * 600), headers=headers)
                assert_problem(response, "batch_too_large", limit=500)
        assert client.post(URL, content=in_chunks(encode_batch([GOOD])), headers=ARROW).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'"x"', b"1e999", b'{"a":' * 20_000])
def test_json_that_will_not_do(filled: httpx.Client, data: Path, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with unchanged(filled, data):
        for method, url in (("PUT", "/v1/buffers/c"), ("POST", "/v1/buffers/b/sample")):
            response = filled.request(method, url, content=body, headers=headers)
            assert response.status_code in (400, 422)
            assert_problem(response, "invalid_request", status=response.status_code)


@pytest.mark.parametrize("budget", [0, -1, -(10**30), 2**50 + 1, 10**30])
def test_budgets_that_are_none(filled: httpx.Client, data: Path, budget: int) -> None:
    with unchanged(filled, data):
        assert_problem(filled.put("/v1/buffers/c", json={"budget_bytes": budget}), "invalid_budget")
        assert_problem(filled.put("/v1/buffers/b", json={"budget_bytes": budget}), "invalid_budget")


@pytest.mark.parametrize(
    "settings",
    [
        {"budget_bytes": "1000"},
        {"budget_bytes": 1e6},
        {"budget_bytes": True},
        {"full_samples_per_class": 1.5, "full_sample_bytes": 100},
        {"budget_bytes": 1, "disk_limit_bytes": "2"},
        {"budget_bytes": 1, "retain_snapshots": 0},
        {"budget_bytes": 1, "eviction": "random"},
        {"budget_bytes": 1, "budget": 2},
        {"budget_bytes": 1, "description": "x" * 10_001},
    ],
)
def test_buffers_that_will_not_do(filled: httpx.Client, data: Path, settings: dict[str, Any]) -> None:
    with unchanged(filled, data):
        assert_problem(filled.put("/v1/buffers/c", json=settings), "invalid_request")


@pytest.mark.parametrize("name", ["C", "-c", ".c", "c d", "c" * 64, "\u00e7", "c%00"])
def test_names_that_will_not_do(filled: httpx.Client, data: Path, name: str) -> None:
    with unchanged(filled, data):
        assert_problem(filled.put(f"/v1/buffers/{name}", json={"budget_bytes": 1}), "invalid_request")
        assert_problem(filled.get(f"/v1/buffers/{name}"), "unknown_buffer")


def test_an_unknown_buffer_everywhere(filled: httpx.Client, data: Path) -> None:
    with unchanged(filled, data):
        base = "/v1/buffers/nope"
        for url in ("", "/stats", "/exemplars", "/exemplars/1", "/exemplars/1/image.png", "/snapshots", "/diff?from=a"):
            assert_problem(filled.get(base + url), "unknown_buffer")
        for url in ("", "/exemplars/1", "/exemplars?class_id=1", "/snapshots/a"):
            assert_problem(filled.delete(base + url), "unknown_buffer")
        assert_problem(filled.patch(base, json={"description": "x"}), "unknown_buffer")
        assert_problem(filled.patch(base + "/exemplars", json={"exemplar_ids": [1], "ranks": [1]}), "unknown_buffer")
        assert_problem(filled.put(base + "/snapshots/a"), "unknown_buffer")
        assert_problem(filled.post(base + "/forks", json={"name": "c"}), "unknown_buffer")
        assert_problem(filled.post(base + "/sample", json={"batch_size": 1}), "unknown_buffer")
        assert_problem(filled.post(base + "/exemplars", content=encode_batch([GOOD]), headers=ARROW), "unknown_buffer")


def test_unknown_routes_and_methods(filled: httpx.Client) -> None:
    assert_problem(filled.get("/v2"), "unknown_route")
    assert_problem(filled.get("/v1/buffers/b/exemplars/1/image.jpg"), "unknown_route")
    response = filled.put("/v1/buffers/b/stats")
    assert_problem(response, "unknown_route", status=405)
    assert "GET" in response.headers["Allow"]


def test_an_unexpected_failure_tells_no_secrets(filled: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr("memory_service.store.buffer.stats", fail)
    response = filled.get("/v1/buffers/b/stats")
    assert_problem(response, "internal_error")
    assert "swordfish" not in response.text
