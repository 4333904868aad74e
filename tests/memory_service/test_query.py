"""Listing, cursors, one record and its picture."""

from __future__ import annotations

import base64
import io
import itertools
import json
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from memory_format import MEDIA_TYPE, RawZstd, Record, WebPLossless, decode_batch, make_record, patches_to_image
from memory_format.api.terms import SORTS
from memory_service.store import png
from memory_service.store.pure import query
from tests.memory_service.conftest import running
from tests.memory_service.helpers import all_records, assert_problem, make_exemplar, push, put_buffer, wait_until

URL = "/v1/buffers/b/exemplars"


@pytest.fixture
def records(client: httpx.Client) -> list[Record]:
    put_buffer(client)
    records = [
        make_exemplar(c, rank, phase=c // 2, learner_id=f"l{rank % 2}", score=round(0.1 * (rank - 2), 1))
        for rank in range(5)
        for c in range(6)
    ]
    push(client, records)
    return all_records(client)


def listing(client: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    """Every page of a query."""
    rows: list[dict[str, Any]] = []
    while True:
        response = client.get(URL, params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["exemplars"]) <= params.get("limit", 100)
        rows += page["exemplars"]
        if page["next_cursor"] is None:
            return rows
        params["cursor"] = page["next_cursor"]


@pytest.mark.parametrize(
    ("params", "matches"),
    [
        ({}, lambda r: True),
        ({"class_id": [1, 4]}, lambda r: r.class_id in (1, 4)),
        ({"class_id": 1, "phase": 1}, lambda r: False),
        ({"phase": [1, 2], "learner_id": "l1"}, lambda r: r.phase in (1, 2) and r.learner_id == "l1"),
        ({"min_score": 0.0, "max_score": 0.1}, lambda r: 0 <= r.score <= np.float32(0.1)),
        ({"learner_id": "nobody"}, lambda r: False),
    ],
)
def test_filters_sorting_and_pages(
    client: httpx.Client,
    records: list[Record],
    params: dict[str, Any],
    matches: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if there were many more records than are looked at at a time.
    monkeypatch.setattr(query, "_BLOCK", 4)
    if "max_score" in params:
        # Scores are float32: a bound that is to include 0.1 must be the float32 above it.
        params = {**params, "max_score": float(np.float32(0.1))}
    expected = [record for record in records if matches(record)]
    for sort, limit in itertools.product(SORTS, (1, 7, 1000)):
        name, sign = sort.removeprefix("-"), -1 if sort.startswith("-") else 1
        expected.sort(key=lambda r: (sign * getattr(r, name), r.exemplar_id))
        found = listing(client, **params, sort=sort, limit=limit)
        assert [row["exemplar_id"] for row in found] == [record.exemplar_id for record in expected]
        if limit == 7:
            arrow = all_records(client, **params, sort=sort, limit=limit)
            assert [record.body for record in arrow] == [record.body for record in expected]


def test_a_row_says_the_same_as_the_record(client: httpx.Client, records: list[Record]) -> None:
    row = listing(client, class_id=3)[2]
    record = next(r for r in records if r.exemplar_id == row["exemplar_id"])
    assert row == {
        "exemplar_id": record.exemplar_id,
        "class_id": 3,
        "phase": 1,
        "learner_id": record.learner_id,
        "score": record.score,
        "rank": record.rank,
        "grid": [3, 4],
        "patch_px": 4,
        "codec": "em_zstd",
        "layout": "mosaic",
        "has_extras": False,
        "text_length": 10,
        "num_tokens": 4,
        "num_patches": 3,
        "keep_ratio": 0.25,
        "charge": record.charge,
        "crc32": record.crc32,
        "num_pictures": 1,
        "revision": 0,
    }
    detail = client.get(f"{URL}/{record.exemplar_id}").json()
    assert detail == {
        **row,
        "keep_mask": record.keep_mask.astype(int).tolist(),
        "token_ids": record.token_ids.tolist(),
        "token_positions": record.token_positions.tolist(),
        "user_json": {},
        "fields": {},
        "parts": [
            {"kind": "picture", "grid": [3, 4], "num_patches": 3, "role": "", "text_length": 0},
            {"kind": "text", "grid": None, "num_patches": 0, "role": "", "text_length": 10},
        ],
    }


def test_the_users_json_comes_back(client: httpx.Client) -> None:
    put_buffer(client)
    (exemplar_id,) = push(client, [make_exemplar(user_json={"source": "cam-3", "box": [1, 2]})])["exemplar_ids"]
    detail = client.get(f"{URL}/{exemplar_id}").json()
    assert (detail["user_json"], detail["has_extras"]) == ({"source": "cam-3", "box": [1, 2]}, True)


@pytest.mark.parametrize("sort", ["exemplar_id", "-exemplar_id", "score", "-rank"])
def test_pages_stay_right_while_records_are_pushed(client: httpx.Client, records: list[Record], sort: str) -> None:
    """Every record that was there from the beginning to the end is given exactly once, in order."""
    stop = threading.Event()

    def pusher() -> None:
        for round_ in range(100):
            if stop.is_set():
                return
            push(client, [make_exemplar(class_id, round_, seed=round_) for class_id in range(3)])

    thread = threading.Thread(target=pusher)
    thread.start()
    try:
        found = listing(client, sort=sort, limit=5)
    finally:
        stop.set()
        thread.join()
    ids = [row["exemplar_id"] for row in found]
    assert len(set(ids)) == len(ids)
    if not sort.startswith("exemplar"):
        assert {record.exemplar_id for record in records} <= set(ids)
    name, sign = sort.removeprefix("-"), -1 if sort.startswith("-") else 1
    keys = [(sign * row[name], row["exemplar_id"]) for row in found]
    assert keys == sorted(keys)


def test_a_page_of_records_ends_before_the_response_limit(data: Path) -> None:
    with running(data, max_response_bytes=1000) as client:
        put_buffer(client)
        push(client, [make_exemplar(rank=rank, pad=300) for rank in range(6)])
        response = client.get(URL, headers={"Accept": MEDIA_TYPE})
        assert 1 <= len(decode_batch(response.content)) < 3
        assert response.headers["Exemplar-Memory-Version"] == "1"
        assert len(all_records(client)) == 6


def make_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(parts)).encode()).decode().rstrip("=")


def test_cursors_that_are_none(client: httpx.Client, records: list[Record]) -> None:
    good = client.get(URL, params={"limit": 2, "sort": "score"}).json()["next_cursor"]
    fingerprint, value, exemplar_id = json.loads(base64.urlsafe_b64decode(good + "=="))
    assert client.get(URL, params={"limit": 9, "sort": "score", "cursor": good}).status_code == 200
    for bad in (
        "x",
        "%%%",
        good[:-4],
        good + "AAAA",
        "[" * 1000,
        make_cursor(1, 2),
        make_cursor(fingerprint, "a", exemplar_id),
        make_cursor(fingerprint, value, "1"),
        make_cursor(fingerprint, value, -1),
        make_cursor(fingerprint, value, 2**63),
        make_cursor(fingerprint, 10**400, 1),
        make_cursor(fingerprint, float("nan"), 1),
        make_cursor(fingerprint, None, 1),
        make_cursor("0" * 12, value, exemplar_id),
    ):
        assert_problem(client.get(URL, params={"sort": "score", "cursor": bad}), "invalid_cursor")
    # Of another query.
    others: list[dict[str, Any]] = [
        {"sort": "-score"},
        {"sort": "score", "class_id": 1},
        {"sort": "score", "min_score": 0},
    ]
    for other in others:
        assert_problem(client.get(URL, params={**other, "cursor": good}), "invalid_cursor")


def test_queries_that_will_not_do(client: httpx.Client, records: list[Record]) -> None:
    refused: list[dict[str, Any]] = [
        {"limit": 0},
        {"limit": 1001},
        {"sort": "class_id"},
        {"class_id": -1},
        {"class_id": "x"},
        {"class": 1},
        {"min_score": "nan"},
        {"phase": 2**16},
    ]
    for bad in refused:
        assert_problem(client.get(URL, params=bad), "invalid_request")
    for number in ("0", "x", "-1", str(2**63), "1.5"):
        assert_problem(client.get(f"{URL}/{number}"), "invalid_request")
    assert_problem(client.get(f"{URL}/{2**63 - 1}"), "unknown_exemplar")
    assert_problem(client.get(f"{URL}/31"), "unknown_exemplar")


@pytest.mark.parametrize("codec", ["raw", "webp"])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_picture_has_the_kept_patches_in_place(client: httpx.Client, codec: str, scale: int) -> None:
    put_buffer(client)
    record = make_exemplar(3, codec=codec)
    (exemplar_id,) = push(client, [record])["exemplar_ids"]
    cells = np.full((12, 4, 4, 3), 211, dtype=np.uint8)
    cells[record.keep_indices] = record.patches()
    grey = patches_to_image(cells, (3, 4)).repeat(scale, 0).repeat(scale, 1)
    url = f"{URL}/{exemplar_id}/image.png"
    response = client.get(url, params={"scale": scale})
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), grey)
    image = Image.open(io.BytesIO(client.get(url, params={"scale": scale, "dropped": "transparent"}).content))
    kept = np.kron(record.keep_mask, np.ones((4 * scale, 4 * scale), dtype=bool))
    np.testing.assert_array_equal(np.asarray(image)[..., 3] == 255, kept)
    np.testing.assert_array_equal(np.asarray(image)[kept][:, :3], grey[kept])
    image = Image.open(io.BytesIO(client.get(url, params={"scale": scale, "dropped": "black"}).content))
    assert not np.asarray(image)[~kept].any()


