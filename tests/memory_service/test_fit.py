"""A buffer has patches of one size, token ids of one vocabulary, and payloads that can be decoded: what is not so is
refused at the push."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from memory_format import FormatError, Record, WebP, encode_batch, make_record, vocabulary_fingerprint
from memory_service.store import Store
from tests.memory_service.conftest import running
from tests.memory_service.helpers import (
    ARROW,
    all_records,
    assert_consistent,
    assert_problem,
    make_exemplar,
    put_buffer,
)

BERT, OWN = vocabulary_fingerprint(["[PAD]", "a"]), vocabulary_fingerprint(["a", "[PAD]"])
WORDLESS: dict[str, Any] = {"num_tokens": 0, "text_length": 0}


def of_size(patch_px: int, **fields: Any) -> Record:
    patches = np.zeros((2, patch_px, patch_px, 3), np.uint8)
    return make_record(class_id=0, patches=patches, keep_mask=np.array([[True, True, False]]), **fields)


def wordless(rank: int = 0) -> Record:
    return of_size(4, rank=rank)


def undecodable(rank: int) -> Record:
    """Its header is sound, what follows is not."""
    record = of_size(16, rank=rank, codec=WebP(quality=80))
    return replace(record, payload=record.payload[:10] + b"\xff" * 4)


def send(
    client: httpx.Client, records: list[Record], vocabulary: str | None = None, *, buffer: str = "b", **params: str
) -> httpx.Response:
    headers = ARROW if vocabulary is None else {**ARROW, "Exemplar-Memory-Vocabulary": vocabulary}
    url = f"/v1/buffers/{buffer}/exemplars"
    return client.post(url, content=encode_batch(records), headers=headers, params=params)


def info_of(client: httpx.Client, buffer: str = "b") -> tuple[int | None, str | None]:
    info = client.get(f"/v1/buffers/{buffer}").json()
    return info["patch_px"], info["vocabulary"]


# Patch size


def test_the_first_push_fixes_the_patch_size(client: httpx.Client, data: Path) -> None:
    assert put_buffer(client)["patch_px"] is None
    assert send(client, [make_exemplar(0, 0)], dry_run="true").status_code == 200
    assert info_of(client)[0] is None
    assert send(client, [make_exemplar(0, 0)]).status_code == 200
    assert info_of(client)[0] == 4
    refused = assert_problem(send(client, [of_size(8)]), "patch_size_mismatch", expected=4, found=8)
    assert "patches of 4 px" in refused["detail"]
    assert "are of 8 px" in refused["detail"]
    assert_problem(send(client, [of_size(8)], dry_run="true"), "patch_size_mismatch")
    assert assert_consistent(client, data)["num_records"] == 1


def test_a_put_fixes_the_patch_size(client: httpx.Client) -> None:
    assert put_buffer(client, patch_px=8)["patch_px"] == 8
    assert_problem(send(client, [make_exemplar()]), "patch_size_mismatch", expected=8, found=4)
    assert send(client, [of_size(8)]).status_code == 200


def test_one_batch_of_two_sizes_is_refused_whole(client: httpx.Client) -> None:
    put_buffer(client)
    assert_problem(send(client, [make_exemplar(), of_size(8)]), "patch_size_mismatch", expected=4, found=8)
    assert info_of(client) == (None, None)
    assert all_records(client) == []


def test_a_push_of_which_nothing_is_kept_fixes_nothing(client: httpx.Client) -> None:
    put_buffer(client, 1, disk_limit_bytes=10**6)
    assert_problem(send(client, [make_exemplar()], BERT), "record_exceeds_budget")
    assert info_of(client) == (None, None)


def test_a_buffer_that_exists_has_the_size_that_its_records_have(client: httpx.Client) -> None:
    put_buffer(client)
    send(client, [make_exemplar()])
    asked = {"budget_bytes": 10**6}
    assert client.put("/v1/buffers/b", json=asked).status_code == 200
    assert client.put("/v1/buffers/b", json={**asked, "patch_px": 4}).status_code == 200
    assert_problem(client.put("/v1/buffers/b", json={**asked, "patch_px": 8}), "buffer_exists")
    assert_problem(client.patch("/v1/buffers/b", json={"patch_px": 8}), "patch_size_mismatch", expected=4, found=8)
    # What a snapshot shows counts as what is held.
    client.put("/v1/buffers/b/snapshots/s")
    client.delete("/v1/buffers/b/exemplars/1")
    assert_problem(client.patch("/v1/buffers/b", json={"patch_px": 8}), "patch_size_mismatch")
    client.delete("/v1/buffers/b/snapshots/s")
    assert client.patch("/v1/buffers/b", json={"patch_px": 8}).json()["patch_px"] == 8
    assert send(client, [of_size(8)]).status_code == 200


def test_the_first_record_speaks_for_a_buffer_of_an_earlier_version(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        send(client, [make_exemplar()])
    with closing(sqlite3.connect(data / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE buffers SET patch_px = NULL")
    with running(data) as client:
        assert info_of(client)[0] is None
        assert_problem(send(client, [of_size(8)]), "patch_size_mismatch", expected=4, found=8)
        assert send(client, [make_exemplar(1, 1)]).status_code == 200
        assert info_of(client)[0] == 4


# Vocabulary


def test_the_first_push_that_states_one_fixes_the_vocabulary(client: httpx.Client, data: Path) -> None:
    put_buffer(client)
    assert send(client, [wordless()]).status_code == 200
    assert info_of(client)[1] is None
    assert send(client, [make_exemplar()], BERT).status_code == 200
    assert info_of(client)[1] == BERT
    refused = assert_problem(send(client, [make_exemplar(1, 1)], OWN), "vocabulary_mismatch", expected=BERT, found=OWN)
    assert BERT in refused["detail"]
    assert OWN in refused["detail"]
    assert_problem(send(client, [make_exemplar(1, 1)]), "vocabulary_mismatch", expected=BERT)
    # Of records without texts nothing need be said.
    assert send(client, [wordless(1)]).status_code == 200
    assert assert_consistent(client, data)["num_records"] == 3


def test_texts_of_a_vocabulary_that_nobody_named_are_named_by_patch(client: httpx.Client) -> None:
    put_buffer(client)
    assert send(client, [make_exemplar()]).status_code == 200
    assert_problem(send(client, [make_exemplar(1, 1)], BERT), "vocabulary_mismatch", expected=None, found=BERT)
    assert client.patch("/v1/buffers/b", json={"vocabulary": BERT}).json()["vocabulary"] == BERT
    assert send(client, [make_exemplar(1, 1)], BERT).status_code == 200
    for other in (OWN, None):
        assert_problem(client.patch("/v1/buffers/b", json={"vocabulary": other}), "vocabulary_mismatch", expected=BERT)
    assert info_of(client) == (4, BERT)


@pytest.mark.parametrize("stated", ["", "bert", BERT.upper(), BERT + "0"])
def test_what_is_no_fingerprint_is_refused(client: httpx.Client, stated: str) -> None:
    put_buffer(client)
    assert_problem(send(client, [make_exemplar()], stated), "invalid_request")
    assert_problem(client.patch("/v1/buffers/b", json={"vocabulary": stated}), "invalid_request")


def test_a_fingerprint_is_of_words_and_their_order() -> None:
    assert vocabulary_fingerprint(iter(["[PAD]", "a"])) == BERT != OWN
    assert vocabulary_fingerprint(["a,b"]) != vocabulary_fingerprint(["a", "b"])
    for words in ("text", [1]):
        with pytest.raises(FormatError, match="list of words"):
            vocabulary_fingerprint(words)  # type: ignore[arg-type]


# Whole buffers


def test_both_go_along_to_forks_exports_and_restarts(data: Path) -> None:
    with running(data) as client:
        put_buffer(client)
        send(client, [make_exemplar()], BERT)
        assert client.post("/v1/buffers/b/forks", json={"name": "forked"}).status_code == 201
        exported = client.get("/v1/buffers/b/export").content
        headers = {"Content-Type": "application/zip"}
        assert client.post("/v1/buffers/imported/import", content=exported, headers=headers).status_code < 300
    with running(data) as client:
        for buffer in ("b", "forked", "imported"):
            assert info_of(client, buffer) == (4, BERT)
            assert_problem(send(client, [make_exemplar()], OWN, buffer=buffer), "vocabulary_mismatch")


# Payloads


@pytest.mark.parametrize("place", [0, 3])
def test_a_payload_that_cannot_be_decoded_refuses_the_push(client: httpx.Client, data: Path, place: int) -> None:
    put_buffer(client)
    records = [of_size(16, rank=rank) for rank in range(4)]
    records[place] = undecodable(place)
    refused = assert_problem(send(client, records), "invalid_payload", index=place)
    assert refused["detail"].startswith(f"record {place}: ")
    assert assert_consistent(client, data)["num_records"] == 0


def test_who_is_trusted_pushes_what_cannot_be_decoded_and_an_import_is_looked_at(tmp_path: Path) -> None:
    with running(tmp_path / "trusting", decode_payloads=False) as client:
        put_buffer(client)
        assert send(client, [undecodable(0)]).status_code == 200
        exported = client.get("/v1/buffers/b/export").content
    headers = {"Content-Type": "application/zip"}
    with running(tmp_path / "store") as client:
        answer = client.post("/v1/buffers/b/import", content=exported, headers=headers)
        assert_problem(answer, "invalid_payload", index=0)
        assert client.get("/v1/buffers").json()["buffers"] == []
    assert list((tmp_path / "store" / "segments").iterdir()) == []
    Store(tmp_path / "store").close()
