"""Replay batches as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data._utils.collate import default_collate_fn_map

from client.batch import ReplayBatch
from client.parts import TENSORS as PARTS
from memory_format import FormatError
from memory_format.extras import StoredArray

TensorBatch: TypeAlias = dict[str, torch.Tensor]

ARRAYS = (
    "exemplar_id",
    "class_id",
    "phase",
    "score",
    "rank",
    "grid",
    "patches",
    "patch_positions",
    "patch_valid",
    "token_ids",
    "token_positions",
    "token_valid",
    "text_length",
)
"""The arrays of :class:`~client.batch.ReplayBatch` that become tensors, under their own names."""


ARRAYS_PREFIX = "arrays."
"""What stands before the names of the user's own arrays."""


def to_tensors(batch: ReplayBatch) -> TensorBatch:
    """The arrays of a batch as tensors that share its memory; see :class:`~client.batch.ReplayBatch`.

    Where a record is of several pictures and texts, the arrays of :class:`~client.parts.BatchParts` come too.

    The user's own arrays come too, as ``arrays.NAME``: float32 ``(B, ...)``, padded with NaN to the largest, all of it
    NaN where a record has none of that name.

    Raises:
        FormatError: arrays of one name have different numbers of axes.
    """
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in ARRAYS}
    if batch.has_parts:
        tensors |= {name: torch.from_numpy(getattr(batch.in_parts, name)) for name in PARTS}
    if batch.device_patches is not None:
        tensors["patches"] = batch.device_patches
    found = batch.arrays()
    for name in sorted({name for arrays in found for name in arrays}):
        tensors[ARRAYS_PREFIX + name] = torch.from_numpy(_padded(name, [arrays.get(name) for arrays in found]))
    return tensors


def _padded(name: str, rows: list[StoredArray | None]) -> NDArray[np.float32]:
    shapes = [row.shape for row in rows if row is not None]
    if len({len(shape) for shape in shapes}) > 1:
        raise FormatError(f"array {name!r} has {sorted(map(len, shapes))} axes in records of one batch")
    padded = np.full((len(rows), *np.max(shapes, axis=0).tolist()), np.nan, dtype=np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            corner = tuple(slice(length) for length in row.shape)
            padded[place][corner] = row
    return padded


def pad_rows(rows: Sequence[Mapping[str, torch.Tensor]]) -> TensorBatch:
    """Records without their first axis as one batch, padded to the largest. One with rows that lack a name has it.

    Padded, not nested: sums over a narrowed tensor of ``torch.nested`` count what was cut away, in torch 2.14.1
    (findings/torch_nested_narrow.sh).
    """
    names = sorted({name for one in rows for name in one})
    if "num_pictures" in names:
        rows = [one if "num_pictures" in one else {**one, **_of_one_picture(one["grid"])} for one in rows]
    return {name: _stacked(name, [one.get(name) for one in rows]) for name in names}


def _of_one_picture(grid: torch.Tensor) -> TensorBatch:
    """What is not zero of the parts of a record that was not made of parts."""
    return {"num_pictures": grid.new_tensor(1), "picture_grid": grid[None]}


def _stacked(name: str, rows: Sequence[torch.Tensor | None]) -> torch.Tensor:
    some = [row for row in rows if row is not None]
    shape = [max(sizes) for sizes in zip(*(row.shape for row in some), strict=True)]
    empty = float("nan") if name.startswith(ARRAYS_PREFIX) else 0
    padded = torch.full((len(rows), *shape), cast(float, empty), dtype=some[0].dtype, device=some[0].device)
    for place, row in enumerate(rows):
        if row is not None:
            padded[place][tuple(slice(size) for size in row.shape)] = row
    return padded


class ReplayTensors(dict[str, torch.Tensor]):
    """A batch of :class:`ReplayDataset`: a dict that no ``DataLoader`` makes a batch of batches of."""


def _refuse_to_collate(batch: list[Any], **_: Any) -> None:
    raise TypeError(
        "ReplayDataset yields whole batches already: give it to DataLoader(dataset, batch_size=None); how many records "
        "they have is for ReplayDataset(batch_size=...)"
    )


default_collate_fn_map[ReplayTensors] = _refuse_to_collate
