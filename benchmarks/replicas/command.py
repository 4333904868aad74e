"""What learners that push and sample at once get of one service, and of two replicas.

    python -m benchmarks.replicas                    its own PostgreSQL, objects in a directory (6 minutes)
    python -m benchmarks.replicas --segments URL     objects in an empty prefix of an object store
    python -m benchmarks.replicas --quick            does it work? its figures mean nothing

Learners are processes with the client of this project; each pushes 32 records of 4 kB after eight draws of 32. All are
on one machine with the services and the database, whose commits wait for the disk. Progress and tables go to stderr;
the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.common.machine import directory_on_disk
from benchmarks.replicas.report import chart, markdown, summary
from benchmarks.replicas.run import Run, measure
from memory_service.testing.postgres import NoPostgresError

_BENCHMARK = Benchmark("replicas", ("exemplar-memory", "numpy", "sqlalchemy", "psycopg", "obstore"), markdown, chart)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    run = Run(0.5 if options.quick else options.seconds)
    turns, rounds = (1, 10) if options.quick else (3, 400)
    with tempfile.TemporaryDirectory(prefix="bench-replicas-", dir=directory_on_disk()) as place:
        try:
            measure(Path(place), run, options.segments, turns, rounds, lambda what: tqdm.write(what, sys.stderr))
        except NoPostgresError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    _BENCHMARK.publish(run, summary(run), options, arguments, started, None if options.quick else RESULTS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="half a second each; writes no results unless --results is given"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default: %(default)s)")
    parser.add_argument("--segments", metavar="URL", help="s3://bucket/prefix (default: a directory, by the same code)")
    add_result_options(parser)
    return parser
