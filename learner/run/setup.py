"""What all methods of a run have in common, and the buffer of each: whose it is, and whether it holds what the
checkpoints say."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client import Buffer, BufferInfo, MemoryClient
from learner import world
from learner.memory.settings import MemoryConfig
from learner.run.config import LearnerConfig
from learner.run.methods import Method
from learner.run.problem import Problem
from learner.run.run_mark import RunError, RunMark, buffer_name, mark_of
from memory_format import BudgetError, ConflictError, NotFoundError
from memory_format.api.terms import MAX_CLASS_NAME

log = logging.getLogger(__name__)

VOCABULARY = "BERT's uncased WordPiece"
"""What people call the vocabulary that :func:`~learner.model.backbones.weights.wordpiece_tokenizer` has."""


@dataclass(frozen=True)
class Setup:
    """One configuration in one folder.

    Attributes:
        client: the memory. Buffers are named as :func:`~learner.run.run_mark.buffer_name` says.
        out: the run's folder.
        directory: where data and weights are kept; None = the usual place.
        overwrite: buffers of other runs that have this one's names are deleted.
    """

    config: LearnerConfig
    problem: Problem
    client: MemoryClient
    out: Path
    directory: Path | None
    device: torch.device
    overwrite: bool = False

    @functools.cached_property
    def mark(self) -> RunMark:
        """What tells the run's buffers from those of others."""
        return world.from_first(lambda: mark_of(self.out))

    def buffer_name(self, method: Method) -> str:
        """What the method's buffer is called."""
        memory = method.configure(self.config).memory
        return memory.join or buffer_name(self.mark, memory.buffer, method.slug)

    def generator(self, phase: int, purpose: int) -> torch.Generator:
        """Randomness of one purpose in one phase: the same after a resume as without one."""
        # Hashed, so that the lower half differs too: on a CPU torch 2.14.1 drops the upper one of a seed
        # (findings/torch_seed_halves.sh).
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

    @property
    def learner_id(self) -> str:
        """Who pushes: whom the settings name; else the run in a buffer that is shared, and the method in its own."""
        return self._memory.learner or (self._setup.mark.id if self._memory.join else self._method.slug)

    def look(self, held: int) -> int:
        """How many exemplars the buffer holds; made where there is none, and what is there stays as it is.

        Args:
            held: how many the checkpoints say.

        Raises:
            RunError: it is another run's, or another one than the checkpoints tell of.
        """
        info = self._info()
        if self._memory.join and info is not None and info.owner:
            raise RunError(f"buffer {self.name} is not shared: {_whose(info)}. Join another one")
        if self._memory.join and info is not None:
            for name, value in self._fit().items():
                if (there := getattr(info, name)) not in (None, "", value):
                    raise RunError(f"{name} of the shared buffer {self.name} is {there}, and this run's is {value}")
        if info is not None and not self._is_mine(info) and not self._setup.overwrite:
            raise RunError(
                f"buffer {self.name} is not this run's: {_whose(info)}. It stays as it is; give this run buffers of "
                f"another name (--set memory.buffer=NAME) or another --out, or say --overwrite to delete that one"
            )
        if held and not (info and info.num_records and self._is_mine(info)):
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
        left_over, info = self.look(held), self._info()
        if self._memory.join and info is not None:
            joined = Buffer(self._setup.client, self.name)
            self._say_words(joined)
            if fresh and not self._created:
                self._begin_anew(joined)
            return joined
        if info is not None and not self._is_mine(info):
            log.warning("buffer %s was another run's: %s; deleted, as --overwrite says", self.name, _whose(info))
            self._setup.client.delete_buffer(self.name, owner=info.owner)
        elif info is not None and fresh and not self._created:
            # Exemplars whose checkpoints are gone, or are of other settings, would be counted as this run's.
            if left_over:
                log.warning("buffer %s is left from before this run began anew: deleted", self.name)
            self._setup.client.delete_buffer(self.name, owner=info.owner)
        elif info is not None and not info.owner:
            # Of an earlier version, which had descriptions alone.
            Buffer(self._setup.client, self.name).configure(**self._fit(), owner=self._setup.mark.id)
        return self._create()

    def _begin_anew(self, joined: Buffer) -> None:
        """Take what this run pushed out of a shared buffer, as it is of a beginning that does not count any more."""
        if self._memory.learner and joined.stats().learners.get(self.learner_id):
            # Other runs may have pushed under the name.
            raise RunError(
                f"{self.learner_id} has exemplars in {self.name}, and this run has not pushed them. Delete them "
                f"(Buffer.delete(learner_id={self.learner_id!r})), or give the run another memory.learner"
            )
        joined.delete(learner_id=self.learner_id)

    def _info(self) -> BufferInfo | None:
        try:
            return Buffer(self._setup.client, self.name).info()
        except NotFoundError:
            return None

    def _is_mine(self, info: BufferInfo) -> bool:
        """Buffers of earlier versions say it in their descriptions alone."""
        mark = self._setup.mark
        if self._memory.join:
            return not info.owner
        return info.owner == mark.id or (not info.owner and mark.owns(info.description))

    def _fit(self) -> dict[str, Any]:
        """What its records are to be."""
        problem = self._setup.problem
        named = {"vocabulary": problem.vocabulary, "vocabulary_name": VOCABULARY} if problem.vocabulary else {}
        return {"patch_px": self._memory.patch_px or self._setup.config.backbone.patch_px, **named}

    def _create(self) -> Buffer:
        memory, phases = self._memory, self._setup.problem.phases
        try:
            buffer = self._setup.client.create_buffer(
                self.name,
                budget_bytes=None if memory.grows else memory.budget_bytes,
                full_samples_per_class=memory.full_samples_per_class if memory.grows else None,
                full_sample_bytes=memory.full_sample_bytes if memory.grows else None,
                disk_limit_bytes=memory.disk_limit_bytes(sum(map(len, phases)), num_phases=len(phases)),
                description="" if memory.join else self._setup.mark.description,
                owner="" if memory.join else self._setup.mark.id,
                **self._fit(),
            )
        except ConflictError as error:
            raise RunError(f"{error.message}; give the run another --out or delete the buffer") from error
        self._say_words(buffer)
        class_ids = self._setup.problem.seen(len(phases) - 1)
        if self._setup.problem.class_names and not memory.join:
            buffer.name_classes(names_of(self._setup.problem, class_ids), class_ids)
        return buffer

    def _say_words(self, buffer: Buffer) -> None:
        """Tell the words of the token ids, for whoever looks at the buffer; without them a run goes as well."""
        if words := self._setup.problem.words:
            try:
                buffer.put_vocabulary(words)
            except BudgetError as error:
                log.warning("buffer %s shows token ids, and no words: %s", self.name, error.message)


def names_of(problem: Problem, class_ids: Sequence[int]) -> list[str]:
    """What classes are called in a buffer, where a name is one class's: several of one name end in their numbers."""
    names = [problem.name_of(class_id).replace("\0", "") or str(class_id) for class_id in class_ids]
    plain = [name.encode(errors="replace").decode()[: MAX_CLASS_NAME - 12] for name in names]
    return [
        name if plain.count(name) == 1 else f"{name} ({class_id})"
        for name, class_id in zip(plain, class_ids, strict=True)
    ]


def _whose(info: BufferInfo) -> str:
    if info.description:
        return f"it is that of {info.description!r}"
    return f"it is that of run {info.owner}" if info.owner else "it does not say whose it is"