def test_a_picture_needs_its_codecs_library_and_the_record_does_not(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_buffer(client)
    keep_mask = np.eye(4, dtype=bool)
    record = make_record(
        class_id=0, patches=np.zeros((4, 8, 8, 3), np.uint8), keep_mask=keep_mask, codec=WebPLossless()
    )
    (exemplar_id,) = push(client, [record])["exemplar_ids"]
    monkeypatch.setattr("memory_format.codecs.libraries.HAVE_IMAGECODECS", False)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    assert client.get(f"{URL}/{exemplar_id}").json()["codec"] == "em_webp_lossless"
    assert_problem(client.get(f"{URL}/{exemplar_id}/image.png"), "codec_unavailable", codec="em_webp_lossless")


def test_pictures_that_will_not_do(client: httpx.Client) -> None:
    put_buffer(client)
    (exemplar_id,) = push(client, [make_exemplar()])["exemplar_ids"]
    url = f"{URL}/{exemplar_id}/image.png"
    for bad in ({"scale": 0}, {"scale": 9}, {"dropped": "pink"}):
        assert_problem(client.get(url, params=bad), "invalid_request")
    assert_problem(client.get(f"{URL}/99/image.png"), "unknown_exemplar")
    # A grid of 255 x 255 patches of 255 px, one of them kept, is a small record and a picture of 4
    # gigapixels.
    keep_mask = np.zeros((255, 255), dtype=bool)
    keep_mask[0, 0] = True
    huge = make_record(class_id=0, patches=np.zeros((1, 255, 255, 3), np.uint8), keep_mask=keep_mask, codec=RawZstd())
    put_buffer(client, buffer="huge")
    (exemplar_id,) = push(client, [huge], buffer="huge")["exemplar_ids"]
    assert_problem(client.get(f"/v1/buffers/huge/exemplars/{exemplar_id}/image.png"), "invalid_query")


def test_pictures_are_drawn_a_few_at_a_time(data: Path) -> None:
    """As many at once as may be asked for are drawn, in the memory of two; the next is told to come again."""
    keep_mask = np.zeros((128, 128), dtype=bool)
    keep_mask[::16, ::16] = True
    patches = np.full((64, 32, 32, 3), 120, np.uint8)
    small = make_record(class_id=0, patches=patches, keep_mask=keep_mask, codec=RawZstd(), layout="mosaic")
    before, drawn = threading.Event(), threading.Semaphore(0)
    real = png.to_png

    def slow(*arguments: Any, **named: Any) -> bytes:
        drawn.release()
        assert before.wait(60)
        return real(*arguments, **named)

    with running(data, max_pictures=3, picture_threads=2) as client, pytest.MonkeyPatch.context() as patch:
        put_buffer(client)
        (exemplar_id,) = push(client, [small])["exemplar_ids"]
        patch.setattr("memory_service.http.routes.exemplars.to_png", slow)
        url = f"{URL}/{exemplar_id}/image.png"
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(client.get(url))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert drawn.acquire(timeout=30)
        assert drawn.acquire(timeout=30)
        wait_until(lambda: client.app.state.admission.pictures.taken == 3)  # type: ignore[attr-defined]
        assert_problem(client.get(url), "too_busy", limit=3)
        assert not drawn.acquire(blocking=False)
        # Others do not wait for them.
        assert client.get(f"{URL}/{exemplar_id}").status_code == 200
        before.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert client.get(url).status_code == 200


def test_a_picture_takes_its_own_memory_and_little_more() -> None:
    keep_mask = np.zeros((128, 128), dtype=bool)
    keep_mask[::16, ::16] = True
    patches = np.full((64, 32, 32, 3), 120, np.uint8)
    small = make_record(class_id=0, patches=patches, keep_mask=keep_mask, codec=RawZstd(), layout="mosaic")
    tracemalloc.start()
    try:
        png.to_png(small, dropped="transparent")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Beside Pillow's own 4096 x 4096 x 4 bytes, which are not traced.
    assert peak < 16 * 2**20
