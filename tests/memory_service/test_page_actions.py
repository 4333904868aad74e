"""Pages change what the API lets them change, and nothing for another site's page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memory_format.api.terms import Role
from memory_service.store.keys import KeyFile
from tests.memory_service.conftest import URL, running
from tests.memory_service.helpers import assert_problem, make_exemplar, push, put_buffer, whole_state
from tests.memory_service.test_pages import HTML, page_at

FORM = {**HTML, "Content-Type": "application/x-www-form-urlencoded", "Origin": URL, "Sec-Fetch-Site": "same-origin"}
ACTIONS = [
    ("/buffers/b/snapshots", {"snapshot": "new"}),
    ("/buffers/b/forks", {"name": "c", "snapshot": "s"}),
    ("/buffers/b/snapshots/s/delete", {}),
    ("/buffers/b/exemplars/1/delete", {"erase": "on"}),
    ("/buffers/b/delete", {"name": "b"}),
]


@pytest.fixture
def acting(tmp_path: Path) -> Iterator[httpx.Client]:
    with running(tmp_path) as client:
        put_buffer(client)
        push(client, [make_exemplar(rank=rank) for rank in range(3)])
        client.put("/v1/buffers/b/snapshots/s")
        yield client


def send(client: httpx.Client, url: str, fields: dict[str, str], **headers: str) -> httpx.Response:
    body = str(httpx.QueryParams(fields))
    return client.post(url, content=body, headers={**FORM, **headers}, follow_redirects=False)


def test_forms_do_what_the_api_does(acting: httpx.Client) -> None:
    text = page_at(acting, "/buffers/b/summary") + page_at(acting, "/buffers/b/exemplars/1")
    assert sorted(re.findall(r'method="post" action="([^"]+)"', text)) == sorted(url for url, _ in ACTIONS)
    for url, fields in ACTIONS:
        answer = send(acting, url, fields)
        assert answer.status_code == 303, answer.text
        page_at(acting, answer.headers["location"].partition("#")[0])
        if url.endswith("forks"):
            names = [snapshot["name"] for snapshot in acting.get("/v1/buffers/b/snapshots").json()["snapshots"]]
            assert names == ["s", "new"]
            assert acting.get("/v1/buffers/c").json()["num_records"] == 3
        if url.endswith("exemplars/1/delete"):
            assert_problem(acting.get("/v1/buffers/b/exemplars/1?snapshot=new"), "unknown_exemplar")
            assert_problem(acting.get("/v1/buffers/c/exemplars/1"), "unknown_exemplar")
            assert_problem(acting.get("/v1/buffers/b/snapshots/s"), "unknown_snapshot")
    assert [buffer["name"] for buffer in acting.get("/v1/buffers").json()["buffers"]] == ["c"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: headers["Origin"],
)
def test_another_sites_forms_are_refused(acting: httpx.Client, tmp_path: Path, headers: dict[str, str]) -> None:
    before = whole_state(tmp_path)
    for url, fields in ACTIONS:
        assert_problem(send(acting, url, fields, **headers), "untrusted_origin")
    assert whole_state(tmp_path) == before


def test_what_a_key_may_not_do_is_neither_shown_nor_done(acting: httpx.Client, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    allowed: dict[Role, int] = {"read": 0, "write": 3}
    for role in allowed:
        key = {"Authorization": f"Bearer {keys.make(role, 0.0, buffers=['b'], learner_id='nobody')[1]}"}
        shown = "".join(acting.get(f"/buffers/b/{url}", headers=HTML | key).text for url in ("summary", "exemplars/1"))
        assert len(re.findall('method="post"', shown)) == allowed[role]
        for url, fields in ACTIONS:
            answer = send(acting, url, fields, **key)
            if url.endswith("/snapshots") and role == "write":
                assert answer.status_code == 303
            else:
                # Another buffer than the key's, another learner's exemplar, or another role's business.
                assert (answer.status_code, "forbidden" in answer.text) == (403, True), url
    key = {"Authorization": f"Bearer {keys.make('admin', 0.0)[1]}"}
    assert acting.get("/v1/buffers/b", headers=key).json()["num_records"] == 3


def test_forms_that_will_not_do_change_nothing(acting: httpx.Client, tmp_path: Path) -> None:
    before = whole_state(tmp_path)
    for url, fields, status in (
        ("/buffers/b/delete", {"name": "B"}, 422),
        ("/buffers/b/delete", {}, 422),
        ("/buffers/b/snapshots", {"snapshot": "no name"}, 422),
        ("/buffers/b/snapshots", {}, 422),
        ("/buffers/b/forks", {"name": ""}, 422),
        ("/buffers/b/forks", {"name": "b"}, 409),
        ("/buffers/b/forks", {"name": "c", "snapshot": "t"}, 404),
        ("/buffers/b/snapshots/t/delete", {}, 404),
        ("/buffers/b/exemplars/9/delete", {}, 404),
        ("/buffers/b/exemplars/x/delete", {}, 422),
    ):
        answer = send(acting, url, fields)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8"), (
            url,
            fields,
        )
    assert send(acting, "/buffers/b/snapshots", {"snapshot": "x"}, **{"Content-Type": "text/plain"}).status_code == 415
    assert acting.post("/buffers/b/snapshots", content=b"\xff=1", headers=FORM).status_code == 400
    assert whole_state(tmp_path) == before
