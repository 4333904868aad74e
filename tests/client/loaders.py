"""What tests of loaders look at in batches."""

from __future__ import annotations

from collections.abc import Iterable

from client.tensors import TensorBatch


def steps_of(batches: Iterable[TensorBatch]) -> list[int]:
    return [int(batch["step"]) for batch in batches]
