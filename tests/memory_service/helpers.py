"""What the service's tests make, send and look at."""

from __future__ import annotations

import hashlib
import os
import re
import selectors
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
from memory_service.problems import PROBLEMS

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
        # The class and the rank in the tokens: so that a test sees whose text a record carries.
        token_ids=np.array([class_id, rank, *range(100, 98 + num_tokens)])[:num_tokens],
        token_positions=positions,
        text_length=10,
        **{
            "score": float(rng.uniform(-1, 1)),
            "user_json": {"pad": "x" * pad} if pad else None,
            **fields,
        },
    )


def push(client: httpx.Client, records: Sequence[Record], *, buffer: str = "b", key: str | None = None) -> Any:
    """Push and expect success; the answer's JSON."""
    headers = ARROW if key is None else {**ARROW, "Idempotency-Key": key}
    response = client.post(f"/v1/buffers/{buffer}/exemplars", content=encode_batch(records), headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def put_buffer(client: httpx.Client, budget_bytes: int = 10**6, *, buffer: str = "b", **settings: Any) -> None:
    response = client.put(f"/v1/buffers/{buffer}", json={"budget_bytes": budget_bytes, **settings})
    assert response.status_code == 201, response.text


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
    assert "Traceback" not in response.text
    for name, value in members.items():
        assert document[name] == value, document
    return document


def segment_records(data: Path) -> dict[int, tuple[str, int]]:
    """Exemplar id -> (file, bytes that the file holds for it), of every segment in a store with one
    buffer."""
    found: dict[int, tuple[str, int]] = {}
    for path in sorted((data / "segments").iterdir()):
        assert path.name.endswith(".zarr.zip"), path
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store = ZipStore(path, mode="r")
            group = zarr.open(store, mode="r")
            assert isinstance(group, zarr.Group)
            ids = np.asarray(group["exemplar_id"][:])
            ends = np.append(np.asarray(group["offset"][1:]), group["body"].shape[0])
            lengths = ends.astype(np.int64) - np.asarray(group["offset"][:]).astype(np.int64)
            store.close()
        for exemplar_id, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            assert exemplar_id not in found, f"exemplar {exemplar_id} is in two segments"
            found[exemplar_id] = (path.name, HEADER_BYTES + length)
    return found


def assert_consistent(client: httpx.Client, data: Path, *, buffer: str = "b") -> dict[str, Any]:
    """What the service says is what its files hold; returns the stats."""
    stats: dict[str, Any] = client.get(f"/v1/buffers/{buffer}/stats").json()
    records = all_records(client, buffer=buffer)
    on_disk = segment_records(data)
    assert stats["bytes_used"] <= stats["budget_bytes"]
    assert stats["bytes_used"] == sum(on_disk[record.exemplar_id][1] for record in records)
    assert stats["bytes_used"] == sum(record.charge for record in records)
    assert stats["bytes_used"] == sum(entry["bytes"] for entry in stats["classes"])
    assert stats["bytes_free"] == stats["budget_bytes"] - stats["bytes_used"]
    assert stats["num_records"] == len(records) == sum(entry["count"] for entry in stats["classes"])
    files = list((data / "segments").iterdir())
    assert stats["segments"] == len(files)
    assert stats["disk_bytes"] == sum(path.stat().st_size for path in files)
    assert stats["dead_bytes"] == stats["disk_bytes"] - stats["bytes_used"]
    with sqlite3.connect(data / "index.sqlite") as connection:
        row = connection.execute(
            "SELECT bytes_used, num_records, version FROM buffers WHERE name = ?", [buffer]
        ).fetchone()
        assert row == (stats["bytes_used"], stats["num_records"], stats["version"])
        charges = connection.execute(
            "SELECT COALESCE(SUM(charge), 0) FROM records JOIN buffers ON buffer_id = id WHERE name = ?",
            [buffer],
        ).fetchone()
        assert charges == (stats["bytes_used"],)
    connection.close()
    # Each file named in the index holds something live.
    assert {on_disk[record.exemplar_id][0] for record in records} == {path.name for path in files}
    return stats


def whole_state(data: Path) -> dict[str, Any]:
    """Everything in a store, to compare: every row, and a digest of every file."""
    connection = sqlite3.connect(data / "index.sqlite")
    tables = ("meta", "buffers", "segments", "records", "pushes")
    state: dict[str, Any] = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    connection.close()
    for path in sorted((data / "segments").iterdir()):
        state[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return state


def contents(records: Iterable[Record]) -> list[tuple[int, int, bytes]]:
    """What tells records apart, their bytes included."""
    return [(record.exemplar_id, record.class_id, record.body) for record in records]


class Server:
    """A real service process on a free port."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "memory_service", "serve"),
                *("--data", str(data), "--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout=30):
                self.process.kill()
                raise AssertionError("the service did not start in 30 s")
        line = self.process.stdout.readline()
        match = re.fullmatch(r"memory-service listening on (http://\S+) \(data: (.*)\)\n", line)
        if match is None:
            raise AssertionError(f"unexpected first line {line!r}; {self.process.communicate()}")
        self.url = match.group(1)
        assert match.group(2) == str(data)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit status, the rest of stdout, stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
