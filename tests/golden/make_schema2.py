"""Made tests/golden/schema2, schema2-expected.json and the pushes beside them: ``python -m tests.golden.make_schema2``.

Never run it again for a schema that was released: what it would make then is a store of another version.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from memory_format import Record, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from tests.memory_service.helpers import make_exemplar

HERE = Path(__file__).parent
DATA = HERE / "schema2"


def batch(first: int, count: int, **fields: Any) -> bytes:
    records = [
        make_exemplar(i % 3, i, seed=i, pad=40 * (i % 4), codec=("raw", "webp")[i % 2], **fields)
        for i in range(first, first + count)
    ]
    return encode_batch(records)


def make(data: Path) -> None:
    with Store(data) as store:
        store.create_buffer("kept", budget_bytes=6000, description="a store of schema 2", retain_snapshots=3)
        store.create_buffer("empty", budget_bytes=10, eviction="reservoir")
        store.buffer("kept").push(batch(0, 14, learner_id="learner-0"), idempotency_key="first")
        store.buffer("kept").take_snapshot("one")
    # Sealed when the store was closed; what follows stays open.
    store = Store(data)
    kept = store.buffer("kept")
    kept.update([1, 2, 3], scores=[0.5, -0.5, 0.25], ranks=[9, 0, 4])
    kept.push(batch(20, 8, learner_id="learner-1", phase=1), idempotency_key="second")
    kept.take_snapshot("two")
    fork = store.fork("kept", "forked", snapshot="one")
    fork.delete([4, 5])
    kept.delete([2])
    kept.push(batch(40, 3, learner_id="learner-2", phase=2))
    kept.update([int(kept.state.columns["exemplar_id"][-1])], scores=[0.125])
    store.release()
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def described(buffer: Buffer) -> dict[str, Any]:
    """Everything of a buffer that must stay as it is."""
    figures = buffer.stats()
    views = [None, *(snapshot.name for snapshot in buffer.snapshots())]
    return {
        "version": figures.version,
        "bytes_used": figures.bytes_used,
        "budget_bytes": figures.budget_bytes,
        "disk_limit_bytes": figures.disk_limit_bytes,
        "eviction": buffer.config.eviction,
        "description": buffer.config.description,
        "retain_snapshots": buffer.config.retain_snapshots,
        "classes_seen": figures.num_classes_seen,
        "views": {name or "": described_view(buffer, name) for name in views},
    }


def described_view(buffer: Buffer, snapshot: str | None) -> dict[str, Any]:
    body, _, version = buffer.query_encoded(Query(limit=1000), snapshot=snapshot)
    records = decode_batch(bytes(body))
    return {
        "version": version,
        "records": [described_record(record) for record in records],
        "samples": {strategy: drawn(buffer, snapshot, strategy) for strategy in STRATEGIES} if records else {},
    }


STRATEGIES = ("uniform", "class_balanced", "score_weighted")


def drawn(buffer: Buffer, snapshot: str | None, strategy: Any) -> list[int]:
    batch, _ = buffer.sample(SampleRequest(8, 3, 7, strategy=strategy, snapshot=snapshot))
    return [record.exemplar_id for record in decode_batch(bytes(batch))]


def described_record(record: Record) -> dict[str, Any]:
    names = ("exemplar_id", "class_id", "phase", "learner_id", "score", "rank", "crc32", "charge", "codec_id")
    return {name: getattr(record, name) for name in names}


def main() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    make(DATA)
    (DATA / "lock").unlink()
    (DATA / "incoming").rmdir()
    for leftover in ("index.sqlite-wal", "index.sqlite-shm"):
        (DATA / leftover).unlink(missing_ok=True)
    # Described by a copy: opening seals, sweeps and changes files.
    copy = Path(shutil.copytree(DATA, DATA.parent / "described"))
    try:
        store = Store(copy)
        expected = {buffer.name: described(buffer) for buffer in store.buffers()}
        store.release()
    finally:
        shutil.rmtree(copy)
    (HERE / "schema2-expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
