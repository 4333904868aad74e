"""Mammoth 0.2.2 is in no registry. This has the signatures of its ``Buffer``, and reservoir sampling by numpy's
generator, as its documentation describes them; of its code there is nothing here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Reservoir:
    """Place of the next example: free ones first, later any with equal chances, or -1."""

    def __init__(self, buffer_size: int, device: Any) -> None:
        self.buffer_size = buffer_size
        self.device = device

    def __call__(self, num_seen_examples: int) -> int:
        if num_seen_examples < self.buffer_size:
            return num_seen_examples
        drawn = int(np.random.randint(0, num_seen_examples + 1))  # noqa: NPY002
        return drawn if drawn < self.buffer_size else -1


class Buffer:
    """Examples, and what belongs to each."""

    examples: Tensor

    def __init__(
        self, buffer_size: int, device: Any = "cpu", sample_selection_strategy: str = "reservoir", **kwargs: Any
    ) -> None:
        self._buffer_size = buffer_size
        self.device = device
        self.num_seen_examples = 0
        self.attributes = ["examples", "labels", "logits", "task_labels", "true_labels"]
        self.attention_maps: list[Any] = [None] * buffer_size
        self.sample_selection_strategy = sample_selection_strategy
        self.sample_selection_fn = Reservoir(buffer_size, device)

    @property
    def buffer_size(self) -> int:
        return self._buffer_size

    @property
    def used_attributes(self) -> list[str]:
        return [name for name in self.attributes if hasattr(self, name)]

    def __len__(self) -> int:
        return min(self.num_seen_examples, self.buffer_size)

    def init_tensors(self, **given: Tensor | None) -> None:
        for name, values in given.items():
            if values is not None:
                kind = torch.int64 if name.endswith("labels") else torch.float32
                setattr(self, name, torch.zeros((self._buffer_size, *values.shape[1:]), dtype=kind))

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        attention_maps: Any = None,
        true_labels: Tensor | None = None,
        sample_selection_scores: Any = None,
    ) -> None:
        given = {
            "examples": examples,
            "labels": labels,
            "logits": logits,
            "task_labels": task_labels,
            "true_labels": true_labels,
        }
        if not hasattr(self, "examples"):
            self.init_tensors(**given)
        for row in range(len(examples)):
            index = self.sample_selection_fn(self.num_seen_examples)
            self.num_seen_examples += 1
            if index >= 0:
                for name, values in given.items():
                    if values is not None:
                        getattr(self, name)[index] = values[row]

    def get_data(
        self,
        size: int,
        transform: Any = None,
        return_index: bool = False,
        device: Any = None,
        mask_task_out: Any = None,
        cpt: Any = None,
        return_not_aug: bool = False,
        not_aug_transform: Any = None,
        force_indexes: Any = None,
    ) -> tuple[Tensor, ...]:
        available = min(self.num_seen_examples, self.examples.shape[0])
        places = np.random.choice(available, size=min(size, available), replace=False)  # noqa: NPY002
        found = self.examples[places]
        if transform is not None:
            found = torch.stack([transform(one) for one in found])
        rest = [getattr(self, name)[places] for name in self.used_attributes[1:]]
        return (*((torch.tensor(places),) if return_index else ()), found, *rest)

    def get_all_data(self, transform: Any = None, device: Any = None) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name)[: len(self)] for name in self.used_attributes)

    def empty(self) -> None:
        for name in self.used_attributes:
            delattr(self, name)
        self.num_seen_examples = 0
