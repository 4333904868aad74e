"""Where the time of a batch goes that was decoded before, and what four worker processes take for it.

python -m benchmarks.decisions.decoded

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.synchronize
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.common.records import Pictures
from benchmarks.common.service import Service, steps
from client import ExemplarCache, MemoryClient
from client._address import buffer_path
from client.unpack import unpack_batch
from memory_format import read_batch
from memory_format.api.answers import DrawnIds

RECORDS, BATCH, ROUNDS, WORKERS = 1_000, 256, 40, 4
CACHE_BYTES = 256 * 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as place, Service(Path(place) / "store") as service:
        service.create_buffer("records", 2**40)
        pictures = Pictures(20_000)
        for start in range(0, RECORDS, 250):
            service.push("records", pictures.batch(start, 250).arrow)
        found = _parts(service.url) | _workers(service.url)
    for name, value in found.items():
        print(f"{name}: {value:.3g}")
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


def _parts(url: str) -> dict[str, float]:
    """Milliseconds, medians."""
    with MemoryClient(url) as client:
        buffer, cache = client.buffer("records"), ExemplarCache(CACHE_BYTES)
        buffer.sample(RECORDS, replace=False, cache=cache)
        path = buffer_path("records", "sample")

        def ask() -> object:
            wanted = {"batch_size": BATCH, "step": next(steps), "want": "ids"}
            return client.session.value(DrawnIds, "POST", path, json=wanted)

        arena = cache._arena
        entries = list(arena._entries)
        fingerprints = {entry.exemplar_id: entry.fingerprint for entry in entries}
        scope, rng = entries[0].scope, np.random.default_rng(0)
        drawn = [rng.choice(len(entries), BATCH).tolist() for _ in range(ROUNDS + 2)]
        rounds = iter(range(10**9))

        def find() -> object:
            ids = [entries[place].exemplar_id for place in drawn[next(rounds) % len(drawn)]]
            return arena.find(scope, {id_: fingerprints[id_] for id_ in ids})

        fronts = unpack_batch(read_batch(_answer(url)))
        row_bytes = max(entry.pixel_bytes for entry in entries)

        def gather(threads: ThreadPoolExecutor | None) -> object:
            rows = drawn[next(rounds) % len(drawn)]
            out = np.empty((BATCH, row_bytes), np.uint8)

            def part(places: range) -> None:
                for place in places:
                    entry = entries[rows[place]]
                    out[place, : entry.pixel_bytes] = arena.pixels(entry)

            if threads is None:
                part(range(BATCH))
            else:
                list(threads.map(part, (range(BATCH // 2), range(BATCH // 2, BATCH))))
            return out

        with ThreadPoolExecutor(2) as threads:
            return {
                "a draw's ids, ms": _median(ask),
                "found and fronts copied, ms": _median(find),
                "masks and texts, ms": _median(lambda: unpack_batch(fronts.batch)),
                "pixels, one thread, ms": _median(lambda: gather(None)),
                "pixels, two threads, ms": _median(lambda: gather(threads)),
                "all of it, ms": _median(lambda: buffer.sample(BATCH, step=next(steps), cache=cache)),
                "without, ms": _median(lambda: buffer.sample(BATCH, step=next(steps)), 9),
            }


def _answer(url: str) -> bytes:
    with MemoryClient(url) as client:
        wanted = {"batch_size": BATCH, "step": next(steps)}
        return client.session.request("POST", buffer_path("records", "sample"), json=wanted).content


def _median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    seconds = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[2:])


def _workers(url: str) -> dict[str, float]:
    """MiB: of the pixels, of the file that holds them, and of all that the workers have of it together."""
    cache = ExemplarCache(CACHE_BYTES)
    context = multiprocessing.get_context("fork")
    drawn, done = context.Barrier(WORKERS + 1), context.Event()
    workers = [
        context.Process(target=_draw, args=(url, cache, number, drawn, done), daemon=True) for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    drawn.wait(300)
    arena = cache._arena
    arena.find(0, {})  # learn what there is
    pixels = sum(entry.pixel_bytes for entry in arena._entries)
    held = [_mapped(worker.pid) for worker in workers]
    done.set()
    for worker in workers:
        worker.join(60)
    mib = 2**20
    return {
        "pixels, MiB": pixels / mib,
        "file, MiB": os.fstat(arena.descriptor).st_blocks * 512 / mib,
        "four workers' share of it (PSS), MiB": sum(share for share, _ in held) / mib,
        "four workers, each counted in full (RSS), MiB": sum(whole for _, whole in held) / mib,
    }


def _draw(
    url: str,
    cache: ExemplarCache,
    number: int,
    drawn: multiprocessing.synchronize.Barrier,
    done: multiprocessing.synchronize.Event,
) -> None:
    with MemoryClient(url) as client:
        buffer = client.buffer("records")
        for step in range(number, 40, WORKERS):
            buffer.sample(BATCH, step=step, cache=cache)
        buffer.sample(RECORDS, replace=False, cache=cache)
        drawn.wait(300)
        done.wait(300)


def _mapped(pid: int | None) -> tuple[int, int]:
    """What a process has of the arena's file: its share, and all of it."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    (part,) = re.findall(r"memfd:decoded exemplars.*?\n(.*?)VmFlags", text, re.DOTALL)
    share, whole = (int(re.findall(rf"^{name}: +(\d+) kB", part, re.MULTILINE)[0]) for name in ("Pss", "Rss"))
    return 1024 * share, 1024 * whole


if __name__ == "__main__":
    main()
