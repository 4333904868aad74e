"""What a push and a draw cost through a replica, over a service that has the store alone.

    python -m benchmarks.decisions.replicas --alone URL --replicas URL

Two empty databases, or schemas, of PostgreSQL (postgresql+psycopg://...), which are not emptied afterwards. Segments
are objects in a directory. Pushes and draws go to all in turns; medians. *Behind*: another replica has pushed in
between; *reading all*: and what it has told of that is not looked at. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

from benchmarks.common.machine import directory_on_disk, machine
from benchmarks.common.records import Noise
from memory_service.store import Store
from memory_service.store.directory import Places
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.shared import SharedStore
from memory_service.store.writer import Writer

_TURNS = 40
_PUSHED = 8
_DRAWN = 64
_ROOMY = 2**34


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", required=True, metavar="URL")
    parser.add_argument("--replicas", required=True, metavar="URL")
    parser.add_argument("--held", type=int, default=2000, help="records of the buffer, a multiple of 1000")
    options = parser.parse_args(arguments)
    noise = Noise()
    seconds: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=directory_on_disk())))
        alone = Places(options.alone, f"file://{place}/alone-objects")
        shared = Places(options.replicas, f"file://{place}/objects", replicas=True)
        only = stack.enter_context(Store(place / "alone", open_ports=alone))
        one, two = (stack.enter_context(SharedStore(place / name, open_ports=shared)) for name in ("one", "two"))
        for store in (only, one):
            store.create_buffer("b", budget_bytes=_ROOMY)
            for turn in range(options.held // 1000):
                store.buffer("b").push(noise.batch(turn * 1000, 1000).arrow)
        for turn in range(_TURNS):
            batch = noise.batch(options.held + turn * _PUSHED, _PUSHED).arrow
            steps: list[tuple[str, Callable[[], object]]] = [
                ("push, alone", partial(_push, only, batch)),
                ("push", partial(_push, one, batch)),
                # What is new is fetched.
                ("", partial(_draw, one, turn)),
                ("draw, alone", partial(_draw, only, turn)),
                ("draw", partial(_draw, one, turn)),
                ("draw, behind", partial(_draw, two, turn)),
                ("", partial(_push, two, batch)),
                ("push, behind", partial(_push, one, batch)),
                ("draw, behind, reading all", partial(_reading_all, partial(_draw, two, turn))),
                ("", partial(_push, two, batch)),
                ("push, behind, reading all", partial(_reading_all, partial(_push, one, batch))),
            ]
            for name, step in steps:
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
    figures = {name: round(statistics.median(of_it) * 1e3, 2) for name, of_it in sorted(seconds.items()) if name}
    for name, milliseconds in figures.items():
        print(f"{name}: {milliseconds} ms", flush=True)
    print(json.dumps({"machine": machine(), "held": options.held, "milliseconds": figures}))
    return 0


def _push(store: Store, batch: bytes) -> None:
    store.buffer("b").push(batch)


def _draw(store: Store, step: int) -> None:
    store.buffer("b").sample(SampleRequest(_DRAWN, seed=1, step=step))


def _reading_all(step: Callable[[], object]) -> None:
    with mock.patch.object(Writer, "_follow", return_value=False):
        step()


if __name__ == "__main__":
    raise SystemExit(main())
