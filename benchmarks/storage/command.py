"""The store against what people use today, in one run on the same records.

    python -m benchmarks.storage                    all of it, about twelve minutes on two cores
    python -m benchmarks.storage --quick            the same measurements on tiny stores: do they work?
    python -m benchmarks.storage --directory DIR    on the disk in question

benchmarks/README.md says what each column is. Tables and progress go to stderr and to files; the last line of
stdout is one JSON object with the figures that the project promises something about.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.common.machine import MEMORY_FILE_SYSTEMS, directory_on_disk, file_system_of
from benchmarks.common.page_cache import CAN_FORGET
from benchmarks.common.processes import stop_remaining
from benchmarks.common.records import Noise, Pictures
from benchmarks.storage.chart import chart
from benchmarks.storage.churn import run_churn
from benchmarks.storage.contestants.ours import BareServer, InProcess, OverHttp, Trusted
from benchmarks.storage.contestants.peer import Peer
from benchmarks.storage.plan import CONTESTANTS, OURS, Plan, peers
from benchmarks.storage.report import markdown
from benchmarks.storage.run import MEDIUM, Run, summary
from benchmarks.storage.scale import Scale, add_few, measure_scale
from benchmarks.storage.stages import push_stage, sample_stage

_BENCHMARK = Benchmark(
    "storage",
    ("exemplar-memory", "numpy", "pyarrow", "httpx", "uvicorn", "lmdb", "torch", "torchrl", "tensordict"),
    markdown,
    chart,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    wanted = options.peers.split(",")
    if unknown := set(wanted) - set(CONTESTANTS):
        parser.error(f"unknown contestants: {', '.join(sorted(unknown))}")
    directory = (options.directory or directory_on_disk()).absolute()
    kind = file_system_of(directory)
    if kind in MEMORY_FILE_SYSTEMS:
        if not options.quick:
            print(f"{directory} is on {kind}, which is memory: name a directory of a disk", file=sys.stderr)
            return 2
        print(f"warning: {directory} is on {kind}, which is memory", file=sys.stderr)
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-storage-", dir=directory) as place:
            plan = Plan.quick(Path(place)) if options.quick else Plan(Path(place))
            if options.rounds:
                plan = replace(plan, rounds=options.rounds)
            try:
                run = measure(plan, wanted, kind)
            finally:
                stop_remaining()
    except KeyboardInterrupt:
        print("interrupted; processes ended, files removed", file=sys.stderr)
        return 130
    _BENCHMARK.publish(run, summary(run), options, arguments, started, None if options.quick else RESULTS)
    return 0


def measure(plan: Plan, wanted: Sequence[str], file_system: str) -> Run:
    """Run every stage; files live below ``plan.directory`` and are gone with each stage."""
    plan, smaller = plan.fitted()
    with tqdm(total=4 + len(plan.churns), file=sys.stderr, bar_format="{bar:12} {n}/{total} {elapsed} {desc}") as bar:
        kinds, skipped = peers(wanted, bar.set_description_str)
        for name, why in skipped.items():
            bar.write(f"left out: {name}: {why}", file=sys.stderr)
        if smaller:
            bar.write(smaller, file=sys.stderr)
        run = _run(plan, file_system, skipped)
        everyone: list[type[Peer]] = [*kinds, InProcess, Trusted, OverHttp]
        run.notes = {kind.name: kind.note for kind in everyone} | {BareServer.name: BareServer.note}
        if smaller:
            run.notes[MEDIUM] = smaller
        tick = bar.set_description_str
        tick("making pictures")
        pictures = Pictures(plan.record_bytes, plan.num_pictures)
        run.push = push_stage(plan, pictures, kinds, tick)
        bar.update()
        run.stages.append(sample_stage(plan, pictures, plan.few, kinds, tick, verify=True))
        bar.update()
        same = plan.medium_bytes == plan.record_bytes
        medium = pictures if same else Pictures(plan.medium_bytes, plan.num_pictures)
        # Reading gigabytes back into the page cache before every turn takes its time.
        fewer = replace(plan, rounds=min(plan.rounds, 5), cold_rounds=min(plan.cold_rounds, 3))
        remaining = _remaining(kinds, lambda kind: kind.not_medium, f"{plan.medium:,} x {medium.label}", run)
        run.stages.append(sample_stage(fewer, medium, plan.medium, remaining, tick))
        bar.update()
        noise, scale = Noise(), Scale(plan.many + plan.few)
        run.scale = scale
        run.stages.append(
            sample_stage(
                plan,
                noise,
                plan.many,
                _remaining(kinds, lambda kind: kind.not_many, f"{plan.many:,} x {noise.label}", run),
                tick,
                before_serving=add_few(plan, noise),
                at_end=lambda contestants: measure_scale(scale, plan, noise, contestants, tick),
            )
        )
        bar.update()
        for number, churn in enumerate(plan.churns):
            run.churns.append(run_churn(churn, pictures, plan.directory / f"churn-{number}", tick))
            bar.update()
        tick("done")
    return run


def _remaining(kinds: Sequence[type[Peer]], why: Callable[[type[Peer]], str], stage: str, run: Run) -> list[type[Peer]]:
    """Those of ``kinds`` that have no reason to stay out of a stage; the reasons of the others go into ``run``."""
    run.skipped |= {f"{kind.name}, with {stage}": why(kind) for kind in kinds if why(kind)}
    return [kind for kind in kinds if not why(kind)]


def _run(plan: Plan, file_system: str, skipped: dict[str, str]) -> Run:
    sizes = asdict(plan)
    del sizes["directory"]
    how = "cold = synced, then dropped from the page cache with posix_fadvise; the disk's own cache stays"
    cold_how = how if CAN_FORGET else "cold was not measured: this system has no posix_fadvise"
    return Run(sizes, file_system, cold_how, skipped=skipped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny stores; writes no results unless --results is given")
    parser.add_argument(
        "--directory", type=Path, help="where the stores are made (default: a temporary place on a disk)"
    )
    add_result_options(parser)
    parser.add_argument("--rounds", type=int, help="rounds of which a figure is the median")
    parser.add_argument(
        "--peers",
        default=",".join(CONTESTANTS),
        help=f"who takes part, of {','.join(CONTESTANTS)} (default: all; '{OURS}' always does)",
    )
    return parser


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
