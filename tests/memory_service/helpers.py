"""What the service's tests make, send and look at."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sqlite3
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import httpx
import numpy as np
import zarr
from zarr.storage import ZipStore

from memory_format import (
    HEADER_BYTES,
    MEDIA_TYPE,
    RawZstd,
    Record,
    WebP,
    decode_batch,
    encode_batch,
    make_record,
)
from memory_format.header import HEADER_DTYPE
from memory_service.cli import main
from memory_service.http.app import create_app
from memory_service.http.errors import PROBLEMS
from memory_service.settings import Settings
from memory_service.store import Buffer, Store
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.pure import ledger
from memory_service.store.pure.words import Words
from memory_service.testing import ServiceProcess

ARROW = {"Content-Type": MEDIA_TYPE}


def make_exemplar(
    class_id: int = 0,
    rank: int = 0,
    *,
    seed: int | None = None,
    kept: int = 3,
    pad: int = 0,
    num_tokens: int = 4,
    codec: str = "raw",
    **fields: Any,
) -> Record:
    """A small record, its content following from ``seed``; ``pad`` adds that many bytes and a little to
    it."""
    rng = np.random.default_rng(rank * 1009 + class_id if seed is None else seed)
    keep_mask = np.zeros((3, 4), dtype=bool)
    keep_mask.flat[rng.choice(12, kept, replace=False)] = True
    positions = np.sort(rng.choice(10, num_tokens, replace=False))
    return make_record(
        class_id=class_id,
        rank=rank,
        patches=rng.integers(0, 256, (kept, 4, 4, 3), dtype=np.uint8),
        keep_mask=keep_mask,
        codec=RawZstd() if codec == "raw" else WebP(),
        token_positions=positions,
        text_length=10,
        **{
            # The class and the rank in the tokens: so that a test sees whose text a record carries.
            "token_ids": np.array([class_id, rank, *range(100, 98 + num_tokens)])[:num_tokens],
            "score": float(rng.uniform(-1, 1)),
            # Tests count on its size.
            "layout": "mosaic" if codec == "raw" else "in_place",
            "user_json": {"pad": "x" * pad} if pad else None,
            **fields,
        },
    )


def sql_of(owner: Store | Buffer) -> SqliteIndex:
    """The index of an open store, of which tests know that it is SQLite."""
    assert isinstance(owner._index, SqliteIndex)
    return owner._index


def push(client: httpx.Client, records: Sequence[Record], *, buffer: str = "b", key: str | None = None) -> Any:
    """Push and expect success; the answer's JSON."""
    headers = ARROW if key is None else {**ARROW, "Idempotency-Key": key}
    response = client.post(f"/v1/buffers/{buffer}/exemplars", content=encode_batch(records), headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def put_buffer(
    client: httpx.Client, budget_bytes: int | None = 10**6, *, buffer: str = "b", **settings: Any
) -> dict[str, Any]:
    """Make a new buffer; what the service says of it. ``budget_bytes=None`` where settings give the budget."""
    budget = {} if budget_bytes is None else {"budget_bytes": budget_bytes}
    response = client.put(f"/v1/buffers/{buffer}", json={**budget, **settings})
    assert response.status_code == 201, response.text
    info: dict[str, Any] = response.json()
    return info


def stats_of(client: httpx.Client, *, buffer: str = "b") -> dict[str, Any]:
    stats: dict[str, Any] = client.get(f"/v1/buffers/{buffer}/stats").json()
    return stats


def sample(client: httpx.Client, *, buffer: str = "b", **wanted: Any) -> list[Record]:
    response = client.post(f"/v1/buffers/{buffer}/sample", json=wanted)
    assert response.status_code == 200, response.text
    return decode_batch(response.content)


def all_records(client: httpx.Client, *, buffer: str = "b", **params: Any) -> list[Record]:
    """Every record that matches, page by page."""
    records: list[Record] = []
    cursor: dict[str, str] = {}
    while True:
        response = client.get(
            f"/v1/buffers/{buffer}/exemplars",
            params={"limit": 1000, **params, **cursor},
            headers={"Accept": MEDIA_TYPE},
        )
        assert response.status_code == 200, response.text
        records += decode_batch(response.content)
        if "Exemplar-Memory-Next-Cursor" not in response.headers:
            return records
        cursor = {"cursor": response.headers["Exemplar-Memory-Next-Cursor"]}


def assert_problem(response: httpx.Response, code: str, *, status: int | None = None, **members: Any) -> dict[str, Any]:
    """The one check of an error's body: a problem document with this code, and words."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert isinstance(document, dict)
    assert document["code"] == code, document
    expected_status, title = PROBLEMS[code]  # type: ignore[index]
    assert document["status"] == response.status_code == (expected_status if status is None else status), document
    assert document["title"] == title
    assert document["type"] == f"urn:exemplar-memory:problem:{code}"
    assert len(document["detail"]) >= 10
    assert_documented(response, code)
    assert "Traceback" not in response.text
    for name, value in members.items():
        assert document[name] == value, document
    return document


@cache
def _operations() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    paths = create_app(Settings(data=Path("unused"))).openapi()["paths"]
    return [
        (method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]


def assert_documented(response: httpx.Response, code: str) -> None:
    """The OpenAPI document says that this route may answer this, with this status."""
    # What a test read from a socket of its own does not know what it answers.
    if code == "unknown_route" or response._request is None:
        return
    method, path = response.request.method, response.request.url.path
    for known, pattern, operation in _operations():
        if known == method and pattern.fullmatch(path):
            content = operation["responses"][str(response.status_code)]["content"]
            assert code in content["application/problem+json"]["examples"], f"{method} {path}: {code}"


def segment_records(data: Path, buffer: str | None = None) -> dict[int, tuple[str, int]]:
    """Exemplar id -> (file, bytes that it and the index hold for it), of every segment of a buffer, or of a store
    that has one buffer. What the records' headers and bodies say is read without the store's code."""
    found: dict[int, tuple[str, int]] = {}
    with reading(data) as index:
        for segment_id, stem, sealed, file_bytes, num_records in segment_rows(index, buffer):
            if sealed:
                path = data / "segments" / f"{stem}.zarr.zip"
                headers, bodies = _sealed_records(path)
            else:
                path = data / "segments" / f"{stem}.open"
                headers, bodies = _open_records(index, segment_id, path.read_bytes()[:file_bytes])
            assert path.stat().st_size == file_bytes, path
            assert len(headers) == num_records, path
            for header, body in zip(headers, bodies, strict=True):
                exemplar_id = int(header["exemplar_id"])
                assert exemplar_id not in found, f"exemplar {exemplar_id} is in two segments"
                assert zlib.crc32(body) == header["crc32"], f"exemplar {exemplar_id} is damaged"
                found[exemplar_id] = (path.name, HEADER_BYTES + len(body))
    return found


@contextmanager
def reading(data: Path) -> Iterator[sqlite3.Connection]:
    """The index, beside a service that may be running."""
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        yield connection


def segment_rows(index: sqlite3.Connection, buffer: str | None) -> list[tuple[int, str, bool, int, int]]:
    """Id, stem, sealed, bytes and records of every segment of a buffer, None: of all."""
    return index.execute(
        "SELECT DISTINCT s.id, stem, sealed, file_bytes, s.num_records FROM segments s "
        "JOIN buffer_segments ON segment_id = s.id JOIN buffers b ON b.id = buffer_id WHERE ? IN (b.name, '')",
        [buffer or ""],
    ).fetchall()


def _sealed_records(path: Path) -> tuple[np.ndarray, list[bytes]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = ZipStore(path, mode="r")
        group = zarr.open(store, mode="r")
        assert isinstance(group, zarr.Group)
        arrays = dict(group.arrays())
        headers = np.zeros(arrays["exemplar_id"].shape, HEADER_DTYPE)
        for name in HEADER_DTYPE.names or ():
            headers[name] = arrays[name][:]
        body = np.asarray(arrays["body"][:]).tobytes()
        store.close()
    return headers, _cut(body, headers["offset"])


def _open_records(index: sqlite3.Connection, segment_id: int, content: bytes) -> tuple[np.ndarray, list[bytes]]:
    """Headers from the index, bodies behind 38 bytes that are left for the ZIP's first header."""
    chunks = index.execute("SELECT first, headers FROM open_rows WHERE segment_id = ? ORDER BY first", [segment_id])
    headers = np.zeros(0, HEADER_DTYPE)
    for first, chunk in chunks:
        assert first == len(headers)
        headers = np.concatenate([headers, np.frombuffer(chunk, HEADER_DTYPE)])
    assert content[:38] == bytes(38)
    return headers, _cut(content[38:], headers["offset"])


def _cut(body: bytes, offsets: np.ndarray) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([*offsets.tolist(), len(body)])]


