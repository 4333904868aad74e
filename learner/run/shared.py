"""A buffer that several learners share: whose classes are whose, agreed on by their names.

Class ids are each learner's own. In the buffer a class has one id for all of them (``Buffer.name_classes``); a class of
which only others have samples has a number beyond the learner's own here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client import Buffer, PhaseTimeoutError
from learner import world
from learner.memory.exemplars import as_split
from learner.memory.settings import MemoryConfig
from learner.model.classifier import Classifier
from learner.run.problem import Problem
from learner.run.run_mark import RunError
from learner.training.train import Replay
from memory_format import Record


class SharedClasses:
    """Between the class ids of a learner and those of a buffer.

    Args:
        problem: whose classes have names.
        buffer: the one that is shared.
        patch_px: side of the patches that the learner's model reads.

    Raises:
        RunError: two classes have one name.
    """

    def __init__(self, problem: Problem, buffer: Buffer, patch_px: int) -> None:
        self._buffer, self._patch_px = buffer, patch_px
        self._beyond = max(len(problem.class_names), int(problem.train.class_ids.max()) + 1)
        names = [problem.name_of(class_id) for class_id in range(self._beyond)]
        if len(set(names)) != self._beyond:
            raise RunError(
                "two classes have one name here: learners of a shared buffer agree on classes by their names"
            )
        self._own = {name: class_id for class_id, name in enumerate(names)}
        mine = problem.seen(len(problem.phases) - 1)
        named = world.from_first(lambda: buffer.name_classes([problem.name_of(c) for c in mine]))
        self._ids = dict(zip(mine, named, strict=True))

    def to_buffer(self, class_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The buffer's ids of classes that the learner has samples of."""
        return np.array([self._ids[int(class_id)] for class_id in class_ids], dtype=np.int64)

    def to_own(self, class_ids: Iterable[int]) -> NDArray[np.int64]:
        """The learner's ids of the buffer's classes; those without a name, or with one that its data does not know,
        have numbers beyond its own."""
        own = {theirs: mine for mine, theirs in self._ids.items()}
        return np.array([own.get(int(id_), self._beyond + int(id_)) for id_ in class_ids], dtype=np.int64)

    def meet(self, model: Classifier) -> None:
        """Let a model know the classes that others have brought since."""
        names, held = world.from_first(self._others)
        for class_id in held:
            self._ids.setdefault(self._own.get(names.get(class_id, ""), self._beyond + class_id), class_id)
        known = set(model.classes_seen)
        new = [theirs for mine, theirs in sorted(self._ids.items()) if mine not in known]
        records = world.from_first(lambda: self._first_of(new))
        if records:
            own = self.to_own(record.class_id for record in records)
            model.add_classes(as_split(records, own, self._patch_px))

    def _others(self) -> tuple[dict[int, str], list[int]]:
        """Names of classes, and those that anything is held of."""
        return self._buffer.class_names(), [entry.class_id for entry in self._buffer.stats().classes]

    def _first_of(self, class_ids: list[int]) -> list[Record]:
        """Some exemplars of each class."""
        found: dict[int, list[Record]] = {class_id: [] for class_id in class_ids}
        for first in range(0, len(class_ids), _ASKED_AT_ONCE):
            for record in self._buffer.records(class_id=class_ids[first : first + _ASKED_AT_ONCE]):
                if len(found[record.class_id]) < _LOOKED_AT:
                    found[record.class_id].append(record)
        return [record for of_class in found.values() for record in of_class]

    def known(self, model: Classifier) -> list[int]:
        """The buffer's ids of the classes that a model knows."""
        return [self._ids[class_id] for class_id in model.classes_seen if class_id in self._ids]

    def others(self, model: Classifier, problem: Problem) -> list[int]:
        """Classes of the data that the model knows from others alone."""
        mine = set(problem.seen(len(problem.phases) - 1))
        return [class_id for class_id in model.classes_seen if class_id < self._beyond and class_id not in mine]

    def replayed(self, replay: Replay) -> Replay:
        """A batch of the buffer with the learner's class ids."""
        return replace(replay, class_ids=self.to_own(replay.class_ids))

    def known_of(self, model: Classifier, records: Iterable[Record]) -> list[Record]:
        """Those whose classes a model knows: others may have brought some since it met them."""
        known = set(self.known(model))
        return [record for record in records if record.class_id in known]

    def class_ids_of(self, records: Iterable[Record]) -> NDArray[np.int64]:
        """The learner's class ids of records."""
        return self.to_own(record.class_id for record in records)


class InStep:
    """Phases of a learner, told to those who share its buffer: it is in a phase until all of that is pushed.

    Args:
        learner_id: under whose name it pushes.
        memory: says who waits for whom.
        num_phases: of the learner; others may have more.
    """

    def __init__(self, buffer: Buffer, learner_id: str, memory: MemoryConfig, num_phases: int) -> None:
        self._buffer = buffer
        self._learner_id = learner_id
        self._memory = memory
        self._num_phases = num_phases

    def begin(self, phase: int) -> None:
        """It begins with this phase, or goes on with it."""
        world.from_first(lambda: self._buffer.enter_phase(phase, learner_id=self._learner_id))

    def end(self, phase: int) -> None:
        """It has pushed all of a phase. Waits for those that it is in step with.

        Raises:
            RunError: they have not come so far in time.
        """
        world.from_first(lambda: self._end(phase))

    def _end(self, phase: int) -> None:
        following, others, minutes = phase + 1, self._memory.in_step, self._memory.wait_minutes
        self._buffer.enter_phase(following, learner_id=self._learner_id, ended=following == self._num_phases)
        if not others:
            return
        try:
            self._buffer.wait_for_phase(following, others, timeout=60 * minutes)
        except PhaseTimeoutError as error:
            raise RunError(
                f"{error}. What is finished is kept: the same command waits again, and longer with memory.wait_minutes"
            ) from error


_LOOKED_AT = 32
"""Exemplars of a class by which a head begins to tell it."""
_ASKED_AT_ONCE = 100
"""Classes, which an address has to hold."""
