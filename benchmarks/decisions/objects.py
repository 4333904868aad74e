"""What draws of records in an object store cost: ranges, ranges with gaps between them, or whole segments.

    python -m benchmarks.decisions.objects

moto's server on loopback, which takes longer for a request than for a megabyte.
Segments of 16 MiB, records of 20 kB, draws of 256 uniformly, copies empty at first. Ways are tried in turns; medians of
a draw. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from benchmarks.common.machine import machine

_SEGMENT = 16 * 2**20
_RECORD = 20_000
_DRAWN = 256
_SEGMENTS = 16
_GAPS = {"0": 0, "64 KiB": 2**16, "256 KiB": 2**18, "1 MiB": 2**20}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    httpx.put(f"{endpoint}/bucket").raise_for_status()
    store = S3Store(
        "bucket",
        endpoint=endpoint,
        access_key_id="a",
        secret_access_key="b",
        region="us-east-1",
        client_options={"allow_http": True, "timeout": timedelta(seconds=60)},
    )
    for number in range(_SEGMENTS):
        obstore.put(store, str(number), os.urandom(_SEGMENT), use_multipart=False)
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {}
    moved: dict[str, float] = {}
    for _ in range(options.rounds):
        for segments in (1, _SEGMENTS):
            drawn = _places(random, segments)
            for name, gap in _GAPS.items():
                took, num_bytes = _ranges(store, drawn, gap)
                seconds.setdefault(f"{segments}: gaps of {name}", []).append(took)
                moved[f"{segments}: gaps of {name}"] = num_bytes
            began = time.perf_counter()
            for segment in drawn:
                obstore.get(store, str(segment)).bytes()
            seconds.setdefault(f"{segments}: whole", []).append(time.perf_counter() - began)
            moved[f"{segments}: whole"] = _SEGMENT * len(drawn)
    one = _one_request(store)
    figures: dict[str, Any] = {
        name: {"ms": round(statistics.median(of) * 1e3, 1), "MB": round(moved[name] / 1e6, 1)}
        for name, of in seconds.items()
    }
    for name, of in figures.items():
        print(name, of, flush=True)
    server.stop()
    print(json.dumps({"machine": machine(), "draws": figures, "request": one}))
    return 0


def _places(random: np.random.Generator, segments: int) -> dict[int, list[int]]:
    """Segment -> where the records drawn begin in it."""
    number = segments * _SEGMENT // _RECORD
    drawn = np.sort(random.choice(number, _DRAWN, replace=False))
    each = _SEGMENT // _RECORD
    return {
        segment: [int(at % each) * _RECORD for at in drawn if at // each == segment]
        for segment in sorted({int(at // each) for at in drawn} & set(range(segments)))
    }


def _ranges(store: S3Store, drawn: dict[int, list[int]], gap: int) -> tuple[float, int]:
    """Seconds, and bytes that are moved."""
    began, num_bytes = time.perf_counter(), 0
    for segment, starts in drawn.items():
        spans: list[list[int]] = []
        for start in starts:
            if spans and start - spans[-1][1] <= gap:
                spans[-1][1] = start + _RECORD
            else:
                spans.append([start, start + _RECORD])
        num_bytes += sum(end - start for start, end in spans)
        obstore.get_ranges(store, str(segment), starts=starts, lengths=[_RECORD] * len(starts), coalesce=gap)
    return time.perf_counter() - began, num_bytes


def _one_request(store: S3Store) -> dict[str, float]:
    """What a request costs by itself, and a megabyte more of it, in milliseconds."""
    took = {}
    for length in (1, 8 * 2**20):
        each = []
        for _ in range(20):
            began = time.perf_counter()
            obstore.get_range(store, "0", start=0, length=length)
            each.append(time.perf_counter() - began)
        took[length] = statistics.median(each) * 1e3
    return {"request_ms": round(took[1], 2), "ms_a_megabyte": round((took[8 * 2**20] - took[1]) / 8.39, 2)}


if __name__ == "__main__":
    raise SystemExit(main())
