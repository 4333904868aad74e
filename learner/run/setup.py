"""What all methods of a run have in common, and the buffer of each: whose it is, and whether it holds what the
checkpoints say."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client import Buffer, MemoryClient
from learner.memory.settings import MemoryConfig
from learner.run.config import LearnerConfig
from learner.run.methods import Method
from learner.run.problem import Problem
from learner.run.run_mark import RunError, RunMark, buffer_name, mark_of
from memory_format import ConflictError, NotFoundError

log = logging.getLogger(__name__)


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


class MethodBuffer:
    """A method's buffer on the service."""

    def __init__(self, setup: Setup, method: Method, memory: MemoryConfig) -> None:
        self._setup = setup
        self._memory = memory
        self._method = method
        self._created = False

    @functools.cached_property
    def name(self) -> str:
        """What the buffer is called."""
        return self._setup.buffer_name(self._method)

    def look(self, held: int) -> int:
        """How many exemplars the buffer holds; made where there is none, and what is there stays as it is.

        Args:
            held: how many the checkpoints say.

        Raises:
            RunError: it is another run's, or another one than the checkpoints tell of.
        """
        try:
            info = Buffer(self._setup.client, self.name).info()
        except NotFoundError:
            info = None
        if info is not None and not self._setup.mark.owns(info.description):
            whose = f"it is that of {info.description!r}" if info.description else "it does not say whose it is"
            raise RunError(
                f"buffer {self.name} is not this run's: {whose}. It stays as it is; give this run buffers of another "
                f"name (--set memory.buffer=NAME) or another --out, or delete that buffer if nobody needs it"
            )
        if held and not (info and info.num_records):
            raise RunError(
                f"{self._setup.out} says that buffer {self.name} holds {held} exemplars, but it is empty: "
                f"is this the right service? To start over, delete {self._setup.out}"
            )
        if info is None:
            self._create()
            self._created = True
        return info.num_records if info else 0

    def open(self, held: int, *, fresh: bool) -> Buffer:
        """The buffer; an empty one where the method has not run before (``fresh``).

        Raises:
            RunError: as :meth:`look`.
        """
        left_over = self.look(held)
        if fresh and not self._created:
            # Exemplars whose checkpoints are gone, or are of other settings, would be counted as this run's.
            if left_over:
                log.warning("buffer %s is left from before this run began anew: deleted", self.name)
            self._setup.client.delete_buffer(self.name)
        return self._create()

    def _create(self) -> Buffer:
        memory, phases = self._memory, self._setup.problem.phases
        try:
            return self._setup.client.create_buffer(
                self.name,
                budget_bytes=None if memory.grows else memory.budget_bytes,
                full_samples_per_class=memory.full_samples_per_class if memory.grows else None,
                full_sample_bytes=memory.full_sample_bytes if memory.grows else None,
                disk_limit_bytes=memory.disk_limit_bytes(sum(map(len, phases)), num_phases=len(phases)),
                description=self._setup.mark.description,
            )
        except ConflictError as error:
            raise RunError(f"{error.message}; give the run another --out or delete the buffer") from error
