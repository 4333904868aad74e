"""What a store's files say, read without the store: the index with sqlite3, segments with zipfile."""

from __future__ import annotations

import json
import sqlite3
import struct
import zipfile
import zlib
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from memory_format import HEADER_BYTES
from memory_format.header import HEADER_DTYPE

_BODY = "body/c/0"
_BODY_AT = 30 + len(_BODY)
"""Where bodies begin in an open segment: room is left for the ZIP's first header."""


@dataclass(frozen=True)
class StoredRecord:
    """One record of one segment, with what its header says."""

    exemplar_id: int
    class_id: int
    rank: int
    score: float
    phase: int
    learner_id: str
    crc32: int
    body: bytes

    @property
    def charge(self) -> int:
        return HEADER_BYTES + len(self.body)

    @property
    def is_whole(self) -> bool:
        return zlib.crc32(self.body) == self.crc32


@dataclass
class StoredBuffer:
    """One buffer as its rows and files have it."""

    row: dict[str, Any]
    live: dict[int, StoredRecord] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    """Ids of records that are in its segments and that it does not hold."""
    classes: set[int] = field(default_factory=set)
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    """Names of its segment files and their true sizes."""
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of each table that are the buffer's."""

    @property
    def bytes_used(self) -> int:
        return sum(record.charge for record in self.live.values())

    @property
    def file_bytes(self) -> int:
        return sum(self.files.values())


