"""Pages: what they show is what the API says, as HTML and as JSON, and nothing of them is from elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import html5lib
import httpx
import numpy as np
import pytest
from PIL import Image

from memory_format import RawZstd, make_record
from memory_service.http.pages import buffers, exemplars
from memory_service.http.pages.exemplars import GalleryQuery, Text, Word, text_of, thumbnail_of
from memory_service.http.pages.routing import POLICY
from memory_service.store.keys import KeyFile
from tests.memory_format.test_parts import dialogue
from tests.memory_service.conftest import running
from tests.memory_service.helpers import assert_problem, make_exemplar, push, put_buffer, stats_of, whole_state

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
"""As Chromium and Firefox ask."""
PAGES = [
    "/",
    "/buffers/b/summary",
    "/buffers/empty/summary",
    "/buffers/b/diff?from=s1",
    "/buffers/b/diff?from=s1&to=s2",
    "/buffers/b/gallery",
    "/buffers/b/gallery?class_id=0&class_id=22&phase=&learner_id=&min_score=&max_score=&sort=-score&snapshot=s1",
    "/buffers/empty/gallery",
    "/buffers/b/exemplars/1",
    "/buffers/b/exemplars/23?snapshot=s1",
]
CLASSES = 23
"""More than a table shows."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages") / "store"


@pytest.fixture(scope="module")
def filled(data: Path) -> Iterator[httpx.Client]:
    """A service that no test here changes."""
    with running(data) as client:
        put_buffer(client, description="<script>alert(1)</script>")
        push(client, [make_exemplar(class_id, learner_id="left", phase=1) for class_id in range(CLASSES)])
        client.put("/v1/buffers/b/snapshots/s1")
        push(client, [make_exemplar(0, rank, learner_id="right", phase=2, pad=500) for rank in range(1, 5)])
        client.put("/v1/buffers/b/snapshots/s2")
        client.delete("/v1/buffers/b/exemplars", params={"class_id": 22})
        client.put("/v1/buffers/b/phases/left", json={"phase": 4, "ended": True})
        client.put("/v1/buffers/b/phases/right", json={"phase": 2})
        put_buffer(client, buffer="empty")
        yield client


def page_at(client: httpx.Client, url: str, status: int = 200) -> str:
    """The one check of a page: it is HTML, says what browsers may do with it, and loads and links to what there is."""
    response = client.get(url, headers=HTML)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == POLICY
    text = response.text
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    names = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(names) == len(set(names)), "an id names one element"
    assert not {element.tag for element in tree.iter()} & {"script", "style"}
    assert not [element for element in tree.iter() if element.get("style") or element.get("onclick")]
    for element in tree.iter():
        address = element.get("src") or element.get("href")
        if address and not address.startswith("#"):
            found = client.get(urljoin(url, address), headers=HTML)
            assert found.status_code == 200, address
    return text


@pytest.mark.parametrize("url", PAGES)
def test_a_page_is_whole_and_has_a_twin(filled: httpx.Client, data: Path, url: str) -> None:
    before = whole_state(data)
    page_at(filled, url)
    path, _, query = url.partition("?")
    assert filled.head(url, headers=HTML).status_code == 200
    twin = filled.get(f"{path}.json?{query}".rstrip("?"))
    assert twin.headers["content-type"] == "application/json"
    assert twin.json()
    assert whole_state(data) == before


def test_the_overview_shows_what_takes_up_the_room(filled: httpx.Client) -> None:
    first, empty = filled.get("/.json").json()["buffers"]
    stats = stats_of(filled)
    assert first["info"] == filled.get("/v1/buffers/b").json()
    assert (first["num_snapshots"], first["num_classes_seen"]) == (2, CLASSES)
    room = {part["kind"]: part["bytes"] for part in first["room"]["parts"]}
    assert room["live"] == stats["bytes_used"]
    assert room["pinned"] == stats["pinned_bytes"] > 0
    assert room["dead"] == stats["dead_bytes"]
    assert sum(room.values()) - room["free"] == stats["disk_bytes"]
    assert sum(room.values()) == stats["disk_limit_bytes"]
    assert empty["info"]["num_records"] == 0
    text = page_at(filled, "/")
    assert "1.0 MB" in text
    assert "&lt;script&gt;" in text


