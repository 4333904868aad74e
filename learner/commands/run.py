"""``learner run``: all phases with each method, once or with several seeds, and the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from client import MemoryClient, ServiceError, ServiceUnavailableError
from client.files import write_atomically
from learner import world
from learner.run import machine
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.loading import in_order, load_problem
from learner.run.methods import Method
from learner.run.problem import Problem
from learner.run.run import Run
from learner.run.run_mark import RunError, locked
from learner.run.seeds import (
    difference_lines,
    refuse_other_kind,
    seed_config,
    seeds_json,
    seeds_table,
    seeds_verdict,
    seeds_words,
)
from learner.run.summary import budget_words, final_table, phase_line, seconds_spent, summary_json, verdict
from learner.run.threads import Neighbours, choose
from memory_format import ExemplarMemoryError

if TYPE_CHECKING:
    from learner.report.page import SeedRun


@dataclass(frozen=True)
class Order:
    """What ``learner run`` was told beside its configuration.

    Attributes:
        seeds: how many runs; None: one, in ``out`` itself.
        directory: where data and weights are kept.
        threads: to compute with; None: by what the machine has free.
        overwrite: see :class:`learner.run.setup.Setup`.
        upload: give the report to the service, whose pages then show the run.
    """

    out: Path
    methods: Sequence[Method]
    seeds: int | None
    directory: Path | None
    threads: int | None = None
    overwrite: bool = False
    upload: bool = True


def run(config: LearnerConfig, client: MemoryClient, order: Order, console: Console) -> None:
    """Train, test and write what was found.

    Raises:
        RunError, DataError, FetchError, ServiceError: something stands in the way; the message says what.
    """
    # Asked first: better to hear of a wrong address now than after minutes of training.
    world.from_first(lambda: _expect_service(client))
    world.from_first(lambda: refuse_other_kind(order.out, several=order.seeds is not None))
    data = config.data
    console.print(f"data: {data.title}, {data.num_classes or 'all'} classes at {data.image_size} px ...", markup=False)
    config, problem = world.after_first(lambda: load_problem(config, order.directory))
    for note in problem.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    phases = " + ".join(str(len(classes)) for classes in problem.phases)
    console.print(
        f"{len(problem.train)} samples to train on, {sum(map(len, problem.tests.values()))} to test on "
        f"(unseen: {', '.join(problem.tests)})",
        markup=False,
    )
    console.print(f"phases of {phases} classes; budget {budget_words(config.memory)}", markup=False)
    # Made no sooner: data that cannot be used leave no folder behind.
    with ExitStack() as stack:
        world.from_first(lambda: stack.enter_context(locked(order.out)))
        # Looked at now: what has made the data ready were processes of this command's own.
        threads = world.from_first(lambda: choose(order.threads, machine.recall(order.out), Neighbours()))
        console.print(str(threads), markup=False, highlight=False)
        torch.set_num_threads(threads.number)
        if order.seeds is None:
            _one(config, problem, client, order, console)
        else:
            _several(config, problem, client, order, console)


def _expect_service(client: MemoryClient) -> None:
    try:
        client.info()
    except ServiceUnavailableError as error:
        raise RunError(
            f"no memory service answers there ({error}). Start one in another terminal, `memory-service serve --data "
            "runs/memory`, and give the address that it prints as --url"
        ) from error


def _one(config: LearnerConfig, problem: Problem, client: MemoryClient, order: Order, console: Console) -> None:
    begun = _begin(config, problem, client, order.out, order, console)
    _remember(order.out, [begun])
    finished = _finish(begun, order)
    results = finished.results
    console.print()
    console.print(final_table(config, results))
    _say(verdict(results), console)
    if config.memory.join:
        _say("The same command tests again, with what others have brought since.", console)
    else:
        _say("--seeds 3 makes three runs, and says by how much they differ.", console)
    _say_what_is_written(order.out, console)
    _upload(begun.setup.mark.id, config, problem, {config.seed: finished}, client, order, console)


def _several(config: LearnerConfig, problem: Problem, client: MemoryClient, order: Order, console: Console) -> None:
    begun: dict[int, Run] = {}
    # All are looked at before the first is trained: what stands in the way of the last is not to be said hours later.
    for number in range(order.seeds or 0):
        own = seed_config(config, number)
        folder = order.out / f"seed-{own.seed}"
        begun[own.seed] = _begin(own, in_order(problem, own), client, folder, order, console)
    _remember(order.out, begun.values())
    runs: dict[int, SeedRun] = {}
    for number, (seed, one) in enumerate(begun.items(), start=1):
        console.print(f"\nseed {seed}, run {number} of {len(begun)}", highlight=False)
        _remember(one.setup.out, [one])
        runs[seed] = _finish(one, order)
    from learner.report.page import write_report

    results = {seed: run.results for seed, run in runs.items()}
    console.print()
    console.print(seeds_table(config, results))
    for line in [*difference_lines(results), seeds_verdict(results)]:
        _say(line, console)
    content = (json.dumps(seeds_json(config, results), indent=2) + "\n").encode()
    world.from_first(lambda: write_atomically(order.out / "summary.json", content))
    world.from_first(lambda: write_report(order.out, config, runs, problem.class_names, directory=order.directory))
    console.print(f"each of the {seeds_words(results)} has files of its own in {order.out}/seed-*", highlight=False)
    _say_what_is_written(order.out, console)
    first = next(iter(begun.values()))
    # Further seeds may be added later: it stays the same run.
    _upload(f"{first.setup.mark.id}-seeds", config, problem, runs, client, order, console)


def _remember(out: Path, runs: Iterable[Run]) -> None:
    """Say in a folder what its runs are made with, if there is anything left for them to do."""
    waiting = [run for run in runs if not run.is_finished]
    if waiting:
        client = waiting[0].setup.client
        world.from_first(lambda: machine.remember(out, client.info(), torch.get_num_threads()))


def _begin(
    config: LearnerConfig, problem: Problem, client: MemoryClient, out: Path, order: Order, console: Console
) -> Run:
    """A run that nothing stands in the way of."""

    def report(metrics: PhaseMetrics) -> None:
        console.print(phase_line(metrics, len(problem.phases)), markup=False, highlight=False)

    run = Run(config, problem, client, out, directory=order.directory, report=report, overwrite=order.overwrite)
    run.prepare(order.methods)
    if buffers := _buffers(run, order):
        console.print(f"buffers: {', '.join(buffers.values())}", markup=False, highlight=False)
    return run


def _buffers(run: Run, order: Order) -> dict[str, str]:
    return {method.name: run.setup.buffer_name(method) for method in order.methods if method.stores != "nothing"}


def _finish(run: Run, order: Order) -> SeedRun:
    """Run all methods and write the run's own summary and report."""
    results = {method.name: run.run(method) for method in order.methods}
    return world.from_first(lambda: _written(run, order, results))


