"""Who may call: other names than the service's own, pages of other sites, and bodies of another type."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from memory_format import MEDIA_TYPE, FormatError, encode_batch
from memory_format.api.forms import FORMS
from memory_service.http.app import create_app
from memory_service.http.guard import Guard
from memory_service.http.media import media_type, prefers
from memory_service.settings import Settings
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    ARROW,
    Server,
    address_of,
    assert_problem,
    make_exemplar,
    push,
    put_buffer,
    whole_state,
)

EVIL = "evil.example"
JSON = {"Content-Type": "application/json"}


@cache
def operations() -> list[tuple[str, str]]:
    """Every method and address that the application has, those of the description too."""
    others = ("/", "/.json", "/buffers/b/gallery", "/pages.css", "/docs", "/redoc", "/openapi.json", "/nothing/here")
    found = [("GET", url) for url in others]
    for path, methods in create_app(Settings(data=Path("unused"))).openapi()["paths"].items():
        for method in methods:
            url = address_of(path)
            found.append((method.upper(), url))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guard") / "store"


@pytest.fixture(scope="module")
def filled(data: Path) -> Iterator[httpx.Client]:
    """A service that no test here changes."""
    with running(data) as client:
        put_buffer(client)
        push(client, [make_exemplar(0, rank) for rank in range(3)])
        yield client


@pytest.mark.parametrize("host", [EVIL, f"{EVIL}:8765", "localhost.evil.example", "192.168.1.5", "[2001:db8::1]:80"])
def test_another_host_is_refused_on_every_route(filled: httpx.Client, data: Path, host: str) -> None:
    before = whole_state(data)
    for method, url in operations():
        response = filled.request(method, url, headers={"Host": host, **JSON}, content=b"{}")
        assert "MEMORY_SERVICE_ALLOWED_HOSTS" in assert_problem(response, "untrusted_host")["detail"]
    body = encode_batch([make_exemplar()])
    assert_problem(
        filled.post("/v1/buffers/b/exemplars", content=body, headers={**ARROW, "Host": host}), "untrusted_host"
    )
    assert whole_state(data) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": f"http://{EVIL}"},
        {"Origin": f"https://{EVIL}:8765"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:8765"},
        {"Origin": "file://127.0.0.1:8765"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
    ids=lambda headers: ",".join(headers.values()),
)
def test_a_page_of_another_site_is_refused_on_every_route(
    filled: httpx.Client, data: Path, headers: dict[str, str]
) -> None:
    before = whole_state(data)
    for method, url in operations():
        response = filled.request(method, url, headers={**JSON, **headers}, content=b"{}")
        assert "MEMORY_SERVICE_ALLOWED_ORIGINS" in assert_problem(response, "untrusted_origin")["detail"]
        assert not {name for name in response.headers if name.startswith("access-control-")}
    for sent in (ARROW, {"Content-Type": f"text/plain, {MEDIA_TYPE}"}):
        body = encode_batch([make_exemplar()])
        response = filled.post("/v1/buffers/b/exemplars", content=body, headers={**sent, **headers})
        assert_problem(response, "untrusted_origin")
    assert whole_state(data) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:80"},
        {"Host": "LOCALHOST"},
        {"Host": "127.9.9.9:1"},
        {"Host": "[::1]:8765"},
        {"Host": "[0:0:0:0:0:0:0:1]"},
        {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:3000", "Origin": "https://localhost:3000"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
    ids=lambda headers: ",".join(headers.values()),
)
def test_programs_and_its_own_pages_are_let_in(filled: httpx.Client, headers: dict[str, str]) -> None:
    for url in ("/healthz", "/docs", "/v1/buffers", "/v1/buffers/b/exemplars/1/image.png"):
        assert filled.get(url, headers=headers).status_code == 200


def test_following_a_link_changes_nothing(filled: httpx.Client, data: Path) -> None:
    before = whole_state(data)
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for method, url in operations():
        if method != "GET":
            assert_problem(filled.request(method, url, headers={**JSON, **link}), "untrusted_origin")
    assert whole_state(data) == before


@pytest.mark.parametrize("host", ["a b", "::1", "[a]", "a:b", "[::1", "", "a/b"])
def test_a_host_that_is_none_is_malformed(filled: httpx.Client, host: str) -> None:
    assert_problem(filled.get("/healthz", headers={"Host": host}), "invalid_request", status=400)


@pytest.mark.parametrize("hosts", [[], [b"localhost", EVIL.encode()], [b"localhost", b"localhost"]])
def test_a_request_has_one_host(hosts: list[bytes]) -> None:
    guard = Guard(None, bound="127.0.0.1")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="one Host"):
        guard._check({"method": "GET", "headers": [(b"host", host) for host in hosts]})


def test_what_the_service_was_told(tmp_path: Path) -> None:
    told = {"allowed_hosts": "memory, Memory.Example.org", "allowed_origins": "https://pages.example.org"}
    with running(tmp_path, **told) as client:
        for host in ("memory", "memory.example.org:443", "localhost"):
            assert client.get("/v1/buffers", headers={"Host": host}).status_code == 200
        assert_problem(client.get("/v1/buffers", headers={"Host": EVIL}), "untrusted_host")
        page = {"Origin": "https://pages.example.org", "Sec-Fetch-Site": "cross-site"}
        answer = client.put("/v1/buffers/b", json={"budget_bytes": 1000}, headers=page)
        assert answer.status_code == 201
        assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
        preflight = {**page, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
        assert client.options("/v1/buffers/b", headers=preflight).status_code == 200
        assert_problem(client.get("/v1/buffers", headers={"Origin": f"http://{EVIL}"}), "untrusted_origin")
    with running(tmp_path, allowed_hosts="*", allowed_origins="*") as client:
        assert client.get("/v1/buffers", headers={"Host": EVIL, "Origin": f"http://{EVIL}"}).status_code == 200


@pytest.mark.parametrize(
    ("bound", "host", "taken"),
    [
        ("0.0.0.0", "192.168.1.5:8765", True),
        ("0.0.0.0", "[2001:db8::1]", True),
        ("::", "10.0.0.1", True),
        ("0.0.0.0", "memory:8765", False),
        ("192.168.1.5", "192.168.1.5", True),
        ("192.168.1.5", "192.168.1.6", False),
        ("Node7.Example", "node7.example:1", True),
        ("2001:DB8:0::1", "[2001:db8::1]", True),
    ],
)
def test_a_service_answers_to_the_address_it_listens_on(tmp_path: Path, bound: str, host: str, taken: bool) -> None:
    with running(tmp_path, host=bound) as client:
        assert client.get("/healthz", headers={"Host": host}).status_code == (200 if taken else 403)


def test_remembered_hosts_are_bounded() -> None:
    guard = Guard(None, bound="127.0.0.1")  # type: ignore[arg-type]
    for port in range(1000):
        guard._check({"method": "GET", "headers": [(b"host", b"localhost:%d" % port)]})
    assert len(guard._known) < 1000


@pytest.mark.parametrize(
    "name", ["allowed_hosts=http://memory", "allowed_hosts=memory:8765", "allowed_origins=example.org"]
)
def test_names_that_cannot_be(name: str) -> None:
    setting, value = name.split("=")
    given: dict[str, Any] = {setting: value}
    with pytest.raises(ValidationError, match="is no"):
        Settings(data=Path("unused"), **given)


def test_a_real_service_checks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_ALLOWED_HOSTS", "memory,other")
    with Server(tmp_path, "--host", "0.0.0.0", "--trust-network") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        for host, status in (("memory:8765", 200), ("other", 200), (EVIL, 403)):
            assert httpx.get(url + "/v1/buffers", headers={"Host": host}).status_code == status


BODIES = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
WRONG_TYPES = [
    *BODIES,
    "text/plain, {right}",
    "{right}, text/plain",
    "{right}, {right}",
    "text/plain; x={right}",
    "{right};x",
    "{right}; x=",
    "{right} text/plain",
    "/",
]


@cache
def routes_with_bodies() -> list[tuple[str, str, str]]:
    """Method, address and media type of every route that takes a body."""
    return [
        (method.upper(), address_of(path), kind)
        for path, methods in create_app(Settings(data=Path("unused"))).openapi()["paths"].items()
        for method, operation in methods.items()
        for kind in operation.get("requestBody", {}).get("content", ())
    ]


@pytest.mark.parametrize("wrong", WRONG_TYPES)
def test_a_body_of_another_type_is_refused(filled: httpx.Client, data: Path, wrong: str) -> None:
    before = whole_state(data)
    found = routes_with_bodies()
    assert {kind for *_, kind in found} == {
        MEDIA_TYPE,
        FORMS["arrow-file"].media_type,
        "application/zip",
        "application/json",
    }
    bodies = {MEDIA_TYPE: encode_batch([make_exemplar()]), "application/json": b'{"budget_bytes": 1, "name": "c"}'}
    for method, url, kind in found:
        headers = {"Content-Type": wrong.format(right=kind)} if wrong else {}
        response = filled.request(method, url, headers=headers, content=bodies.get(kind, b"PK"))
        assert kind in assert_problem(response, "invalid_request", status=415)["detail"]
        both = [("Content-Type", kind), ("Content-Type", wrong.format(right=kind) or "text/plain")]
        response = filled.request(method, url, headers=both, content=bodies.get(kind, b"PK"))
        assert_problem(response, "invalid_request", status=415)
    assert whole_state(data) == before


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("a/b", "a/b"),
        (" A/B ", "a/b"),
        ("a/b;c=d", "a/b"),
        ('a/b ; c="d, e; \\" f" ;g=h', "a/b"),
        ("a/b;", "a/b"),
        ("a", None),
        ("", None),
        ("a/", None),
        ("a/b/c", None),
        ("a/b, c/d", None),
        ('a/b;c="d', None),
        ("a/b" + "; \t" * 5000 + "!/", None),
        ('a/b;c="' + "\\a" * 5000, None),
    ],
)
def test_media_types_are_parsed(given: str, kind: str | None) -> None:
    assert media_type(given) == kind


@pytest.mark.parametrize(
    ("accept", "arrow"),
    [
        (MEDIA_TYPE, True),
        (f"application/json;q=0.5, {MEDIA_TYPE}", True),
        (f"application/json, {MEDIA_TYPE}", True),
        (f"{MEDIA_TYPE};q=0.5, application/json", False),
        (f"{MEDIA_TYPE};q=0", False),
        (f'text/plain;x=", {MEDIA_TYPE}"', False),
        ("*/*", False),
        ("text/html, image/gif, *; q=.2, */*; q=.2", False),
        (f"{MEDIA_TYPE}; q=1.2.3", False),
        ("", False),
    ],
)
def test_what_an_answer_is_asked_to_be(accept: str, arrow: bool) -> None:
    assert prefers(accept, MEDIA_TYPE) is arrow


def test_a_query_is_answered_as_asked(filled: httpx.Client) -> None:
    url = "/v1/buffers/b/exemplars"
    for accept, kind in ((MEDIA_TYPE, MEDIA_TYPE), (f'text/plain;x=", {MEDIA_TYPE}"', "application/json")):
        assert filled.get(url, headers={"Accept": accept}).headers["Content-Type"].startswith(kind)
