"""What a training goes by, and shows: one cycle of the learning rate, and how far it is."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from typing import TextIO

import torch
from tqdm import tqdm

LINE_SECONDS = 60.0
"""From one line to the next where the output is no terminal: a log is read later, and a bar there is thousands."""


class AdamW(torch.optim.AdamW):
    """torch's, without what it puts around its methods for ``torch.compile``: that imports the compiler, of 150 MiB,
    whether anything is compiled or not (torch 2.14)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)


def one_cycle(optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Up to each group's rate in the first fifth of the steps, down to nothing in the rest; for any number of them,
    none too. No group may join later: of torch 2.14.1's schedules some take it to a multiple of its rate, this one
    fails (findings/torch_added_group_rate.sh)."""
    total = num_steps + 1  # the schedule sets the first step's rate before it
    rising = 0.2
    if rising * total == 1:
        # torch's rise would be from step 0 to step 0, and a division by zero (2.14): one that ends just after it.
        rising *= 1.01
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total, pct_start=rising)


class Progress:
    """How far a long piece of work is, on stderr: a bar on a terminal, a line now and then in a log. A context manager.

    Args:
        total: how many there will be.
        what: what they are of; empty = say nothing.
        stream, clock: for tests.
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._what, self._clock = total, what, clock
        self._stream = stream or sys.stderr
        self._done = 0
        self._said = clock()
        terminal = self._stream.isatty()
        self._bar = tqdm(
            total=total,
            desc=what,
            unit="step",
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            disable=not (terminal and what),
        )
        self._lines = bool(what) and not terminal

    def step(self, **figures: float) -> None:
        """One more is done."""
        self._done += 1
        self._bar.update()
        shown = {name: f"{value:.3f}" for name, value in figures.items()}
        self._bar.set_postfix(shown, refresh=False)
        if self._lines and self._clock() - self._said >= LINE_SECONDS:
            self._said = self._clock()
            words = "".join(f", {name} {value}" for name, value in shown.items())
            self._stream.write(f"{self._what}: step {self._done} of {self._total}{words}\n")
            self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
