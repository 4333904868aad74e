"""A batch through each adapter over the same batch through the library's own buffer in memory, both warm.

    python -m benchmarks.adapters                    Avalanche, PyCIL and torchrl: some two minutes on two cores
    python -m benchmarks.adapters --mammoth PATH     Mammoth too: a checkout whose requirements are installed

Own buffers and adapters take turns. Progress and tables go to stderr; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.adapters.report import chart, markdown, summary
from benchmarks.adapters.run import measure
from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from client import MemoryClient
from memory_service.testing import ServiceProcess

_BENCHMARK = Benchmark("adapters", ("exemplar-memory", "avalanche-lib", "numpy", "torch", "torchrl"), markdown, chart)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mammoth", type=Path, metavar="PATH", help="a checkout of Mammoth")
    parser.add_argument("--items", type=int, default=500, help="in each buffer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few of both; writes no results unless --results is given")
    add_result_options(parser)
    options = parser.parse_args(arguments)
    items, rounds = (64, 3) if options.quick else (options.items, options.rounds)
    torch.set_num_threads(1)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bench-adapters-") as place,
        ServiceProcess(Path(place) / "memory") as service,
        MemoryClient(service.url) as memory,
    ):
        run = measure(memory, items, rounds, options.mammoth)
    _BENCHMARK.publish(run, summary(run), options, arguments, started, None if options.quick else RESULTS)
    return 0