def test_programs_are_told_where_to_go_on(filled: httpx.Client) -> None:
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5", ""):
        answer = filled.get("/", headers={"Accept": accept})
        assert answer.json()["api"] == "/v1"
        assert answer.headers["vary"] == "Accept"
    assert filled.get("/", headers=HTML).headers["vary"] == "Accept"


def test_more_buffers_than_a_page_has(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        assert "curl -X PUT" in page_at(client, "/")
        for number in range(51):
            put_buffer(client, 1000, buffer=f"b{number:02}")
        (following,) = re.findall(r'rel="next" href="([^"]+)"', page_at(client, "/"))
        assert re.findall(r"/buffers/(\w+)/summary", page_at(client, following)) == ["b50"]


def test_a_buffer_by_class_phase_and_learner(filled: httpx.Client) -> None:
    found = filled.get("/buffers/b/summary.json").json()
    stats = stats_of(filled)
    sizes = {entry["class_id"]: entry for entry in stats["classes"]}
    classes = found["classes"]
    assert classes["num"] == stats["num_classes"] == CLASSES - 1
    shown = classes["rows"]
    assert shown[0]["value"] == "0"
    for row in shown:
        stated = sizes.pop(int(row["value"]))
        assert (row["count"], row["bytes"]) == (stated["count"], stated["bytes"])
    assert [row["bytes"] for row in shown] == sorted((row["bytes"] for row in shown), reverse=True)
    assert classes["others"]["count"] == sum(entry["count"] for entry in sizes.values()) == 2
    assert classes["others"]["bytes"] == sum(entry["bytes"] for entry in sizes.values())
    assert classes["profile"] == [5] + [1] * (CLASSES - 2)
    for name in ("phases", "learners"):
        assert {row["value"]: row["count"] for row in found[name]["rows"]} == stats[name]
        assert sum(row["bytes"] for row in found[name]["rows"]) == stats["bytes_used"]
        assert found[name]["others"] is None
    assert [snapshot["name"] for snapshot in found["snapshots"]] == ["s2", "s1"]
    assert "right" in page_at(filled, "/buffers/b/summary")


def test_a_buffer_shows_who_is_in_which_phase(filled: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    said = filled.get("/v1/buffers/b/phases").json()["learners"]
    assert filled.get("/buffers/b/summary.json").json()["in_phase"] == said
    text = page_at(filled, "/buffers/b/summary")
    assert re.findall(r'<th scope="row">(left|right)</th><td>([^<]+)</td>', text) == [
        ("left", "4, ended"),
        ("right", "2"),
    ]
    assert "Who is in which phase" not in page_at(filled, "/buffers/empty/summary")
    monkeypatch.setattr(buffers, "IN_PHASE_SHOWN", 1)
    url, found = "/buffers/b/summary", []
    while True:
        found += filled.get(url.replace("summary", "summary.json")).raise_for_status().json()["in_phase"]
        following = re.findall(r'rel="next" href="([^"#]+)#in-phase"', page_at(filled, url))
        if not following:
            break
        url = unescape(following[0])
    assert found == said


def test_what_differs(filled: httpx.Client) -> None:
    said = filled.get("/v1/buffers/b/diff", params={"from": "s1"}).json()
    for query in ("from=s1", "from=s1&to="):
        found = filled.get(f"/buffers/b/diff.json?{query}").json()
        for side, snapshot in (("added", None), ("evicted", "s1")):
            assert {name: found[side][name] for name in ("count", "bytes", "exemplar_ids")} == {
                name: said[side][name] for name in ("count", "bytes", "exemplar_ids")
            }
            assert found[side]["snapshot"] == snapshot
        assert (found["added"]["count"], found["evicted"]["count"]) == (4, 1)


def test_what_is_refused_is_a_page_for_a_browser_alone(filled: httpx.Client) -> None:
    for url, code, status in (
        ("/buffers/c/summary", "unknown_buffer", 404),
        ("/buffers/b/diff?from=s9", "unknown_snapshot", 404),
        ("/buffers/b/diff", "invalid_request", 422),
        ("/buffers/b/summary?what=that", "invalid_request", 422),
        ("/buffers/b/summary?cursor=%2f", "invalid_cursor", 422),
        ("/?cursor=%2f", "invalid_cursor", 422),
        ("/buffers/b/gallery?limit=61", "invalid_request", 422),
        ("/buffers/b/gallery?cursor=x", "invalid_cursor", 422),
        ("/buffers/b/exemplars/23", "unknown_exemplar", 404),
        ("/buffers/b/exemplars/x", "invalid_request", 422),
    ):
        path, _, query = url.partition("?")
        problem = assert_problem(filled.get(f"{path}.json?{query}".rstrip("?")), code, status=status)
        text = page_at(filled, url, status)
        assert code in text
        assert problem["title"] in text


def test_a_mistyped_address_is_a_page_for_a_browser_alone(filled: httpx.Client) -> None:
    for url in ("/buffers", "/buffers/b", "/buffers/b/sumary"):
        assert "unknown_route" in page_at(filled, url, 404)
        assert_problem(filled.get(url), "unknown_route")
    # The API answers all alike, and where a slash is too much, it still leads on.
    assert_problem(filled.get("/v1/nothing", headers=HTML), "unknown_route")
    assert filled.get("/runs/", headers=HTML, follow_redirects=False).status_code == 308


def test_a_browser_asks_for_the_key_and_shows_what_it_is_for(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        for buffer in ("left", "right"):
            put_buffer(client, buffer=buffer)
        for url in ("summary", "diff?from=s", "gallery", "exemplars/1"):
            url = f"/buffers/left/{url}"
            KeyFile(tmp_path).make("read", 0.0, buffers=["right"])
            refused = client.get(url, headers=HTML)
            assert (refused.status_code, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
            # A browser that is offered Basic asks in a window of its own, and shows no page.
            assert refused.headers["www-authenticate"].startswith("Bearer realm=")
            assert 'type="password"' in refused.text
            path, _, query = url.partition("?")
            assert_problem(client.get(f"{path}.json?{query}"), "unauthenticated")
        assert_problem(client.get("/buffers/left/exemplars/1/thumbnail.webp"), "unauthenticated")
        assert client.get("/", headers=HTML).status_code == 401
        assert_problem(client.get("/.json"), "unauthenticated")
        # How to go on is said to anybody, and so is how pages look.
        assert client.get("/").json()["api"] == "/v1"
        assert client.get("/pages.css").status_code == 200
        client.headers["Authorization"] = f"Bearer {KeyFile(tmp_path).make('read', 0.0, buffers=['left'])[1]}"
        assert re.findall(r"/buffers/(\w+)/summary", page_at(client, "/")) == ["left"]
        page_at(client, "/buffers/left/summary")
        assert client.get("/buffers/right/summary", headers=HTML).status_code == 403
        assert_problem(client.get("/buffers/right/summary.json"), "forbidden")


def test_the_api_is_described_without_internet(filled: httpx.Client) -> None:
    for url in ("/docs", "/redoc"):
        response = filled.get(url)
        assert response.headers["content-security-policy"].startswith("default-src 'self'; script-src 'self'")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', response.text)
        assert loaded
        assert [address for address in loaded if "//" in address] == []
        for address in loaded:
            assert filled.get(address).status_code == 200, address
    assert_problem(filled.post("/static-offline-docs/swagger-ui.css"), "unknown_route", status=405)


def test_files_are_sent_once(filled: httpx.Client) -> None:
    for url in ("/pages.css", "/favicon.svg"):
        first = filled.get(url)
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = filled.get(url, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert filled.get(url, headers={"If-None-Match": '"other"'}).content == first.content


def all_cards(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Those of all pages, by the links that the pages have."""
    url, cards = f"/buffers/b/gallery?{query}", []
    while True:
        cards += client.get(url.replace("gallery", "gallery.json")).raise_for_status().json()["cards"]
        following = re.findall(r'rel="next" href="([^"]+)"', client.get(url, headers=HTML).text)
        if not following:
            return cards
        url = unescape(following[0])


def test_the_gallery_shows_what_the_api_lists(filled: httpx.Client) -> None:
    for query in ("", "class_id=0&class_id=3", "sort=-score&phase=1", "snapshot=s1&learner_id=left", "min_score=0.2"):
        listed = filled.get(f"/v1/buffers/b/exemplars?{query}").json()["exemplars"]
        assert listed
        assert [card["info"] for card in all_cards(filled, f"limit=4&{query}")] == listed


def test_a_card_shows_kept_words_and_gaps(filled: httpx.Client) -> None:
    for card in all_cards(filled, "limit=60"):
        detail = filled.get(f"/v1/buffers/b/exemplars/{card['info']['exemplar_id']}").json()
        text, places, seen = card["text"], iter(detail["token_positions"]), 0
        assert [int(word["text"]) for word in text["words"]] == detail["token_ids"]
        for word in text["words"]:
            place = next(places)
            assert place == seen + word["gap"]
            seen = place + 1
        assert seen + text["gap"] == detail["text_length"]


def test_texts_of_many_words_are_cut() -> None:
    text = text_of(range(100), range(5, 105), 110, 3)
    assert [(word.text, word.gap) for word in text.words] == [("0", 5), ("1", 0), ("2", 0)]
    assert (text.gap, text.more) == (0, 97)
    assert text_of([], [], 7, 3) == Text((), 7, 0)
    assert text_of([1], [0], 3, 3) == Text((Word("1", 0),), 2, 0)


def test_a_thumbnail_is_sent_once_and_goes_with_its_exemplar(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        put_buffer(client)
        push(client, [make_exemplar(rank=1), make_exemplar(rank=2)])
        url, other = (f"/buffers/b/exemplars/{number}/thumbnail.webp" for number in (1, 2))
        first = client.get(url)
        assert (first.headers["content-type"], first.headers["cache-control"]) == ("image/webp", "private, no-cache")
        known = {"If-None-Match": first.headers["etag"]}
        assert (client.get(url, headers=known).status_code, client.get(url, headers=known).content) == (304, b"")
        assert client.get(other, headers=known).status_code == 200
        assert client.head(url).headers["etag"] == first.headers["etag"]
        client.put("/v1/buffers/b/snapshots/s")
        client.delete("/v1/buffers/b/exemplars/1")
        assert_problem(client.get(url, headers=known), "unknown_exemplar")
        assert client.get(f"{url}?snapshot=s", headers=known).status_code == 304
        # Another exemplar under the same address is another picture.
        client.delete("/v1/buffers/b")
        put_buffer(client)
        push(client, [make_exemplar(rank=3)])
        assert client.get(url, headers=known).status_code == 200


def test_a_thumbnail_has_kept_patches_in_place_and_none_elsewhere() -> None:
    rng = np.random.default_rng(0)
    keep_mask = rng.random((14, 7)) < 0.5
    patches = np.broadcast_to(np.array([250, 10, 10], np.uint8), (int(keep_mask.sum()), 16, 16, 3))
    record = make_record(class_id=0, patches=patches, keep_mask=keep_mask, codec=RawZstd())
    image = np.array(Image.open(io.BytesIO(thumbnail_of(record))))
    assert image.shape == (112, 56, 4)
    centres = image[4::8, 4::8]
    assert ((centres[..., 3] > 128) == keep_mask).all()
    assert (np.abs(centres[keep_mask][:, :3].astype(int) - [250, 10, 10]) < 40).all()


def test_thumbnails_are_made_a_few_at_a_time(tmp_path: Path) -> None:
    with running(tmp_path, max_pictures=1) as client:
        put_buffer(client)
        push(client, [make_exemplar()])
        admission = client.app.state.admission  # type: ignore[attr-defined]
        admission.pictures.taken = 1
        assert_problem(client.get("/buffers/b/exemplars/1/thumbnail.webp"), "too_busy")
        admission.pictures.taken = 0
        assert client.get("/buffers/b/exemplars/1/thumbnail.webp").status_code == 200


def test_one_exemplar(filled: httpx.Client) -> None:
    page = filled.get("/buffers/b/exemplars/24.json").json()
    assert page["detail"] == filled.get("/v1/buffers/b/exemplars/24").json()
    parts = {part["kind"]: part["bytes"] for part in page["parts"]}
    assert sum(parts.values()) == page["detail"]["charge"]
    assert parts["extras"] > 500
    assert (page["died"], [snapshot["name"] for snapshot in page["snapshots"]]) == (None, ["s2"])
    drawn = np.zeros((3, 4), int)
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", page["grid"]):
        drawn[int(y), int(x) : int(x) + int(width)] += 1
    assert drawn.tolist() == page["detail"]["keep_mask"]
    text = page_at(filled, "/buffers/b/exemplars/24")
    assert "xxxx" in text
    assert "The buffer holds it now." in text


def test_the_history_of_an_exemplar_that_is_gone(filled: httpx.Client) -> None:
    page = filled.get("/buffers/b/exemplars/23.json?snapshot=s2").json()
    version = filled.get("/v1/buffers/b").json()["version"]
    assert page["died"] == version
    assert [snapshot["name"] for snapshot in page["snapshots"]] == ["s2", "s1"]
    assert f"until version {version}" in page_at(filled, "/buffers/b/exemplars/23?snapshot=s2")


def test_all_pictures_and_turns_of_an_exemplar_are_shown(tmp_path: Path) -> None:
    with running(tmp_path / "store") as client:
        put_buffer(client)
        push(client, [dialogue(fields={"split": "a <b>", "hard": True}), make_exemplar(1)])
        cards = client.get("/buffers/b/gallery", headers=HTML).text
        assert cards.count("2 pictures</p>") == 1
        assert "the first of 2 pictures" in cards
        for exemplar_id, pictures, roles in ((1, 2, ["system", "user", "assistant", "user"]), (2, 1, [])):
            page = client.get(f"/buffers/b/exemplars/{exemplar_id}", headers=HTML).text
            found = [unescape(address) for address in re.findall(r'<img src="([^"]*image.png[^"]*)"', page)]
            assert len(found) == len({client.get(address).content for address in found}) == pictures
            assert re.findall(r'<p class="text"><span class="quiet">(\w+)</span>', page) == roles
        page = client.get("/buffers/b/exemplars/1", headers=HTML).text
        for address, shown in re.findall(r'<a href="([^"]*gallery[?]field=[^"]*)">([^<]*)</a>', page):
            assert unescape(shown) in ("a <b>", "true")
            listed = client.get(unescape(address).replace("gallery", "gallery.json")).json()["cards"]
            assert [card["info"]["exemplar_id"] for card in listed] == [1]
        assert page.count("gallery?field=") == 2
        assert "151999" in client.get("/buffers/b/exemplars/1", headers=HTML).text
        assert_problem(client.get("/v1/buffers/b/exemplars/1/image.png?picture=2"), "invalid_query")
        assert client.get("/buffers/b/exemplars/1.json").json()["detail"]["num_pictures"] == 2


def test_no_turn_of_a_long_text_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exemplars, "WORDS_SHOWN", 3)
    with running(tmp_path) as client:
        put_buffer(client)
        push(client, [dialogue()])
        turns = [turn["text"] for turn in client.get("/buffers/b/exemplars/1.json").json()["texts"]]
        assert [(len(turn["words"]), turn["more"]) for turn in turns] == [(2, 0), (1, 1), (0, 1), (0, 0)]
        assert page_at(client, "/buffers/b/exemplars/1").count("and 1 more") == 2


def test_the_form_of_the_gallery_says_all_that_its_address_does(filled: httpx.Client) -> None:
    query = {"class_id": "3", "learner_id": "left", "not_learner_id": "right", "field": "a:<b>", "min_score": "0.5"}
    page = page_at(filled, f"/buffers/b/gallery?{httpx.QueryParams(query)}")
    form = page[page.index("<form") : page.index("</form")]
    assert set(re.findall(r' name="(\w+)"', form)) == GalleryQuery.model_fields.keys() - {"limit", "cursor"}
    for name, value in query.items():
        assert f'name="{name}" value="{escape(value)}"' in form


def test_classes_are_called_by_their_names(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        put_buffer(client)
        push(client, [make_exemplar(class_id) for class_id in range(3)])
        client.put("/v1/buffers/b/snapshots/s")
        named = client.post("/v1/buffers/b/classes", json={"names": ["a <cat>", "dog"], "class_ids": [0, 1]})
        assert named.status_code == 200, named.text
        for url in ("summary", "gallery", "exemplars/1", "gallery?class_name=a+%3Ccat%3E&class_name="):
            assert "a &lt;cat&gt;" in page_at(client, f"/buffers/b/{url}")
        for query, ids in (("class_name=dog", [2]), ("class_name=dog&class_id=2", [2, 3])):
            cards = client.get(f"/buffers/b/gallery.json?{query}").json()["cards"]
            assert [card["info"]["exemplar_id"] for card in cards] == ids
        assert_problem(client.get("/buffers/b/gallery.json?class_name=cow"), "invalid_query")
        client.delete("/v1/buffers/b/exemplars/1")
        assert "a &lt;cat&gt;" in page_at(client, "/buffers/b/diff?from=s")
