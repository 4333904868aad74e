"""Running the jobs of a plan: each in a worker process, all against one memory service, resumable at every phase."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner.plans import Job, Plan, load_problem
from client import MemoryClient
from client.files import write_atomically
from learner.run.evaluate import PhaseMetrics
from learner.run.methods import parse_method
from learner.run.run import Run
from memory_format.machine import processors


@dataclass(frozen=True)
class Task:
    """What a worker needs to know of a run."""

    plan: Plan
    job: Job
    full_sample_bytes: int
    url: str
    out: Path
    directory: Path | None
    threads: int


def run_all(
    plan: Plan,
    *,
    full_sample_bytes: int,
    url: str,
    out: Path,
    directory: Path | None,
    workers: int,
    tick: Callable[[Job], None],
) -> dict[Job, list[PhaseMetrics]]:
    """The figures of every job. What an earlier call has finished is read, what it began goes on.

    Args:
        workers: processes; 0 = one after another in this one, with all its threads.
        tick: called as jobs are done.
    """
    jobs = plan.jobs()
    threads = max(1, processors() // workers) if workers else torch.get_num_threads()
    tasks = {job: Task(plan, job, full_sample_bytes, url, out, directory, threads) for job in jobs}
    results: dict[Job, list[PhaseMetrics]] = {}
    for job, task in tasks.items():
        # Read without loading data and model: a benchmark that goes on should not spend minutes on what is done.
        lines = _finished(task)
        if lines is not None:
            results[job] = lines
            tick(job)
    left = [tasks[job] for job in jobs if job not in results]
    if not workers:
        for task in left:
            results[task.job] = run_job(task)
            tick(task.job)
    elif left:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(threads,)) as pool:
            try:
                for task, lines in work_off(pool, left):
                    results[task.job] = lines
                    tick(task.job)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                # They would go on asking a service that ends with this process. Phases that they finished are kept.
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
    return {job: results[job] for job in jobs}


def run_job(task: Task) -> list[PhaseMetrics]:
    """One method's phases."""
    with MemoryClient(task.url) as client:
        lines = _run(task, client).run(parse_method(task.job.method))
    document = {"key": _key(task), "metrics": [asdict(line) for line in lines]}
    write_atomically(_finished_path(task), json.dumps(document).encode())
    return lines


def train_base(task: Task) -> None:
    """The base phase that the jobs of a seed share, where it is not there yet."""
    with MemoryClient(task.url) as client:
        _run(task, client).base()


def _finished(task: Task) -> list[PhaseMetrics] | None:
    path = _finished_path(task)
    if not path.exists():
        return None
    said = json.loads(path.read_text())
    return [PhaseMetrics(**line) for line in said["metrics"]] if said["key"] == _key(task) else None


def _finished_path(task: Task) -> Path:
    return task.job.folder(task.out) / parse_method(task.job.method).slug / "finished.json"


def _key(task: Task) -> str:
    """What the figures depend on."""
    method = parse_method(task.job.method).configure(task.job.config(task.plan, task.full_sample_bytes))
    return json.dumps({"first_class": task.plan.first_class, "job": asdict(task.job), "config": method.to_dict()})


def _run(task: Task, client: MemoryClient) -> Run:
    return Run(
        task.job.config(task.plan, task.full_sample_bytes),
        load_problem(task.plan, task.job, task.directory),
        client,
        task.job.folder(task.out),
        directory=task.directory,
        base=task.job.base_path(task.out),
    )


def work_off(pool: Executor, tasks: Sequence[Task]) -> Iterator[tuple[Task, list[PhaseMetrics]]]:
    """Tasks and their figures as they are done. Those that share a base phase begin when it is there: a method that
    finds none would train it, once for each worker."""
    sharing: dict[Path, list[Task]] = {}
    alone = []
    for task in tasks:
        if parse_method(task.job.method).shares_base:
            sharing.setdefault(task.job.base_path(task.out), []).append(task)
        else:
            alone.append(task)
    bases = {pool.submit(train_base, group[0]): group for group in sharing.values()}
    runs = {pool.submit(run_job, task): task for task in alone}
    while bases or runs:
        waiting: list[Future[Any]] = [*bases, *runs]
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            if future in bases:
                future.result()
                # On all data takes twice as long: not last, or one worker goes on with it alone.
                group = sorted(bases.pop(future), key=lambda task: not parse_method(task.job.method).all_data)
                runs |= {pool.submit(run_job, task): task for task in group}
            else:
                yield runs[future], future.result()
                del runs[future]


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
