"""What an address takes: HEAD wherever GET is answered, OPTIONS, and 405 with all that is allowed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Mount, Route

from memory_service.http.app import create_app
from memory_service.http.pages.routing import PageRoute
from memory_service.http.routes.common import StrictRoute
from memory_service.settings import Settings
from tests.memory_service.conftest import running
from tests.memory_service.helpers import Server, assert_problem, put_buffer, whole_state
from tests.memory_service.test_runs import put as put_run
from tests.memory_service.test_words import WORDS, push_texts, tell

VALUES = {
    "{name}": "b",
    "{snapshot}": "s",
    "{exemplar_id}": "1",
    "{field}": "f",
    "{run_id}": "r",
    "{key_id}": "k",
    "{learner_id}": "l",
}
QUERIES = {"/v1/buffers/b/diff": "?from=s"}


def addresses(data: Path) -> dict[str, set[str]]:
    """Every address of the service, filled in, and the methods that the OpenAPI document gives it."""
    paths = create_app(Settings(data=data)).openapi()["paths"]
    return {
        re.sub(r"\{\w+\}", lambda match: VALUES[match[0]], path): {method.upper() for method in operations}
        for path, operations in paths.items()
    }


def fill(client: httpx.Client) -> None:
    """Something at every address that ``VALUES`` fills in."""
    put_buffer(client)
    done = (
        tell(client, WORDS),
        *(push_texts(client) for _ in range(3)),
        client.put("/v1/buffers/b/snapshots/s"),
        put_run(client, "r"),
    )
    assert [response.status_code for response in done] == [201, 200, 200, 200, 201, 201]


@pytest.fixture
def filled(client: httpx.Client) -> httpx.Client:
    fill(client)
    return client


@pytest.fixture
def served(tmp_path: Path) -> Iterator[httpx.Client]:
    """A process of its own: what goes over the wire after HEAD is the server's affair, too."""
    with Server(tmp_path / "served") as server, server.client() as client:
        fill(client)
        yield client


def test_head_is_answered_wherever_get_is(served: httpx.Client, tmp_path: Path) -> None:
    for address, methods in {**addresses(tmp_path), "/": {"GET"}, "/docs": {"GET"}, "/openapi.json": {"GET"}}.items():
        if "GET" not in methods:
            continue
        url = address + QUERIES.get(address, "")
        got, head = served.get(url), served.head(url)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b""), address
        for name in got.headers.keys() - {"date", "content-length", "transfer-encoding", "x-request-id"}:
            assert head.headers[name] == got.headers[name], (address, name)
        # It may stay unsaid, and may not be wrong.
        assert head.headers.get("content-length", got.headers["content-length"]) == got.headers["content-length"]
    assert served.head("/v1/buffers/b/export").headers["content-length"]
    for url in ("/v1/buffers/c", "/v1/buffers/b/exemplars/9/image.png", "/v1/buffers/b/export?snapshot=t", "/nowhere"):
        got, head = served.get(url), served.head(url)
        assert (head.status_code, head.content) == (404, b"")
        assert head.headers["content-type"] == got.headers["content-type"] == "application/problem+json"


def test_each_route_is_made_once(data: Path) -> None:
    """FastAPI makes checks of all its parameters with each, and once more of those of a router that is included."""
    routes = create_app(Settings(data=data)).routes
    assert {type(route) for route in routes} == {Route, Mount, StrictRoute, PageRoute}
    made = Counter(
        (route.path, method) for route in routes if isinstance(route, Route) for method in route.methods or ()
    )
    assert set(made.values()) == {1}
    assert not any(method == "HEAD" for (_, method) in made.keys() - {("/openapi.json", "HEAD")})


def test_head_of_an_export_or_backup_keeps_nothing(filled: httpx.Client, data: Path) -> None:
    """No lease, no copy: as often as one likes."""
    state = whole_state(data)
    for _ in range(3):
        assert filled.head("/v1/buffers/b/export").status_code == 200
        assert filled.head("/v1/backup").status_code == 200
    assert filled.app.state.store.buffer("b").contents.leases == {}  # type: ignore[attr-defined]
    assert not any((data / "incoming").iterdir())
    assert whole_state(data) == state


def test_every_address_says_all_that_it_takes(filled: httpx.Client, data: Path) -> None:
    state = whole_state(data)
    for address, methods in addresses(data).items():
        allowed = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        said = ", ".join(sorted(allowed))
        response = filled.options(address)
        assert (response.status_code, response.headers["allow"], response.content) == (204, said, b""), address
        for method in {"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "TRACE", "QUERY"} - allowed:
            response = filled.request(method, address)
            assert response.headers["allow"] == said, (method, address)
            if method == "HEAD":
                assert (response.status_code, response.content) == (405, b"")
            else:
                assert said in assert_problem(response, "unknown_route", status=405)["detail"]
    assert_problem(filled.options("/v1/nowhere"), "unknown_route")
    assert whole_state(data) == state


def test_a_slash_at_the_end(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        for url, to in (
            ("/v1/buffers/", "/v1/buffers"),
            ("/healthz/", "/healthz"),
            ("/v1/buffers/b/exemplars/?limit=1&class_id=2", "/v1/buffers/b/exemplars?limit=1&class_id=2"),
            ("/v1/buffers/%0d%0aX:%20y/", "/v1/buffers/%0D%0AX%3A%20y"),
        ):
            for method in ("GET", "HEAD"):
                response = client.request(method, url, follow_redirects=False)
                # Within the service, whatever Host it was asked by.
                assert (response.status_code, response.headers["location"]) == (308, to)
        assert client.get("/v1/buffers/b/stats/").json()["num_records"] == 0
        # What changes something is not sent to another address: an empty name would be all of them.
        for method, url in (
            ("DELETE", "/v1/buffers/b/"),
            ("PUT", "/v1/buffers/"),
            ("DELETE", "/v1/buffers/b/exemplars/"),
        ):
            assert "without the slash" in assert_problem(client.request(method, url), "unknown_route")["detail"]
        for url in ("/v1//buffers", "/v1/buffers//", "/v2/"):
            assert_problem(client.get(url), "unknown_route")
        assert client.get("/v1/buffers/b").status_code == 200
