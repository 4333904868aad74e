"""The words of a buffer's vocabulary: told once, agreed on by fingerprint, and shown in the place of token ids."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from memory_format import BudgetError, encode_batch, vocabulary_fingerprint
from memory_format.api.terms import VOCABULARY_HEADER
from memory_service.store import Store
from tests.memory_service.conftest import running
from tests.memory_service.helpers import ARROW, assert_consistent, assert_problem, make_exemplar, put_buffer

WORDS = [f"word{number}" for number in range(3000)]
FINGERPRINT = vocabulary_fingerprint(WORDS)
HTML = {"Accept": "text/html"}


def tell(client: httpx.Client, words: list[Any], buffer: str = "b") -> httpx.Response:
    return client.put(f"/v1/buffers/{buffer}/vocabulary", json={"words": words})


def told(client: httpx.Client, buffer: str = "b") -> Any:
    return client.get(f"/v1/buffers/{buffer}/vocabulary").json()


def push_texts(client: httpx.Client, vocabulary: str | None = FINGERPRINT, buffer: str = "b") -> httpx.Response:
    headers = ARROW | ({} if vocabulary is None else {VOCABULARY_HEADER: vocabulary})
    return client.post(f"/v1/buffers/{buffer}/exemplars", content=encode_batch([make_exemplar()]), headers=headers)


def test_words_are_told_once_and_by_whoever_has_the_same(client: httpx.Client, data: Path) -> None:
    put_buffer(client, vocabulary_name="mine")
    assert_problem(client.get("/v1/buffers/b/vocabulary"), "unknown_vocabulary")
    answer = tell(client, WORDS)
    assert (answer.status_code, answer.json()["vocabulary"]) == (201, FINGERPRINT)
    assert told(client) == {"fingerprint": FINGERPRINT, "name": "mine", "words": WORDS}
    assert tell(client, WORDS).status_code == 200
    assert_problem(tell(client, WORDS[:-1]), "vocabulary_mismatch", expected=FINGERPRINT)
    assert told(client)["words"] == WORDS
    # What is pushed is of that vocabulary from now on.
    assert_problem(push_texts(client, "0" * 32), "vocabulary_mismatch")
    assert push_texts(client).status_code == 200
    assert_consistent(client, data)


def test_words_of_texts_that_nobody_named_are_refused(client: httpx.Client) -> None:
    put_buffer(client)
    push_texts(client, None)
    assert_problem(tell(client, WORDS), "vocabulary_mismatch")
    # Who knows says so first.
    assert client.patch("/v1/buffers/b", json={"vocabulary": FINGERPRINT}).status_code == 200
    assert tell(client, WORDS).status_code == 201


def test_another_vocabulary_has_other_words(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    tell(client, WORDS)
    assert client.patch("/v1/buffers/b", json={"vocabulary": vocabulary_fingerprint(["a"])}).status_code == 200
    assert_problem(client.get("/v1/buffers/b/vocabulary"), "unknown_vocabulary")
    assert tell(client, ["a"]).status_code == 201
    assert told(client)["words"] == ["a"]
    assert_consistent(client, data)


@pytest.mark.parametrize("words", [[], [1], ["x" * 257], ["nul\0"], "text", None])
def test_what_are_no_words_is_refused(client: httpx.Client, words: Any) -> None:
    put_buffer(client)
    assert_problem(tell(client, words), "invalid_request")
    assert_problem(client.get("/v1/buffers/b/vocabulary"), "unknown_vocabulary")


def test_words_go_along_and_end_with_their_buffer(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        tell(client, WORDS)
        push_texts(client)
        assert client.post("/v1/buffers/b/forks", json={"name": "forked"}).status_code == 201
        exported = client.get("/v1/buffers/b/export").content
        zipped = {"Content-Type": "application/zip"}
        assert client.post("/v1/buffers/imported/import", content=exported, headers=zipped).status_code == 201
        forged = client.post("/v1/buffers/forged/import", content=_with_other_words(exported), headers=zipped)
        assert "words: they are of another vocabulary" in assert_problem(forged, "invalid_export")["detail"]
    with running(data) as client:
        for buffer in ("b", "forked", "imported"):
            assert told(client, buffer)["words"] == WORDS
            assert_consistent(client, data, buffer=buffer)
            assert client.delete(f"/v1/buffers/{buffer}").status_code == 204
    with closing(sqlite3.connect(data / "index.sqlite")) as index:
        assert index.execute("SELECT * FROM vocabularies").fetchall() == []


def _with_other_words(exported: bytes) -> bytes:
    """The same file, stored, in which one word is another."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(exported)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if b'"words"' in content:
                document = json.loads(content)
                document["attributes"]["exemplar_memory_buffer"]["words"][5] = "other"
                content = json.dumps(document).encode()
            new.writestr(entry.filename, content)
    return out.getvalue()


def test_words_count_towards_the_disk_limit(data: Path) -> None:
    with Store(data) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=1000, disk_limit_bytes=200_000)
        with pytest.raises(BudgetError) as refused:
            buffer.say_words([f"{number * 7919**5 % 10**9:x}" for number in range(60_000)])
        assert refused.value.code == "disk_limit_exceeded"
        assert (buffer.state.words, buffer.config.vocabulary) == (None, None)
        before = buffer.stats().disk_bytes
        assert buffer.say_words(WORDS)
        assert buffer.stats().disk_bytes - before > 5_000


def test_pages_show_words_where_they_are_known(client: httpx.Client) -> None:
    put_buffer(client)
    record = make_exemplar()
    push_texts(client)
    ids = [str(token) for token in record.token_ids.tolist()]
    assert ids
    client.put("/v1/buffers/b/snapshots/s")
    pages = ("gallery", "gallery?snapshot=s", "exemplars/1", "exemplars/1?snapshot=s")
    for known in (False, True):
        if known:
            tell(client, WORDS)
        for page in pages:
            text = client.get(f"/buffers/b/{page}", headers=HTML).text
            assert ("Numbers are token ids" in text or "ids of kept tokens" in text) == (not known)
            assert all((f"word{token}" in text) == known for token in ids), page
    # A token that the vocabulary does not have is a number still.
    short = WORDS[: min(record.token_ids.tolist())]
    put_buffer(client, buffer="c")
    tell(client, short or ["x"], "c")
    push_texts(client, vocabulary_fingerprint(short or ["x"]), "c")
    assert f">{ids[-1]}<" in client.get("/buffers/c/gallery", headers=HTML).text.replace("\n", "")
