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
from memory_format.bitmask import mask_to_bytes
from memory_format.wire import read_batch
from memory_format.wire_schema import SCHEMA
from memory_service.http.errors import PROBLEMS
from tests.memory_format.strategies import write_batch
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
            # What is JSON, and no object, is refused as what it should be.
            assert_problem(response, "invalid_request", status=422 if body in (b"null", b'"x"', b"1e999") else 400)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"budget_bytes": 1000, "budget_bytes": 2000}', "'budget_bytes' twice"),
        (b'{"budget_bytes": 1000, "description": "\\ud800"}', "half of a surrogate pair"),
        (b'{"budget_bytes": 1000, "description": "\xed\xa0\x80"}', "no UTF-8"),
        (b'{"budget_bytes": 1000, "\\udfff": 1}', "half of a surrogate pair"),
        (b'{"budget_bytes": NaN}', "NaN"),
        (b'{"budget_bytes": Infinity}', "Infinity"),
        (b'{"budget_bytes": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"budget_bytes": 1000, "description": ' + b"[" * 100_000, "deeper than 64"),
        (b'{"budget_bytes": 1000, "description": ' + b"[" * 65 + b"]" * 65 + b"}", "deeper than 64"),
    ],
)
def test_json_is_read_strictly_everywhere(filled: httpx.Client, data: Path, body: bytes, said: str) -> None:
    headers = {"Content-Type": "application/json"}
    with unchanged(filled, data):
        for method, url in (
            ("PUT", "/v1/buffers/c"),
            ("PATCH", "/v1/buffers/b"),
            ("PATCH", "/v1/buffers/b/exemplars"),
            ("POST", "/v1/buffers/b/forks"),
            ("POST", "/v1/buffers/b/sample"),
        ):
            response = filled.request(method, url, content=body, headers=headers)
            assert said in assert_problem(response, "invalid_request", status=400)["detail"]


@pytest.mark.parametrize("value", [2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**4000, -1, 0, True, "1", 1.0])
def test_whole_numbers_out_of_range(filled: httpx.Client, data: Path, value: Any) -> None:
    """None of them is kept, and none is a failure of the service."""
    with unchanged(filled, data):
        put, patch, forks = ("PUT", "/v1/buffers/c"), ("PATCH", "/v1/buffers/b"), ("POST", "/v1/buffers/b/forks")
        for (method, url), body in (
            (put, {"budget_bytes": 1000, "retain_snapshots": value}),
            (patch, {"retain_snapshots": value}),
            (patch, {"disk_limit_bytes": value if value != 2**31 else 2**63}),
            (forks, {"name": "f", "disk_limit_bytes": value if value != 2**31 else 2**63}),
            (put, {"full_samples_per_class": value, "full_sample_bytes": value}),
            (put, {"full_samples_per_class": value, "full_sample_bytes": 2**40, "num_classes": value}),
        ):
            response = filled.request(method, url, json=body)
            assert_problem(response, response.json()["code"], status=422)
            assert response.json()["code"] in ("invalid_request", "invalid_budget")


@pytest.mark.parametrize("value", [True, "1", 1.0, 2**63, 2**64, None])
def test_values_that_are_no_ids(filled: httpx.Client, data: Path, value: Any) -> None:
    with unchanged(filled, data):
        for body in (
            {"exemplar_ids": [value], "ranks": [1]},
            {"exemplar_ids": [1], "ranks": [value]},
            {"exemplar_ids": [1], "ranks": [1], "if_version": value if value is not None else "1"},
        ):
            assert_problem(filled.patch(URL, json=body), "invalid_request")
        for field in ("class_id", "phase"):
            response = filled.post("/v1/buffers/b/sample", json={"batch_size": 1, field: [value]})
            assert_problem(response, "invalid_request")


