"""Services and learners, each a process of its own, and what the learners get."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.common.processes import ChildProcess, python_module
from benchmarks.common.records import Pictures
from benchmarks.common.replicas import on_cores, start_replicas
from benchmarks.replicas.learner import BATCH, BUFFER
from client import MemoryClient
from memory_format import decode_batch, encode_batch
from memory_service.testing import ServiceProcess
from memory_service.testing.postgres import PostgresServer
from memory_service.testing.round_trips import CountingProxy

LEARNERS: Final = (1, 2, 4, 8)
KINDS: Final = ("embedded", "replicas")
SAMPLERS: Final = ("sample",) * 4
HELD: Final = 4_000
"""Records in the buffer: pushes of more evict."""
RECORD_BYTES: Final = 4_000
DRAWN: Final = 256
PUSHED: Final = 1_000


@dataclass
class Load:
    """What learners got at once, of one kind of request or both.

    Attributes:
        pushed, sampled: records a second, of all learners together.
        push_ms, sample_ms: a request's median and the 99th of 100.
        cores: of the machine that the learners themselves took.
    """

    pushed: float
    sampled: float
    push_ms: tuple[float, float]
    sample_ms: tuple[float, float]
    cores: float = 0.0

    @property
    def moved(self) -> float:
        """Records a second, pushed and sampled."""
        return self.pushed + self.sampled


@dataclass
class Run:
    """What was found.

    Attributes:
        seconds: of each load.
        loads: by kind of service and number of learners: each pushes and samples.
        alone, beside: by kind of service: a learner that only pushes, without others and beside four that sample,
            medians of turns.
        samplers, samplers_beside: those four, without it and beside it.
        one, two: of replicas on one core and on two, with four learners a core; None where cores cannot be chosen.
        draw_ms, push_ms: by kind of service: one client's draw of 256 and push of 1,000 records, medians of turns.
        round_trips: to the database, of a draw and of a push of 1,000; of the push's, one is for all that is uploaded,
            and for another one nobody waits.
    """

    seconds: float
    loads: dict[str, dict[int, Load]] = field(default_factory=dict)
    alone: dict[str, Load] = field(default_factory=dict)
    beside: dict[str, Load] = field(default_factory=dict)
    samplers: dict[str, Load] = field(default_factory=dict)
    samplers_beside: dict[str, Load] = field(default_factory=dict)
    one: Load | None = None
    two: Load | None = None
    draw_ms: dict[str, float] = field(default_factory=dict)
    push_ms: dict[str, float] = field(default_factory=dict)
    round_trips: dict[str, int] = field(default_factory=dict)


class Machines:
    """Where services run; all end with the block.

    Args:
        segments: URL of an object store's empty prefix; None = a directory, by the same code.
    """

    def __init__(self, place: Path, stack: ExitStack, segments: str | None) -> None:
        self._place, self._stack, self._segments = place, stack, segments
        self._numbers = itertools.count()
        self._held = Pictures(RECORD_BYTES).batch(0, HELD)
        self.pushed = place / "pushed.arrow"
        self.pushed.write_bytes(encode_batch(self._held.records[:PUSHED]))
        self.database = PostgresServer(durable=True)
        stack.callback(self.database.remove)

    def embedded(self) -> str:
        """URL of a service that needs nothing else."""
        name = f"embedded-{next(self._numbers)}"
        return self._stack.enter_context(ServiceProcess(self._place / name, log=self._place / f"{name}.log")).url

    def replicas(self, cores: Sequence[Sequence[int]], index: str | None = None) -> list[str]:
        """URLs of replicas over one index and one object store, a replica for each of the groups of cores."""
        number = next(self._numbers)
        segments = self._segments and f"{self._segments}/{number}"
        index = index or self.database.new_schema()
        place = self._place / f"replicas-{number}"
        return start_replicas(place, self._stack, index=index, segments=segments, cores=cores)

    def fill(self, url: str) -> None:
        """Make the buffer of a service and fill it."""
        with MemoryClient(url) as memory:
            memory.create_buffer(BUFFER, budget_bytes=self._held.charge, eviction="fifo").push(self._held.records)


def load(
    urls: Sequence[str], kinds: Sequence[str], seconds: float, pushed: Path, cores: Sequence[Sequence[int]] = ((),)
) -> list[Load]:
    """Let learners go at once for so long.

    Args:
        urls: learner ``i`` asks the one at ``i`` modulo their number, and is on the cores there.
        kinds: what each of them does.
        pushed: the records, as a batch.

    Returns:
        What each kind of learner got together, in the order in which kinds come first.
    """
    with ExitStack() as stack:
        learners = []
        for number, kind in enumerate(kinds):
            with on_cores(cores[number % len(cores)]):
                given = [urls[number % len(urls)], str(number), kind, str(pushed)]
                command = python_module("benchmarks.replicas.learner", *given)
                learners.append(stack.enter_context(ChildProcess(command, pushed.with_suffix(".log"))))
        for learner in learners:
            learner.write_line(str(seconds))
        found = [json.loads(learner.read_line()) for learner in learners]
    by_kind = {kind: [told for told, of in zip(found, kinds, strict=True) if of == kind] for kind in kinds}
    return [_load(told, seconds) for told in by_kind.values()]


def _load(told: Sequence[Mapping[str, Sequence[float]]], seconds: float) -> Load:
    pushes, samples = ([second for one in told for second in one[kind]] for kind in ("push", "sample"))
    pushed, sampled = (len(found) * BATCH / seconds for found in (pushes, samples))
    cores = sum(one["processor"][0] for one in told) / seconds
    return Load(pushed, sampled, _shown(pushes), _shown(samples), cores)


def _median(loads: Sequence[Load]) -> Load:
    """Of each figure by itself."""
    rows = [[one.pushed, one.sampled, *one.push_ms, *one.sample_ms, one.cores] for one in loads]
    pushed, sampled, *ms, cores = np.median(rows, axis=0).tolist()
    return Load(pushed, sampled, (ms[0], ms[1]), (ms[2], ms[3]), cores)


def _shown(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return 0.0, 0.0
    half, most = np.percentile(seconds, [50, 99])
    return 1e3 * float(half), 1e3 * float(most)


def measure(place: Path, run: Run, segments: str | None, turns: int, rounds: int, tick: Callable[[str], None]) -> None:
    """Find it all; what is found is added to ``run``.

    Args:
        turns: of loads whose ratio is told, since what a machine gives drifts by a tenth and more within a minute.
        rounds: of one client's draws.

    Raises:
        memory_service.testing.postgres.NoPostgresError: no PostgreSQL server is installed.
    """
    with ExitStack() as stack:
        machines = Machines(place, stack, segments)
        _at_once(machines, run, turns, tick)
        _on_cores(machines, run, tick)
        _one_client(machines, run, place, rounds, tick)


def _at_once(machines: Machines, run: Run, turns: int, tick: Callable[[str], None]) -> None:
    for kind in KINDS:
        urls = [machines.embedded()] if kind == "embedded" else machines.replicas([(), ()])
        machines.fill(urls[0])
        run.loads[kind] = {}
        for number in LEARNERS:
            tick(f"{kind}: {number} learners")
            (run.loads[kind][number],) = load(urls, ["both"] * number, run.seconds, machines.pushed)
        found: list[list[Load]] = []
        for turn in range(turns):
            tick(f"{kind}: pushes beside samplers, {turn + 1} of {turns}")
            together = (["push"], SAMPLERS, ["push", *SAMPLERS])
            found.append([one for kinds in together for one in load(urls, kinds, run.seconds, machines.pushed)])
        run.alone[kind], run.samplers[kind], run.beside[kind], run.samplers_beside[kind] = (
            _median(of) for of in zip(*found, strict=True)
        )


def _on_cores(machines: Machines, run: Run, tick: Callable[[str], None]) -> None:
    """A core is a machine: all that runs on it is a replica and four learners, and what the database does for them."""
    cores = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return
    for chosen in (cores[:1], cores):
        tick(f"replicas on {len(chosen)} cores")
        os.sched_setaffinity(machines.database.pid, chosen)
        groups = [(core,) for core in chosen]
        urls = machines.replicas(groups)
        machines.fill(urls[0])
        (found,) = load(urls, ["both"] * 4 * len(chosen), run.seconds, machines.pushed, groups)
        run.one, run.two = (found, None) if len(chosen) == 1 else (run.one, found)


def _one_client(machines: Machines, run: Run, place: Path, rounds: int, tick: Callable[[str], None]) -> None:
    proxied = place / "proxy"
    proxied.mkdir()
    proxy = CountingProxy(proxied, Path(machines.database.socket))
    index = machines.database.new_schema().replace(machines.database.socket, str(proxied))
    urls = {"embedded": machines.embedded(), "replicas": machines.replicas([()], index)[0]}
    pushed = decode_batch(machines.pushed.read_bytes())
    seconds: dict[str, dict[str, list[float]]] = {what: {kind: [] for kind in KINDS} for what in ("draw", "push")}
    trips: dict[str, list[int]] = {"draw": [], "push": []}
    tick("one client")
    with ExitStack() as stack:
        for url in urls.values():
            machines.fill(url)
        buffers = {kind: stack.enter_context(MemoryClient(url)).buffer(BUFFER) for kind, url in urls.items()}
        for step in range(rounds):
            for what in ("draw", "push") if step % 10 == 9 else ("draw",):
                for kind in KINDS if step % 2 else reversed(KINDS):
                    began = time.perf_counter()
                    if what == "push":
                        buffers[kind].push(pushed)
                    else:
                        buffers[kind].sample(DRAWN, seed=0, step=step)
                    seconds[what][kind].append(time.perf_counter() - began)
        asked: dict[str, Callable[[int], object]] = {
            "draw": lambda step: buffers["replicas"].sample(DRAWN, seed=1, step=step),
            "push": lambda _: buffers["replicas"].push(pushed),
        }
        for what, ask in asked.items():
            for step in range(9):
                before = proxy.round_trips
                ask(step)
                # For one of them nobody waits.
                time.sleep(0.05)
                trips[what].append(proxy.round_trips - before)
    run.draw_ms, run.push_ms = (
        {kind: 1e3 * statistics.median(seconds[what][kind]) for kind in KINDS} for what in ("draw", "push")
    )
    run.round_trips = {what: round(statistics.median(counted)) for what, counted in trips.items()}
    proxy.close()
