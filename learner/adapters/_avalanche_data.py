"""Avalanche's data sets, and the buffers in its storage policies, as the adapter reads and makes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Dataset

from learner.adapters._exemplars import Exemplars
from memory_format import FormatError

with warnings.catch_warnings():
    # Of a solver of quadratic programs that only two of its strategies need.
    warnings.simplefilter("ignore")
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.training.storage_policy import ExemplarsBuffer

TAG: Final = "exemplar_id"
"""An attribute that no sample ends in: the id of an exemplar, or -1 - place of a new sample."""


class Pictures(Dataset[tuple[Any, Any]]):
    """Exemplars by place: picture and target, before any transform."""

    def __init__(self, exemplars: Exemplars[Any], exemplar_ids: Sequence[int], targets: Sequence[Any]) -> None:
        self._exemplars = exemplars
        self._ids = list(exemplar_ids)
        self._targets = targets

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        (found,) = self._exemplars.get([self._ids[place]], ahead=self._ids)
        # A transform may write to what it is given.
        return (found.clone() if isinstance(found, torch.Tensor) else found.copy()), self._targets[place]


class With:
    """One of Avalanche's objects with other attributes than it has."""

    def __init__(self, of: Any, **others: Any) -> None:
        self._of = of
        vars(self).update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def leaves(policy: ExemplarsBuffer) -> Iterator[ExemplarsBuffer]:
    """The buffers that have data sets of their own."""
    if hasattr(policy, "buffer_groups"):
        for group in policy.buffer_groups.values():
            yield from leaves(group)
    else:
        yield policy


def tags_of(dataset: AvalancheDataset) -> list[int]:
    return [int(tag) for tag in getattr(dataset, TAG)] if len(dataset) else []


def untransformed(dataset: AvalancheDataset) -> Any:
    return dataset.remove_current_transform_group()._flat_data


def transforms_of(dataset: AvalancheDataset) -> list[Any]:
    """The groups of transforms around a data set, the innermost first."""
    found, level = [], dataset._flat_data
    while hasattr(level, "_transform_groups"):
        found.append(copy(level._transform_groups))
        level = level._datasets[0]
    return found[::-1]


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor | np.generic) else value


def kept(name: str, value: Any) -> Any:
    """An attribute as it is kept: a vector as a tensor of float32."""
    if not isinstance(value, torch.Tensor | np.ndarray) or not value.ndim:
        return plain(value)
    vector = torch.as_tensor(value).detach().cpu()
    if not vector.is_floating_point():
        raise FormatError(f"the attribute {name!r} has vectors of {vector.dtype}: arrays of records have floats")
    return vector.float()
