"""Methods at equal bytes: who remembers most?

    python -m benchmarks.learner                 the table on a CPU: 15 methods, 3 seeds, 5 full samples a class
    python -m benchmarks.learner --ablations     17 rows more: each part of the recipe left out or changed
    python -m benchmarks.learner --oracles       3 rows more: masks and orders that know what no method may
    python -m benchmarks.learner --full          the grid for a GPU: 5 memory sizes, 5 seeds, 5, 10 and 20 phases
    python -m benchmarks.learner --tune          trials on the validation classes, as many for each kind of exemplar
    python -m benchmarks.learner --unseen        kinds of exemplars on classes and seeds that no decision has looked at
    python -m benchmarks.learner --quick         everything once on almost nothing: does it work?

Interrupted, the same command goes on at the phase that it was in. benchmarks/README.md says what is compared and how.
Tables and progress go to stderr and to files; the last line of stdout is one JSON object, figures by method.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import get_args

import torch
from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.common.processes import stop_remaining
from benchmarks.common.service import Service
from benchmarks.learner import plans
from benchmarks.learner.chart import chart
from benchmarks.learner.jobs import run_all
from benchmarks.learner.plans import ABLATIONS, ORACLES, REFERENCE_MEMORY, Job, Plan
from benchmarks.learner.report import markdown
from benchmarks.learner.run import Results, found, summary
from learner.data.settings import SceneChoice
from learner.model.classifier import best_device
from learner.report.page import SeedRun, write_report
from learner.run.config import read_settings, with_settings
from learner.run.methods import parse_method
from memory_format.machine import processors

MORE = {"ablations": ABLATIONS, "oracles": ORACLES}
"""Rows that an option of that name adds to a table."""

_BENCHMARK = Benchmark("learner", ("exemplar-memory", "numpy", "pillow", "torch", "transformers"), markdown, chart)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        plan = _plan(options)
    except ValueError as error:
        parser.error(str(error))
    out = (options.out or Path("runs") / f"bench-learner{_suffix(options)}").absolute()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # Workers would draw their progress bars over each other; and weights lie in folders: no hub is to be asked.
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    try:
        unit = plans.full_sample_bytes(plan, options.data)
        jobs = plan.jobs()
        _say(f"{len(jobs)} runs; a full sample is {unit:,} bytes; folder {out}")
        with (
            Service(out / "memory") as service,
            tqdm(total=len(jobs), unit="run", disable=False, file=sys.stderr, mininterval=5) as bar,
        ):

            def tick(job: Job) -> None:
                bar.set_postfix_str(f"{job.method}, seed {job.seed}, memory {job.memory}", refresh=False)
                bar.update()

            results = run_all(
                plan,
                full_sample_bytes=unit,
                url=service.url,
                out=out,
                directory=options.data,
                workers=options.workers,
                tick=tick,
            )
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130
    finally:
        stop_remaining()
    run = found(plan, results, conditions=_conditions(options), device=_device_name(), full_sample_bytes=unit)
    _pictures(plan, results, unit, out, options.data)
    _BENCHMARK.publish(run, summary(run.reference.rows), options, arguments, started, _folder(options, plan, out))
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    """What is to be run.

    Raises:
        ValueError: settings that are none, that a method does not go with, or that would change nothing.
    """
    plan: Plan = getattr(plans, options.kind or "default")()
    if options.seeds is not None:
        plan = replace(plan, seeds=tuple(plan.seeds[0] + place for place in range(options.seeds)))
    if options.methods:
        plan = replace(plan, methods=options.methods, charted=options.methods)
    for rows in (name for name in MORE if getattr(options, name)):
        plan = replace(plan, methods=tuple(dict.fromkeys(plan.methods + MORE[rows])))
    if options.memories:
        plan = replace(plan, memories=options.memories)
    settings = read_settings(options.set, {"data": {"scenes": options.scenes}})
    plan = replace(plan, config=with_settings(plan.config, settings))
    for job in plan.jobs():
        config = job.config(plan, 1)
        if with_settings(config, settings) != config:
            raise ValueError("sizes of the data, phases, memory and seeds are the plan's: they cannot be --set")
        parse_method(job.method).configure(config)
    return plan


def _folder(options: argparse.Namespace, plan: Plan, out: Path) -> Path:
    """Where the result is kept: in the repository where it is the table itself, or has a name of its own."""
    if options.results:
        return Path(options.results)
    return RESULTS if options.name or plan == plans.default() else out


def _suffix(options: argparse.Namespace) -> str:
    """What sets the files of one kind of benchmark apart from another's."""
    names = [options.kind or "", "" if options.scenes == "any" else options.scenes, *options.set]
    return "".join(f"-{re.sub('[^a-z0-9_]+', '-', name.lower())}" for name in names if name)


def _conditions(options: argparse.Namespace) -> str:
    """What a title begins with where not all is as usual."""
    scenes = [] if options.scenes == "any" else [f"{options.scenes} scenes"]
    return "".join(f"{condition}, " for condition in [*scenes, *options.set])


def _device_name() -> str:
    device = best_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _pictures(plan: Plan, results: Results, unit: int, out: Path, directory: Path | None) -> None:
    """A report of the first seed's runs, with their masked exemplars."""
    first = next(job for job in results if job.memory in (REFERENCE_MEMORY, plan.memories[0]))
    chosen = {
        job.method: lines
        for job, lines in results.items()
        if job.folder(out) == first.folder(out) and "+" not in job.method
    }
    if chosen:
        names = plans.load_data(plan, directory).class_names
        problem = replace(plans.load_problem(plan, first, directory), class_names=names)
        folder = first.folder(out)
        run = SeedRun(results=chosen, classes=problem.named_phases, folder=folder)
        page = write_report(folder, first.config(plan, unit), {first.seed: run}, names, directory=directory)
        _say(f"masked exemplars of seed {first.seed}: {page}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _methods(text: str) -> tuple[str, ...]:
    try:
        return tuple(parse_method(name).name for name in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _memories(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"memory sizes are at least 1 full sample a class, got {text}")
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    for kind in ("full", "tune", "unseen", "quick"):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    parser.add_argument(
        "--scenes",
        choices=get_args(SceneChoice),
        default="any",
        help="misleading: half of a class's training samples before a scene of its own, which no test sample has",
    )
    parser.add_argument("--seeds", type=int, help="how many, from the plan's first on")
    parser.add_argument("--methods", type=_methods, help="with commas between, instead of the table's")
    for name, rows in MORE.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"with {', '.join(rows)}, too")
    parser.add_argument("--memories", type=_memories, help="full samples a class, with commas between")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting of all methods, base phase included, as in --set data.image_size=224",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=_workers(),
        help="processes; 0 = this one alone (default: 2 on a GPU, else one a core and 8 at most)",
    )
    parser.add_argument("--out", type=Path, help="checkpoints and the store (default: runs/bench-learner...)")
    add_result_options(parser, default=None, where="benchmarks/results for the table or with a --name, else --out")
    parser.add_argument(
        "--data", type=Path, help="data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    return parser


def _workers() -> int:
    return 2 if best_device().type == "cuda" else min(8, processors())


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
