"""What a push costs with its index in PostgreSQL, over one with its index in a file.

    python -m benchmarks.decisions.indexes --index postgresql+psycopg://USER@HOST/DATABASE

The database must be empty, and is not emptied afterwards. Pushes go to both stores in turns; medians. Statements are
those of one push, BEGIN and COMMIT among them: each is a round trip. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import event

from benchmarks.common.machine import directory_on_disk, machine
from benchmarks.common.records import Noise
from memory_service.store import Store
from memory_service.store.directory import Places
from memory_service.store.index.sql import SqlIndex

_SIZES = {1: 200, 32: 100, 1000: 15}
_ROOMY = 2**36


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, metavar="URL")
    options = parser.parse_args(arguments)
    noise, figures = Noise(), {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-indexes-", dir=directory_on_disk()) as place,
        Store(Path(place) / "file") as in_file,
        Store(Path(place) / "database", open_ports=Places(index=options.index)) as in_database,
    ):
        stores = {"file": in_file, "database": in_database}
        buffers = {name: store.create_buffer("b", budget_bytes=_ROOMY)[0] for name, store in stores.items()}
        said = _count_statements(in_database)
        for size, rounds in _SIZES.items():
            seconds: dict[str, list[float]] = {name: [] for name in stores}
            statements = []
            for turn in range(rounds):
                batch = noise.batch(turn * size, size).arrow
                for name, buffer in buffers.items():
                    said.clear()
                    began = time.perf_counter()
                    buffer.push(batch)
                    seconds[name].append(time.perf_counter() - began)
                statements.append(len(said))
            file, database = (statistics.median(seconds[name]) * 1e3 for name in ("file", "database"))
            figures[size] = {
                "file_ms": round(file, 2),
                "database_ms": round(database, 2),
                "ratio": round(database / file, 2),
                "statements": statistics.median(statements),
            }
            print(f"push of {size}: {figures[size]}", flush=True)
    print(json.dumps({"machine": machine(), "pushes": figures}))
    return 0


def _count_statements(store: Store) -> list[str]:
    index, said = store._index, list[str]()
    assert isinstance(index, SqlIndex)
    event.listen(index._engine, "begin", lambda _: said.append("BEGIN"))
    event.listen(index._engine, "commit", lambda _: said.append("COMMIT"))
    event.listen(index._engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    return said


if __name__ == "__main__":
    raise SystemExit(main())