def _written(run: Run, order: Order, results: dict[str, list[PhaseMetrics]]) -> SeedRun:
    # Imported here: drawing is not needed to train.
    from learner.report.page import SeedRun, write_report

    config, problem, out = run.setup.config, run.setup.problem, run.setup.out
    classes = problem.named_phases
    buffers = _buffers(run, order)
    summary = summary_json(config, results, seconds_spent(results), buffers=buffers, classes=classes)
    write_atomically(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    seed_run = SeedRun(results, classes, out, buffers)
    write_report(out, config, {config.seed: seed_run}, problem.class_names, directory=order.directory)
    return seed_run


def _upload(
    run_id: str,
    config: LearnerConfig,
    problem: Problem,
    runs: Mapping[int, SeedRun],
    client: MemoryClient,
    order: Order,
    console: Console,
) -> None:
    """Give the report to the service. A run is no worse for a service that does not take it."""
    if not order.upload or world.rank():
        return
    from learner.report.upload import report_of

    try:
        client.put_run(run_id, report_of(order.out, config, runs, problem.class_names))
    except (ExemplarMemoryError, ServiceError) as error:
        _say(f"the service's pages do not show this run: {error}", console)
    else:
        console.print(f"the service's pages show it at /runs/{run_id}", markup=False, highlight=False)


def _say(words: str, console: Console) -> None:
    """Prose, in lines that can be read."""
    console.print(words, highlight=False, markup=False, soft_wrap=False, width=min(console.width, 100))


def _say_what_is_written(out: Path, console: Console) -> None:
    console.print(f"wrote {out / 'summary.json'} and {out / 'report.html'}")
