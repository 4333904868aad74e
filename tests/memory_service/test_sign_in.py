"""Signing in with a browser: a cookie holds a session, never the key, and ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memory_service.http.sessions import COOKIE, SECONDS, Sessions
from memory_service.store.keys import KeyFile
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_problem, put_buffer
from tests.memory_service.test_keys import bearer, made
from tests.memory_service.test_pages import HTML, page_at

FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def key(data: Path) -> str:
    return made(data, "read", buffers=["b"])


@pytest.fixture
def browser(data: Path, key: str) -> Iterator[httpx.Client]:
    with running(data) as client:
        for name in "bc":
            put_buffer(_with(client, made(data)), buffer=name)
        del client.headers["authorization"]
        yield client


def _with(client: httpx.Client, key: str) -> httpx.Client:
    client.headers.update(bearer(key))
    return client


def sign_in(browser: httpx.Client, key: str, following: str = "/") -> httpx.Response:
    form = httpx.QueryParams(key=key, next=following)
    return browser.post("/sign-in", content=str(form), headers=FORM, follow_redirects=False)


def test_a_page_asks_for_a_key_and_shows_what_it_is_for(browser: httpx.Client, key: str) -> None:
    asked = browser.get("/buffers/b/summary", headers=HTML)
    assert (asked.status_code, 'name="next" value="/buffers/b/summary"' in asked.text) == (401, True)
    answer = sign_in(browser, f" {key} ", "/buffers/b/summary")
    assert (answer.status_code, answer.headers["location"]) == (303, "/buffers/b/summary")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SECONDS}"} <= set(cookie.split("; "))
    assert key[12:] not in cookie
    # The client keeps the cookie, as a browser does.
    assert "Sign out" in page_at(browser, "/buffers/b/summary")
    assert browser.get("/v1/buffers/b").status_code == 200
    assert [line["info"]["name"] for line in browser.get("/.json").json()["buffers"]] == ["b"]
    refused = browser.get("/buffers/c/summary", headers=HTML)
    assert (refused.status_code, "is for the buffers b" in refused.text) == (403, True)
    session = browser.cookies[COOKIE]
    out = browser.post("/sign-out", headers=HTML, follow_redirects=False)
    assert (out.status_code, "Max-Age=0" in out.headers["set-cookie"]) == (303, True)
    # Also for who has kept the cookie.
    browser.cookies.clear()
    over = browser.get("/", headers={**HTML, "Cookie": f"{COOKIE}={session}"})
    assert (over.status_code, "the session is over" in over.text) == (401, True)


def test_a_session_ends_with_its_key(browser: httpx.Client, data: Path, key: str) -> None:
    sign_in(browser, key)
    assert browser.get("/", headers=HTML).status_code == 200
    KeyFile(data).revoke(key[3:11], 1.8e9)
    answer = browser.get("/", headers=HTML)
    assert (answer.status_code, "was revoked" in answer.text) == (401, True)


@pytest.mark.parametrize("following", ["//example.org", "https://example.org", "/\\example.org", "", "/x\ny", "/é"])
def test_it_goes_on_within_the_service_alone(browser: httpx.Client, key: str, following: str) -> None:
    assert sign_in(browser, key, following).headers["location"] == "/"


def test_what_is_no_key_signs_nobody_in(browser: httpx.Client) -> None:
    wrong = f"em_00000000_{43 * 'A'}"
    answers = [sign_in(browser, wrong) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    for answer in answers:
        assert "set-cookie" not in answer.headers
        assert wrong not in answer.text
    assert "none of this service" in answers[0].text
    assert_problem(browser.post("/sign-in", json={"key": wrong}), "invalid_request", status=415)
    # A form of another site's page.
    foreign = browser.post("/sign-in", content="key=x", headers={**FORM, "Origin": "https://example.org"})
    assert_problem(foreign, "untrusted_origin")


def test_where_no_key_is_asked_for_nobody_signs_in(data: Path) -> None:
    with running(data) as client:
        answer = sign_in(client, "anything")
        assert (answer.status_code, "set-cookie" in answer.headers) == (303, False)
        assert "Sign out" not in page_at(client, "/")
        page_at(client, "/sign-in")


def test_sessions_end_and_are_bounded() -> None:
    sessions = Sessions()
    first = sessions.begin("a", 0.0)
    assert sessions.find(first, SECONDS - 1) == "a"
    assert sessions.find(first, SECONDS) is None
    assert sessions.find("made up", 0.0) is None
    for number in range(1024):
        sessions.begin(str(number), 0.0)
    assert sessions.find(first, 0.0) is None
