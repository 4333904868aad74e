"""The first page of the gallery over a million exemplars of ten thousand classes, and over a thousand.

    python -m benchmarks.decisions.gallery                 two minutes on two cores, 2 GB of disk
    python -m benchmarks.decisions.gallery --records 100000 --rounds 5

One service with two buffers. The exemplars of the first page are the same in both: pictures of 320 px, 20 kB. In each
round each buffer's page is asked for, and its thumbnails over six connections, as a browser does. The ratio is taken
within the round, and its median printed. Progress goes to stderr; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from benchmarks.common.machine import directory_on_disk, machine
from benchmarks.common.records import Batch, Pictures, with_ranks
from benchmarks.common.rounds import interleave, ratio, timed
from benchmarks.common.service import Service
from memory_service.store import Store
from memory_service.store.pure.model import Options

FEW, MANY = "few", "many"
_SHOWN = 1_000
"""Records of the size of photographs, before all others."""
_CONNECTIONS = 6
_PUSH = 10_000
_ROOMY = 2**36


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, help="where the store is made (default: a temporary place on a disk)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-gallery-", dir=options.directory or directory_on_disk()) as place:
        data = Path(place) / "store"
        _fill(data, options.records, options.classes)
        with Service(data) as service:
            found = _measure(service.url, options.rounds)
    print(json.dumps({"records": options.records, "classes": options.classes, **found, "machine": machine()}))
    return 0


def _fill(data: Path, records: int, classes: int) -> None:
    shown, small = Pictures(20_000), Pictures(1_000)
    rng = np.random.default_rng(0)

    def of_classes(batch: Batch, start: int, count: int) -> bytes:
        ranks = np.arange(start, start + count)
        return with_ranks(batch, rng.permutation(ranks % classes), ranks).arrow

    # What is decoded at a push takes as long as all of the rest, and has no part in this.
    with Store(data, Options(decode_payloads=False)) as store:
        for name, count in ((FEW, _SHOWN), (MANY, records)):
            buffer, _ = store.create_buffer(name, budget_bytes=_ROOMY, eviction="fifo")
            buffer.push(of_classes(shown.batch(0, _SHOWN), 0, _SHOWN))
            for start in range(_SHOWN, count, _PUSH):
                size = min(_PUSH, count - start)
                buffer.push(of_classes(small.batch(start, size), start, size))
                print(f"\r{name}: {start + size:,} records", end="", file=sys.stderr)
        print(file=sys.stderr)


def _measure(url: str, rounds: int) -> dict[str, object]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        tasks: dict[str, Callable[[], float]] = {}
        for name in (FEW, MANY):
            tasks[name] = lambda name=name: timed(lambda: _page(client, name))  # type: ignore[misc]
            tasks[f"{name}, thumbnails"] = lambda name=name: _thumbnails(client, _page(client, name))[0]  # type: ignore[misc]
        for task in tasks.values():
            task()
        figures = interleave(tasks, rounds=rounds, round_seconds=0.2)
        page = _page(client, MANY)
        style = len(client.get("/pages.css").content)
        return {
            "page_ms": {name: round(1000 * figures[name].median, 1) for name in (FEW, MANY)},
            "page_ratio": round(ratio(figures[MANY], figures[FEW]), 2),
            "thumbnails_ms": {name: round(1000 * figures[f"{name}, thumbnails"].median, 1) for name in (FEW, MANY)},
            "thumbnails": len(_addresses(page)),
            "bytes": {"page": len(page), "style": style, "thumbnails": _thumbnails(client, page)[1]},
        }


def _page(client: httpx.Client, name: str) -> bytes:
    return client.get(f"/buffers/{name}/gallery", headers={"Accept": "text/html"}).raise_for_status().content


def _addresses(page: bytes) -> list[str]:
    return re.findall(r'<img src="([^"]+)"', page.decode())


def _thumbnails(client: httpx.Client, page: bytes) -> tuple[float, int]:
    """Seconds that all thumbnails of a page take, and their bytes."""
    began = time.perf_counter()
    with ThreadPoolExecutor(_CONNECTIONS) as connections:
        found = list(connections.map(lambda address: client.get(address).raise_for_status().content, _addresses(page)))
    return time.perf_counter() - began, sum(map(len, found))


if __name__ == "__main__":
    sys.exit(main())
