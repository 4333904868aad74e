"""Every field of every route, taken from the OpenAPI document, with values that nobody should send: no 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from memory_format import MEDIA_TYPE, encode_batch
from memory_service.http.app import create_app
from memory_service.settings import Settings
from memory_service.store.admin.verify import verify
from tests.memory_service.conftest import running
from tests.memory_service.helpers import address_of, make_exemplar, push, put_buffer

_DEEP = 500
VALUES = {
    **{text: text for text in ("-1", "0", "1.0", "true", "null", "[]", "{}", '""', '"1"', "NaN", "-Infinity", "1e400")},
    **{str(2**bits + more): str(2**bits + more) for bits in (31, 32, 40, 53, 62, 63, 64) for more in (-1, 0)},
    "a NUL": '"\\u0000"',
    "half a surrogate pair": '"\\ud800"',
    "long text": json.dumps("a" * 100_000),
    "deep": "[" * _DEEP + "]" * _DEEP,
    "a list of odd ones": f"[{2**64}, -1, null]",
}
"""What it is -> as JSON."""


def _document() -> dict[str, Any]:
    return create_app(Settings(data=Path("unused"))).openapi()


def _operations() -> Iterator[Any]:
    for path, methods in _document()["paths"].items():
        for method, operation in methods.items():
            yield pytest.param(method.upper(), path, operation, id=f"{method} {path}")


def _body_schema(operation: dict[str, Any]) -> dict[str, Any]:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = _document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return dict(schema)


def _texts() -> list[str]:
    """The values as they stand in an address or header, of a length that clients send."""
    return [json.loads(text) if text[0] == '"' else text for text in (_short(value) for value in VALUES.values())]


def _short(value: str) -> str:
    return value if len(value) < 2000 else json.dumps("a" * 2000)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fields") / "store"


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[httpx.Client]:
    """Its buffer ``kept`` is never named: it must come out as it went in."""
    with running(data) as client:
        put_buffer(client, buffer="kept")
        push(client, [make_exemplar(0, rank) for rank in range(5)], buffer="kept")
        before = _sample(client)
        yield client
        assert _sample(client) == before
    assert verify(data).sound


def _sample(client: httpx.Client) -> bytes:
    return client.post("/v1/buffers/kept/sample", json={"batch_size": 8}).content


def _fill(client: httpx.Client) -> None:
    client.delete("/v1/buffers/b")
    put_buffer(client, buffer="b")
    push(client, [make_exemplar(class_id, 0) for class_id in range(3)], buffer="b")
    client.put("/v1/buffers/b/snapshots/s")


def _ask_with(ask: Callable[..., None], path: str, name: str, place: str, text: str) -> None:
    """Ask with a text as one parameter, where it can be one."""
    what = f"{place} {name}={text[:40]!r}"
    if place == "path":
        ask(what, address_of(path, **{name: text}) if text else address_of(path))
    elif place == "query":
        value = quote(text, safe="", errors="surrogatepass")
        ask(what, f"{address_of(path)}?{name}={value}")
        ask(f"{what} twice", f"{address_of(path)}?{name}={value}&{name}={value}")
    elif text.isascii() and text.isprintable():
        ask(what, address_of(path), headers={name: text})


@pytest.mark.parametrize(("method", "path", "operation"), list(_operations()))
def test_no_field_makes_a_route_fail(client: httpx.Client, method: str, path: str, operation: dict[str, Any]) -> None:
    schema = _body_schema(operation)
    example = dict(schema.get("examples", [{}])[0])
    media_type = next(iter(operation.get("requestBody", {}).get("content", {})), "application/json")
    whole = encode_batch([make_exemplar()]) if media_type == MEDIA_TYPE else json.dumps(example).encode()

    def ask(what: str, url: str, content: bytes = whole, headers: dict[str, str] | None = None) -> None:
        sent = {"Content-Type": media_type, **(headers or {})}
        response = client.request(method, url, content=content if "requestBody" in operation else b"", headers=sent)
        assert response.status_code < 500 or response.status_code == 507, (what, response.text[:300])
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json", what
            if method != "HEAD":
                assert response.json()["code"] != "internal_error", what

    _fill(client)
    for parameter in operation.get("parameters", []):
        for text in _texts():
            _ask_with(ask, path, parameter["name"], parameter["in"], text)
    for field in schema.get("properties", {}):
        rest = {key: value for key, value in example.items() if key != field}
        for what, value in VALUES.items():
            others = json.dumps(rest)[1:-1]
            body = f"{{{json.dumps(field)}: {value}{', ' if others else ''}{others}}}"
            ask(f"{field}: {what}", address_of(path), body.encode())
        twice = f"{{{json.dumps(field)}: 1, {json.dumps(field)}: 1}}"
        ask(f"{field} twice", address_of(path), twice.encode())