def read_store(data: Path, *, surplus: bool = False) -> dict[str, StoredBuffer]:
    """Every buffer of a store, which may be open.

    Args:
        surplus: open segments may have bytes behind those that count, as after a write that failed.

    Raises:
        AssertionError: rows and files contradict each other.
    """
    with closing(sqlite3.connect(f"file:{data / 'index.sqlite'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        segments = {row["id"]: _read_segment(data, connection, row, surplus) for row in _all(connection, "segments")}
        return {row["name"]: _read_buffer(connection, row, segments) for row in _all(connection, "buffers")}


def orphans(data: Path) -> set[str]:
    """Files that no row speaks of, and rows without a file."""
    with closing(sqlite3.connect(f"file:{data / 'index.sqlite'}?mode=ro", uri=True)) as connection:
        known = {
            stem + (".zarr.zip" if sealed else ".open")
            for stem, sealed in connection.execute("SELECT stem, sealed FROM segments")
        }
        unused = connection.execute(
            "SELECT stem FROM segments WHERE id NOT IN (SELECT segment_id FROM buffer_segments)"
        ).fetchall()
    return (known ^ {path.name for path in (data / "segments").iterdir()}) | {stem for (stem,) in unused}


def segment_bytes(data: Path) -> int:
    """True sizes of all segment files; some may go while this looks."""
    total = 0
    for path in (data / "segments").iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _all(connection: sqlite3.Connection, table: str, where: str = "") -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(f"SELECT * FROM {table} {where}")]


def _read_segment(
    data: Path, connection: sqlite3.Connection, row: dict[str, Any], surplus: bool
) -> tuple[str, int, list[StoredRecord]]:
    path = data / "segments" / (row["stem"] + (".zarr.zip" if row["sealed"] else ".open"))
    if surplus and not path.exists():
        path = path.with_name(row["stem"] + ".zarr.zip")
    size = path.stat().st_size
    more = size - row["file_bytes"]
    assert more == 0 or (surplus and not row["sealed"] and more > 0), f"{path.name}: {size} bytes, its row says {row}"
    if row["sealed"]:
        records = _sealed_records(path)
    else:
        chunks = _all(connection, "open_rows", f"WHERE segment_id = {row['id']} ORDER BY first")
        headers = np.frombuffer(b"".join(chunk["headers"] for chunk in chunks), HEADER_DTYPE)
        learners = [learner for chunk in chunks for learner in json.loads(chunk["learners"])]
        records = _records(headers, learners, path.read_bytes()[_BODY_AT : row["file_bytes"]])
    assert len(records) == row["num_records"]
    return path.name, size, records


# Sealed files never change, and a store's names are random.
@lru_cache(maxsize=512)
def _sealed_records(path: Path) -> list[StoredRecord]:
    with zipfile.ZipFile(path) as archive:
        group = json.loads(archive.read("zarr.json"))
        columns = {name: archive.read(f"{name}/c/0") for name in HEADER_DTYPE.names or ()}
        headers = np.zeros(len(columns["flags"]), HEADER_DTYPE)
        for name, column in columns.items():
            headers[name] = np.frombuffer(column, HEADER_DTYPE[name])
        return _records(headers, group["attributes"]["learners"], archive.read(_BODY))


def _records(headers: np.ndarray[Any, Any], learners: list[str], body: bytes) -> list[StoredRecord]:
    starts = [int(offset) for offset in headers["offset"]]
    return [
        StoredRecord(
            exemplar_id=int(header["exemplar_id"]),
            class_id=int(header["class_id"]),
            rank=int(header["rank"]),
            score=float(header["score"]),
            phase=int(header["phase"]),
            learner_id=learners[int(header["learner"])],
            crc32=int(header["crc32"]),
            body=body[start:end],
        )
        for header, start, end in zip(headers, starts, [*starts[1:], len(body)], strict=True)
    ]


def _read_buffer(
    connection: sqlite3.Connection, row: dict[str, Any], segments: dict[int, tuple[str, int, list[StoredRecord]]]
) -> StoredBuffer:
    mine = f"WHERE buffer_id = {row['id']}"
    found = StoredBuffer(row)
    dead = {(death["segment_id"], death["exemplar_id"]) for death in _all(connection, "deaths", mine)}
    for of in _all(connection, "buffer_segments", mine):
        segment_id = of["segment_id"]
        name, size, records = segments[segment_id]
        found.files[name] = size
        for record in records:
            if (segment_id, record.exemplar_id) in dead:
                dead.remove((segment_id, record.exemplar_id))
                found.dead.add(record.exemplar_id)
            else:
                assert record.exemplar_id not in found.live, f"exemplar {record.exemplar_id} is live twice"
                found.live[record.exemplar_id] = record
    assert not dead, f"deaths of records that are nowhere: {sorted(dead)}"
    _rescore(found, _all(connection, "scores", f"{mine} ORDER BY version"))
    revised = {row["stored_id"]: row["exemplar_id"] for row in _all(connection, "revisions", mine)}
    shown = {revised.get(id_, id_): record for id_, record in found.live.items()}
    assert len(shown) == len(found.live), "two records of one exemplar are live"
    found.live = shown
    found.classes = {entry["class_id"] for entry in _all(connection, "classes", mine)}
    found.snapshots = {entry["name"]: entry for entry in _all(connection, "snapshots", mine)}
    for table in ("buffer_segments", "deaths", "scores", "snapshots", "classes", "pushes"):
        found.counts[table] = connection.execute(f"SELECT COUNT(*) FROM {table} {mine}").fetchone()[0]
    return found


def _rescore(found: StoredBuffer, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        record = found.live.get(row["exemplar_id"])
        if record is not None:
            changed = vars(record) | {"score": row["score"], "rank": row["rank"]}
            found.live[row["exemplar_id"]] = StoredRecord(**changed)


def append_garbage(path: Path, garbage: bytes) -> None:
    """What a write that no transaction followed leaves behind."""
    with path.open("ab") as file:
        file.write(garbage)


def overwrite_first_header(path: Path) -> None:
    """What sealing that no transaction followed leaves at a segment's beginning."""
    with path.open("r+b") as file:
        file.write(struct.pack("<4s", b"PK\x03\x04"))


def leave_behind(data: Path, name: str, content: bytes) -> None:
    """A segment file that a crash has left: it was named before it was made, and no change was committed."""
    with closing(sqlite3.connect(data / "index.sqlite")) as connection, connection:
        connection.execute("INSERT INTO intents (stem, leaving) VALUES (?, 0)", [name.split(".")[0]])
    (data / "segments" / name).write_bytes(content)