def pinned_records(data: Path, buffer: str = "b") -> set[int]:
    """Ids of records that the buffer no longer holds and a snapshot still shows."""
    with reading(data) as index:
        rows = index.execute(
            "SELECT DISTINCT exemplar_id FROM deaths d JOIN buffers b ON b.id = d.buffer_id "
            "JOIN snapshots s ON s.buffer_id = b.id WHERE b.name = ? "
            "AND exemplar_id < s.next_exemplar_id AND d.version > s.version",
            [buffer],
        )
        return {exemplar_id for (exemplar_id,) in rows}


def live_records(data: Path, on_disk: set[int], buffer: str = "b") -> dict[int, int]:
    """Exemplar id -> the id under which its record is stored, of records that have not died."""
    with reading(data) as index:
        shown = dict(index.execute(f"SELECT stored_id, exemplar_id FROM revisions WHERE {_MINE}", [buffer]).fetchall())
        dead = {id_ for (id_,) in index.execute(f"SELECT exemplar_id FROM deaths WHERE {_MINE}", [buffer])}
    return {shown.get(id_, id_): id_ for id_ in on_disk - dead}


def assert_consistent(client: httpx.Client, data: Path, *, buffer: str = "b") -> dict[str, Any]:
    """What the service says is what its files and its index hold; returns the stats."""
    stats: dict[str, Any] = client.get(f"/v1/buffers/{buffer}/stats").json()
    records = all_records(client, buffer=buffer)
    on_disk = segment_records(data, buffer)
    assert stats["bytes_used"] <= stats["budget_bytes"]
    stored = live_records(data, set(on_disk), buffer)
    assert stats["bytes_used"] == sum(on_disk[stored[record.exemplar_id]][1] for record in records)
    assert stats["bytes_used"] == sum(record.charge for record in records)
    assert stats["bytes_used"] == sum(entry["bytes"] for entry in stats["classes"])
    assert stats["bytes_free"] == stats["budget_bytes"] - stats["bytes_used"]
    assert stats["num_records"] == len(records) == sum(entry["count"] for entry in stats["classes"])
    live, pinned = {stored[record.exemplar_id] for record in records}, pinned_records(data, buffer)
    assert stats["pinned_bytes"] == sum(on_disk[exemplar_id][1] for exemplar_id in pinned)
    assert not live & pinned
    with reading(data) as index:
        _assert_index_agrees(index, stats, buffer, set(on_disk) - live)
        _assert_disk_adds_up(index, stats, buffer, data)
        all_stems = {stem for _, stem, *_ in segment_rows(index, None)}
        stems = {stem for _, stem, *_ in segment_rows(index, buffer)}
    # No file that no row speaks of, and none without a record that somebody can read.
    assert {path.name.split(".")[0] for path in (data / "segments").iterdir()} == all_stems
    assert {on_disk[exemplar_id][0].split(".")[0] for exemplar_id in live | pinned} == stems
    return stats