@pytest.mark.parametrize(
    "text", ["1.0", "+1", "1_0", "%201", "0x1", "true", "0", "-1", str(2**63), str(2**64), "9" * 5000]
)
def test_digits_that_are_no_ids(filled: httpx.Client, data: Path, text: str) -> None:
    with unchanged(filled, data):
        for method in ("GET", "DELETE"):
            assert_problem(filled.request(method, f"{URL}/{text}"), "invalid_request")
        for name in ("limit", *(["class_id", "phase"] if text != "0" else [])):
            assert_problem(filled.get(f"{URL}?{name}={text}"), "invalid_request")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/exemplars?limit=1&limit=2", "query.limit: it is given 2 times"),
        ("/exemplars?sort=score&sort=rank", "query.sort: it is given 2 times"),
        ("/exemplars?klass=1", "query.klass: it is no parameter here"),
        ("/exemplars/1?snapshot=a&snapshot=b", "query.snapshot: it is given 2 times"),
        ("/exemplars/1/image.png?scale=1&scale=2", "query.scale: it is given 2 times"),
        ("/export?snapshot=a&snapshot=b", "query.snapshot: it is given 2 times"),
        ("/diff?from=a&from=b", "query.from: it is given 2 times"),
        ("/stats?now=1", "query.now: there are no parameters here"),
        ("?x=1", "query.x: there are no parameters here"),
    ],
)
def test_parameters_that_are_unknown_or_come_twice(filled: httpx.Client, url: str, said: str) -> None:
    assert said in assert_problem(filled.get("/v1/buffers/b" + url), "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("method", "url", "body", "said"),
    [
        (
            "PUT",
            "/v1/buffers/c",
            {"budget_byte": 9},
            "body.budget_byte: there is no such field here; known: budget_bytes,",
        ),
        (
            "PUT",
            "/v1/buffers/c",
            {"budget_bytes": True},
            "body.budget_bytes: Input should be a valid integer, got true",
        ),
        ("PUT", "/v1/buffers/c", {"budget_bytes": 9, "owner": "x" * 90}, f'"{"x" * 59}...'),
        ("PUT", "/v1/buffers/c", {"budget_bytes": [9]}, "got a list"),
        ("POST", "/v1/buffers/b/sample", {"batch_size": 0}, "greater than or equal to 1, got 0"),
        ("POST", "/v1/buffers/b/sample", {"size": 1}, "there is no such field here; known: batch_size, seed, "),
        ("POST", "/v1/buffers/b/sample", {"batch_size": 1, "class_id": []}, "at least 1 item, not 0"),
        ("PATCH", URL, {"exemplar_ids": [1]}, "nothing to change: arrays, or scores, ranks or both are needed"),
        ("PATCH", URL, {"exemplar_ids": [1], "scores": [1, 2]}, "as many scores, and as many ranks, as exemplar_ids"),
        ("PATCH", f"{URL}/1", {}, "nothing to change: arrays"),
        ("PATCH", f"{URL}/1", {"scores": [1]}, "no such field here; known: score, rank, arrays"),
        ("PATCH", f"{URL}/1", {"arrays": {"a": {"x": 1}}}, "arrays.a.x: there is no such field here"),
        ("GET", f"{URL}?class_id=x", None, 'query.class_id.0: a whole number in digits is needed, got "x"'),
        ("GET", f"{URL}?limit=0", None, "query.limit: Input should be greater than or equal to 1, got"),
    ],
)
def test_an_error_says_what_would_be_right_and_what_came(
    filled: httpx.Client, method: str, url: str, body: Any, said: str
) -> None:
    assert said in assert_problem(filled.request(method, url, json=body), "invalid_request")["detail"]


@pytest.mark.parametrize("before", [0, 20, 50])
def test_of_a_key_that_is_shown_the_id_alone_is(filled: httpx.Client, before: int) -> None:
    given = "x" * before + "em_01234567_" + "secret" * 8
    for response in (
        filled.get(URL, params={"class_id": given}),
        filled.get(URL, params={"sort": given}),
        filled.put("/v1/buffers/c", json={"budget_bytes": 9, "owner": f" {given}"}),
    ):
        assert "secret" not in assert_problem(response, "invalid_request")["detail"]


def test_a_filter_may_come_several_times(filled: httpx.Client) -> None:
    assert len(filled.get(f"{URL}?class_id=0&class_id=1&learner_id=default&learner_id=other").json()["exemplars"]) == 3


def test_a_push_that_is_said_in_two_ways(filled: httpx.Client, data: Path) -> None:
    with unchanged(filled, data):
        for query in ("dry_run=true&dry_run=false", "dry_run=yes", "dry_run=1"):
            response = filled.post(f"{URL}?{query}", content=encode_batch([GOOD]), headers=ARROW)
            assert_problem(response, "invalid_request")
        headers = [*ARROW.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        assert_problem(filled.post(URL, content=encode_batch([GOOD]), headers=headers), "invalid_request")


def test_a_description_is_text_that_any_database_can_hold(filled: httpx.Client, data: Path) -> None:
    with unchanged(filled, data):
        for body in ({"description": "a\0b"}, {"description": "x" * 10_001}):
            assert_problem(filled.put("/v1/buffers/c", json={"budget_bytes": 1000, **body}), "invalid_request")
            assert_problem(filled.patch("/v1/buffers/b", json=body), "invalid_request")
            assert_problem(filled.post("/v1/buffers/b/forks", json={"name": "c", **body}), "invalid_request")
    kept = "\U0001f600 \ue000\n\t\x7f" + "\uffff" * 9000
    assert filled.patch("/v1/buffers/b", json={"description": kept}).json()["description"] == kept
    assert filled.get("/v1/buffers/b").json()["description"] == kept


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
        *({"budget_bytes": 1, "learner_floor": floor} for floor in (0, -0.5, 1.01, "0.5", True)),
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
