"""How long it takes to open a store of a million records, half of them dead, over one in which all are alive.

    python -m benchmarks.decisions.opening_with_dead                    about three minutes on two cores
    python -m benchmarks.decisions.opening_with_dead --records 100000 --rounds 3

A record that was deleted or evicted stays in its segment until that is rewritten, and the index knows that it is dead.
Each store is opened in fresh processes, in turns; medians. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.machine import directory_on_disk, machine
from benchmarks.common.processes import python_module
from benchmarks.common.records import Noise
from memory_service.store import Store

_A_PUSH = 10_000
_ROOMY = 2**36


def make(directory: Path, num_records: int, *, dead: bool) -> None:
    """A store of records; with ``dead``, every second one deleted and none rewritten."""
    noise = Noise()
    with Store(directory) as store:
        buffer, _ = store.create_buffer("records", budget_bytes=_ROOMY)
        for start in range(0, num_records, _A_PUSH):
            buffer.push(noise.batch(start, min(_A_PUSH, num_records - start)).arrow)
        if dead:
            buffer.delete(np.arange(1, num_records + 1, 2).tolist())
        buffer.seal()


def seconds_to_open(directory: Path) -> float:
    """In a process of its own."""
    command = python_module("benchmarks.storage.opening", str(directory))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--directory", type=Path, help="where the stores are made (default: a temporary place on a disk)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-opening-", dir=options.directory or directory_on_disk()) as place:
        stores = {"none dead": Path(place) / "alive", "half dead": Path(place) / "dead"}
        for name, directory in stores.items():
            print(f"making a store of {options.records:,} records, {name}", file=sys.stderr, flush=True)
            make(directory, options.records, dead=name == "half dead")
        rounds = [{name: seconds_to_open(store) for name, store in stores.items()} for _ in range(options.rounds)]
    seconds = {name: round(statistics.median(turn[name] for turn in rounds), 3) for name in stores}
    ratio = statistics.median(turn["half dead"] / turn["none dead"] for turn in rounds)
    document = {"records": options.records, "seconds": seconds, "half_dead_over_none_dead": round(ratio, 2)}
    print(json.dumps(document | {"machine": machine()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
