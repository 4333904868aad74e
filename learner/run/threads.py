"""How many threads a run computes with: as many as the machine has cores free for it when it begins."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
import torch

from learner.run import machine
from learner.run.run_mark import RunError
from memory_format.machine import quota

MOMENT_SECONDS = 0.5
"""Of looking at what others compute: fifty of the kernel's ticks, to a twentieth of a core."""


@dataclass(frozen=True)
class Threads:
    """A number of threads, and in words where it comes from."""

    number: int
    why: str

    def __str__(self) -> str:
        return f"threads: {self.number} ({self.why})"


def fair_share(cores: float, others: Sequence[float]) -> float:
    """Cores for one more process: those that are free, or an equal share where others use more than that.

    The largest ``s`` with ``s + sum(min(other, s)) <= cores``: max-min fairness (Bertsekas & Gallager, Data Networks,
    6.5.2).

    Args:
        cores: how many there are.
        others: how many each of the other processes uses.
    """
    left, sharers = cores, len(others) + 1
    for other in sorted(others):
        if other >= left / sharers:
            break
        left -= other
        sharers -= 1
    return left / sharers


class Neighbours:
    """What other processes compute on the cores that this one may use, from when it is made on."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._begun = time.monotonic()
        self._all, self._own, self._each = self._busy(), time.process_time(), _processes()

    def _busy(self) -> Sequence[float]:
        """Seconds that each of the cores was busy."""
        cores = psutil.cpu_times(percpu=True)
        chosen = cores if self._cores is None else [cores[number] for number in self._cores if number < len(cores)]
        return [
            core.user + core.system + sum(getattr(core, name, 0.0) for name in ("nice", "irq", "softirq"))
            for core in chosen
        ]

    def look(self) -> tuple[int, Sequence[float]]:
        """The number of cores, and how many of them each other process used; :data:`MOMENT_SECONDS` after this was
        made."""
        time.sleep(max(0.0, self._begun + MOMENT_SECONDS - time.monotonic()))
        seconds = time.monotonic() - self._begun
        busy = sum(self._busy()) - sum(self._all) - (time.process_time() - self._own)
        each = [used - self._each.get(process, 0.0) for process, used in _processes().items()]
        used = [value / seconds for value in each if value > 0]
        cores, busy = len(self._all), max(0.0, busy) / seconds
        # Processes may compute on other cores; and what is busy may be one that ended, or of another container.
        here = min(1.0, busy / sum(used)) if used else 0.0
        return cores, [*(value * here for value in used), max(0.0, busy - sum(used))]


def _processes() -> Mapping[psutil.Process, float]:
    """Seconds that each other process has computed."""
    return {
        process: process.info["cpu_times"].user + process.info["cpu_times"].system
        for process in psutil.process_iter(["cpu_times"])
        if process.pid != os.getpid() and process.info["cpu_times"]
    }


def choose(given: int | None, before: Mapping[str, str], neighbours: Neighbours) -> Threads:
    """The number of threads of a run.

    The number changes the last bits of sums over many threads, as those of a layer norm's gradients: a run that goes on
    keeps it.

    Args:
        given: ``--threads``.
        before: what :func:`learner.run.machine.recall` gives of the run's folder.
        neighbours: made just now. Nothing of the run's own computes from then on.

    Raises:
        RunError: the folder tells of no number that could be kept.
    """
    if given is not None:
        return Threads(given, "--threads")
    if machine.THREADS in before:
        return Threads(_last(before[machine.THREADS]), "as this run began; --threads chooses another number")
    if os.environ.get("OMP_NUM_THREADS"):
        return Threads(torch.get_num_threads(), "OMP_NUM_THREADS")
    limit = quota()
    # Of the two threads that a core may have, torch takes one.
    most = torch.get_num_threads() if limit is None else min(torch.get_num_threads(), max(1, round(limit)))
    if most == 1:
        return Threads(1, "one core, or less, is all there is")
    cores, others = neighbours.look()
    number = max(1, min(most, round(fair_share(cores, others))))
    allowed = f"{cores} cores" if limit is None or limit >= cores else f"{limit:g} of {cores} cores allowed"
    return Threads(number, f"{allowed}, {sum(others):.1f} busy; --threads chooses another number")


def _last(said: str) -> int:
    number = said.rsplit(" ", 1)[-1]
    if not (number.isdecimal() and int(number)):
        raise RunError(f"{machine.FILE} says that the run had {said!r} threads: give it --threads N")
    return int(number)
