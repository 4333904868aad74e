"""What all methods of a run have in common."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client import MemoryClient
from learner.run.config import LearnerConfig
from learner.run.methods import Method
from learner.run.problem import Problem
from learner.run.run_mark import RunMark, buffer_name, mark_of


@dataclass(frozen=True)
class Setup:
    """One configuration in one folder.

    Attributes:
        client: the memory. Buffers are named as :func:`~learner.run.run_mark.buffer_name` says.
        out: the run's folder.
        directory: where data and weights are kept; None = the usual place.
    """

    config: LearnerConfig
    problem: Problem
    client: MemoryClient
    out: Path
    directory: Path | None
    device: torch.device

    @functools.cached_property
    def mark(self) -> RunMark:
        """What tells the run's buffers from those of others."""
        return mark_of(self.out)

    def buffer_name(self, method: Method) -> str:
        """What the method's buffer is called."""
        return buffer_name(self.mark, method.configure(self.config).memory.buffer, method.slug)

    def generator(self, phase: int, purpose: int) -> torch.Generator:
        """Randomness of one purpose in one phase: the same after a resume as without one."""
        seed = np.random.SeedSequence([self.config.seed, phase, purpose]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))
