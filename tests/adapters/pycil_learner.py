"""PyCIL is in no registry. This has the methods of its ``BaseLearner`` that keep a rehearsal memory, with their
signatures, and a selection of its own; of PyCIL's code there is nothing here."""

from __future__ import annotations

from typing import Any

import numpy as np


class BaseLearner:
    """A learner without a loss."""

    def __init__(self, args: dict[str, Any]) -> None:
        self._cur_task = -1
        self._known_classes = self._total_classes = 0
        self._network: Any = None
        self._data_memory, self._targets_memory = np.array([]), np.array([])
        self._memory_size = args["memory_size"]
        self._memory_per_class: Any = args.get("memory_per_class")
        self._fixed_memory = args.get("fixed_memory", False)

    @property
    def exemplar_size(self) -> int:
        assert len(self._data_memory) == len(self._targets_memory)
        return len(self._targets_memory)

    @property
    def samples_per_class(self) -> int:
        return int(self._memory_per_class if self._fixed_memory else self._memory_size // self._total_classes)

    def build_rehearsal_memory(self, data_manager: Any, per_class: int) -> None:
        if self._fixed_memory:
            self._construct_exemplar_unified(data_manager, per_class)
        else:
            self._reduce_exemplar(data_manager, per_class)
            self._construct_exemplar(data_manager, per_class)

    def _reduce_exemplar(self, data_manager: Any, m: int) -> None:
        data, targets = self._data_memory.copy(), self._targets_memory.copy()
        self._data_memory, self._targets_memory = np.array([]), np.array([])
        for class_id in range(self._known_classes):
            of_class = np.flatnonzero(targets == class_id)[:m]
            self._append(data[of_class], targets[of_class])

    def _construct_exemplar(self, data_manager: Any, m: int) -> None:
        for class_id in range(self._known_classes, self._total_classes):
            data, _, _ = data_manager.get_dataset(
                np.arange(class_id, class_id + 1), source="train", mode="test", ret_data=True
            )
            brightest = np.argsort([-np.asarray(self._network.features(row)).sum() for row in data], kind="stable")
            self._append(data[brightest[:m]], np.full(m, class_id))

    def _construct_exemplar_unified(self, data_manager: Any, m: int) -> None:
        self._construct_exemplar(data_manager, m)

    def _append(self, data: Any, targets: Any) -> None:
        first = not len(self._data_memory)
        self._data_memory = data if first else np.concatenate((self._data_memory, data))
        self._targets_memory = targets if first else np.concatenate((self._targets_memory, targets))

    def _get_memory(self) -> tuple[Any, Any] | None:
        return (self._data_memory, self._targets_memory) if len(self._data_memory) else None

    def after_task(self) -> None:
        self._known_classes = self._total_classes
