"""What learners with other classes tell each other through a buffer that they share.

    python -m benchmarks.sharing               the demo's data and model, three seeds, over two replicas
    python -m benchmarks.sharing --url URL     a service that runs already, or a replica: name each
    python -m benchmarks.sharing --quick       a tiny model: does it work? its figures mean nothing

Two learners know six classes each. Together they run in step on one buffer, by ``learner run --buffer``, each through a
replica of its own; alone each has a buffer of its own of as many bytes. The replicas, their PostgreSQL and their
objects, in a directory, start here and end with it. Progress and tables go to stderr; the last line of stdout is one
JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.common.replicas import start_replicas
from benchmarks.sharing.report import chart, markdown, summary
from benchmarks.sharing.run import CLASSES, QUICK, SETTINGS, LearnerError, Run, measure
from memory_service.testing.postgres import NoPostgresError

_BENCHMARK = Benchmark("sharing", ("exemplar-memory", "numpy", "torch", "transformers"), markdown, chart)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    given = ["--config", str(SETTINGS), "--threads", str(max(1, (os.cpu_count() or 2) // len(CLASSES)))]
    given += QUICK if options.quick else ()
    given += ["--data", str(options.data)] if options.data else ()
    seeds = list(range(1 if options.quick else options.seeds))
    with tempfile.TemporaryDirectory(prefix="bench-sharing-") as name, ExitStack() as stack:
        place = Path(name)
        try:
            urls = options.url or start_replicas(place, stack)
            run = Run(options.method, seeds, len(urls))
            measure(urls, place, run, given, dict(os.environ), lambda what: tqdm.write(what, sys.stderr))
        except (LearnerError, NoPostgresError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    _BENCHMARK.publish(run, summary(run), options, arguments, started, None if options.quick else RESULTS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model; writes no results unless --results is given"
    )
    parser.add_argument("--url", action="append", help="a service that runs; buffers stay there (default: replicas)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--method", default="masked", help="what both store (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, help="data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    add_result_options(parser)
    return parser