def _assert_index_agrees(index: sqlite3.Connection, stats: dict[str, Any], buffer: str, dead: set[int]) -> None:
    row = index.execute("SELECT bytes_used, num_records, version FROM buffers WHERE name = ?", [buffer]).fetchone()
    assert row == (stats["bytes_used"], stats["num_records"], stats["version"])
    noted = index.execute(
        "SELECT exemplar_id FROM deaths d JOIN buffers b ON b.id = d.buffer_id WHERE b.name = ?", [buffer]
    )
    assert {exemplar_id for (exemplar_id,) in noted} == dead


def _assert_disk_adds_up(index: sqlite3.Connection, stats: dict[str, Any], buffer: str, data: Path) -> None:
    """The figures of the disk, from the files and by counting rows."""

    def of_buffer(table: str) -> int:
        statement = f"SELECT COUNT(*) FROM {table} t JOIN buffers b ON b.id = t.buffer_id WHERE b.name = ?"
        return int(index.execute(statement, [buffer]).fetchone()[0])

    segments = segment_rows(index, buffer)
    files = sum(next((data / "segments").glob(f"{stem}.*")).stat().st_size for _, stem, *_ in segments)
    open_ids = [segment_id for segment_id, _, sealed, *_ in segments if not sealed]
    headers = 0
    for segment_id in open_ids:
        rows = index.execute("SELECT headers, learners FROM open_rows WHERE segment_id = ?", [segment_id])
        headers += sum(ledger.open_row_bytes(len(row) // HEADER_BYTES, json.loads(new)) for row, new in rows)
    answers = index.execute(
        "SELECT LENGTH(learner_id) + LENGTH(idempotency_key), LENGTH(answer) FROM pushes p "
        "JOIN buffers b ON b.id = p.buffer_id WHERE b.name = ?",
        [buffer],
    )
    counted = ledger.IndexRows(
        scores=of_buffer("scores"),
        revisions=of_buffer("revisions"),
        snapshots=of_buffer("snapshots"),
        classes=of_buffer("classes"),
        phases=of_buffer("phases"),
        answers=of_buffer("pushes"),
        name_bytes=ledger.all_name_bytes(
            name for (name,) in index.execute(f"SELECT name FROM class_names WHERE {_MINE}", [buffer])
        ),
        words_bytes=sum(
            ledger.words_bytes(Words(words))
            for (words,) in index.execute(f"SELECT words FROM vocabularies WHERE {_MINE}", [buffer])
        ),
        answer_bytes=sum(ledger.answer_bytes(key, answer) for key, answer in answers),
        description_bytes=index.execute(
            "SELECT LENGTH(CAST(description AS BLOB)) FROM buffers WHERE name = ?", [buffer]
        ).fetchone()[0],
    )
    index_bytes = counted.num_bytes(segments=len(segments), dead=of_buffer("deaths")) + headers
    assert stats["index_bytes"] == index_bytes
    assert stats["disk_bytes"] == files + index_bytes
    assert stats["disk_bytes"] <= stats["disk_limit_bytes"]
    assert stats["dead_bytes"] == files + headers - stats["bytes_used"] - stats["pinned_bytes"]
    assert (stats["segments"], stats["open_segments"]) == (len(segments), len(open_ids))
    assert stats["snapshots"] == of_buffer("snapshots")
    assert stats["num_classes_seen"] == of_buffer("classes")
    assert stats["orphans"] == 0


_MINE = "buffer_id = (SELECT id FROM buffers WHERE name = ?)"


def whole_state(data: Path) -> dict[str, Any]:
    """Everything in a store, to compare: every row, and a digest of every file."""
    with reading(data) as index:
        names = index.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        tables = sorted(name for (name,) in names)
        state: dict[str, Any] = {name: index.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    for path in sorted((data / "segments").iterdir()):
        state[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return state


def contents(records: Iterable[Record]) -> list[tuple[int, int, bytes]]:
    """What tells records apart, their bytes included."""
    return [(record.exemplar_id, record.class_id, record.body) for record in records]


def command(*arguments: str) -> tuple[int, str, str]:
    """Run ``memory-service``, in this process: its exit status, and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_SERVICE")}
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.dict(os.environ, environment, clear=True),
        # Verify makes way for others: this process is not only its own.
        mock.patch("os.nice"),
    ):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


class Server(ServiceProcess):
    """A real service process on a free port, to which every warning is an error."""

    def __init__(self, data: Path, *arguments: str) -> None:
        super().__init__(data, *arguments, environment={"PYTHONWARNINGS": "error"})

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


def address_of(path: str, **instead: str) -> str:
    """An address of a path of the OpenAPI document: of a buffer ``b``, unless told otherwise."""
    given = {"exemplar_id": "1", "snapshot": "s", "key_id": "em_00000000"} | instead
    return re.sub(r"\{(\w+)\}", lambda found: quote(given.get(found[1], "b"), safe="", errors="surrogatepass"), path)


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
