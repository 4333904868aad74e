"""Keys over HTTP and on their page: as the command line makes them, for who may do everything, and shown once."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format.api.terms import API_KEY_PATTERN
from memory_service.store.keys import KeyFile
from tests.memory_service.conftest import running
from tests.memory_service.helpers import Server, assert_problem, command, put_buffer
from tests.memory_service.test_keys import bearer, made
from tests.memory_service.test_page_actions import FORM, send
from tests.memory_service.test_pages import HTML


@pytest.fixture
def admin(data: Path) -> str:
    return made(data)


@pytest.fixture
def keeping(data: Path, admin: str) -> Iterator[httpx.Client]:
    """A service, and a client with a key for everything."""
    with running(data) as client:
        client.headers.update(bearer(admin))
        yield client


def test_keys_are_made_listed_and_revoked(keeping: httpx.Client, data: Path, admin: str) -> None:
    wanted = {"role": "write", "buffers": ["left-*", "b"], "learner_id": "left", "days": 30, "note": "für Ada"}
    answer = keeping.post("/v1/keys", json={**wanted, "trusted": True})
    assert answer.status_code == 201, answer.text
    new = answer.json()
    found = API_KEY_PATTERN.fullmatch(new["key"])
    assert found is not None
    assert new["key_id"] == f"em_{found[1]}"
    assert {name: new[name] for name in wanted if name != "days"} == {
        name: value for name, value in wanted.items() if name != "days"
    }
    assert new["expires_at"] - new["created_at"] == pytest.approx(30 * 86_400)
    assert keeping.put("/v1/buffers/left-1", json={"budget_bytes": 1000}, headers=bearer(new["key"])).status_code == 201
    listed = keeping.get("/v1/keys")
    first, second = listed.json()["keys"]
    assert first["key_id"] == admin[:11]
    assert second == {name: value for name, value in new.items() if name != "key"} | {
        "last_used_at": second["last_used_at"]
    }
    assert second["last_used_at"] >= new["created_at"]
    # No secret, and no hash of one.
    assert found[2] not in listed.text
    assert "sha256" not in listed.text
    assert found[2] not in (data / "keys.json").read_text()
    status, out, _ = command("keys", "list", "--json", "--data", str(data))
    assert (status, [json.loads(line)["id"] for line in out.splitlines()]) == (0, [admin[:11], new["key_id"]])
    gone = keeping.delete(f"/v1/keys/{new['key_id']}")
    assert (gone.status_code, gone.json()["revoked_at"] is None) == (200, False)
    assert keeping.delete(f"/v1/keys/{new['key_id']}").json()["revoked_at"] == gone.json()["revoked_at"]
    assert_problem(keeping.get("/v1", headers=bearer(new["key"])), "unauthenticated")
    assert_problem(keeping.delete("/v1/keys/em_00000000"), "unknown_key")
    assert_problem(keeping.delete("/v1/keys/nobody"), "invalid_request")
    # Nobody shuts the door behind oneself.
    assert_problem(keeping.delete(f"/v1/keys/{admin[:11]}"), "forbidden")
    assert keeping.get("/v1/keys").status_code == 200


def test_what_will_not_do_makes_no_key(keeping: httpx.Client, data: Path) -> None:
    before = (data / "keys.json").read_bytes()
    bad: list[dict[str, Any]] = [
        {"role": "root"},
        {"buffers": []},
        {"buffers": ["Upper"]},
        {"learner_id": "with space"},
        {"days": 0},
        {"days": "1"},
        {"note": "x" * 201},
        {"note": "a\nb"},
        {"role": "read", "trusted": True},
        {"what": 1},
    ]
    for wanted in bad:
        assert_problem(keeping.post("/v1/keys", json=wanted), "invalid_request")
    assert (data / "keys.json").read_bytes() == before


def test_who_may_not_do_everything_keeps_no_keys(keeping: httpx.Client, data: Path) -> None:
    for role, buffers in (("write", "*"), ("admin", "b*")):
        key = bearer(made(data, role, buffers=[buffers]))  # type: ignore[arg-type]
        before = (data / "keys.json").read_bytes()
        for method, url in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/em_00000000")):
            assert_problem(keeping.request(method, url, headers=key), "forbidden")
        for url in ("/keys", "/keys.json"):
            assert keeping.get(url, headers=HTML | key).status_code == 403
        for url in ("/keys", "/keys/em_00000000/revoke"):
            assert send(keeping, url, {"role": "admin"}, **key).status_code == 403
        assert (data / "keys.json").read_bytes() == before
        assert 'href="/keys"' not in keeping.get("/", headers=HTML | key).text


def test_a_key_makes_none_that_may_do_more_than_it(keeping: httpx.Client, data: Path) -> None:
    of_left, now = made(data, "admin", learner_id="left"), time.time()
    _, of_today = KeyFile(data).make("admin", now, expires_at=now + 86_400)
    for key, refused, taken in (
        (of_left, [{}, {"learner_id": "right"}], {"learner_id": "left"}),
        (of_today, [{}, {"days": 2}], {"days": 0.5}),
    ):
        before = (data / "keys.json").read_bytes()
        for wanted in refused:
            assert_problem(keeping.post("/v1/keys", json=wanted, headers=bearer(key)), "forbidden")
            form = {"role": "read", "buffers": "*"} | {name: str(value) for name, value in wanted.items()}
            assert send(keeping, "/keys", form, **bearer(key)).status_code == 403
        assert (data / "keys.json").read_bytes() == before
        assert keeping.post("/v1/keys", json=taken, headers=bearer(key)).status_code == 201


def test_the_first_key_is_made_where_the_store_is(client: httpx.Client, data: Path) -> None:
    assert client.get("/v1/keys").json() == {"keys": []}
    assert "memory-service keys make" in client.get("/keys", headers=HTML).text
    assert_problem(client.post("/v1/keys", json={}), "forbidden")
    assert send(client, "/keys", {"role": "admin"}).status_code == 403
    assert not (data / "keys.json").exists()


def test_a_page_makes_and_revokes_them(keeping: httpx.Client, data: Path, admin: str) -> None:
    # As a browser does it: with a session, and no key in any header.
    del keeping.headers["Authorization"]
    assert send(keeping, "/sign-in", {"key": admin, "next": "/keys"}).headers["location"] == "/keys"
    page = keeping.get("/keys", headers=HTML).text
    assert re.findall(r'method="post" action="([^"]+)"', page) == ["/sign-out", "/keys"]
    assert "yours" in page
    fields = {"role": "read", "buffers": "b  c-*", "days": "1.5", "note": "<i>Ada</i>", "learner_id": "", "trusted": ""}
    answer = send(keeping, "/keys", fields)
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    (given,) = re.findall(r"<code>(em_[^<]{50,})</code>", answer.text)
    new = KeyFile(data).current() or {}
    key = new[given[3:11]]
    assert (key.role, key.buffers, key.note, key.learner_id) == ("read", ("b", "c-*"), "<i>Ada</i>", None)
    assert key.expires_at == pytest.approx(key.created_at + 1.5 * 86_400)
    page = keeping.get("/keys", headers=HTML).text
    assert given not in page
    assert "&lt;i&gt;Ada&lt;/i&gt;" in page
    for wrong in ({"role": "root"}, {"days": "soon"}, {"buffers": "Upper"}, {"role": "read", "trusted": "on"}):
        refused = send(keeping, "/keys", wrong)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "text/html; charset=utf-8")
    evil = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    for url in ("/keys", f"/keys/{given[:11]}/revoke"):
        assert_problem(send(keeping, url, {"role": "admin"}, **evil), "untrusted_origin")
    assert_problem(keeping.post("/v1/keys", json={}, headers=evil), "untrusted_origin")
    # A form of this very site, but with the type that forms of others may have.
    assert keeping.post("/v1/keys", content=b"{}", headers={**FORM, "Content-Type": "text/plain"}).status_code == 415
    assert len(KeyFile(data).current() or {}) == 2
    (revoke,) = re.findall(r'action="(/keys/em_\w+/revoke)"', page)
    assert send(keeping, html.unescape(revoke), {}).headers["location"] == "/keys"
    assert_problem(httpx_get(keeping, given), "unauthenticated")
    assert f'action="{revoke}"' not in keeping.get("/keys", headers=HTML).text


def httpx_get(client: httpx.Client, key: str) -> httpx.Response:
    """What a program gets that has the key and no session."""
    return client.get("/v1", headers={**bearer(key), "Cookie": ""})


def test_the_service_and_the_command_line_lose_no_key_of_each_other(data: Path, admin: str) -> None:
    file = KeyFile(data)
    with Server(data) as server, httpx.Client(base_url=server.url, headers=bearer(admin)) as client:
        put_buffer(client)
        made_by: dict[str, list[str]] = {"http": [], "file": []}

        def over_http() -> None:
            for _ in range(20):
                new = client.post("/v1/keys", json={"note": "http"}).raise_for_status().json()
                made_by["http"].append(new["key_id"])
                client.delete(f"/v1/keys/{new['key_id']}").raise_for_status()

        def beside() -> None:
            made_by["file"] += [f"em_{file.make('read', 0.0, note='file')[0].id}" for _ in range(40)]

        threads = [threading.Thread(target=work) for work in (over_http, over_http, beside, beside)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        listed = {key["key_id"]: key for key in client.get("/v1/keys").json()["keys"]}
    assert listed.keys() == {admin[:11], *made_by["http"], *made_by["file"]}
    assert len(listed) == 1 + 2 * 20 + 2 * 40
    assert all((listed[id_]["revoked_at"] is None) == (id_ in made_by["file"]) for id_ in listed if id_ != admin[:11])
