"""Sequences of different lengths in one pass, without what would fill them up.

A padded batch ``(B, N, D)`` becomes the rows ``(S, D)`` of its valid places: linear maps, norms and sums of a block see
no others, and one pass takes whole pictures beside exemplars of a few patches. Attention alone needs to know which rows
are one sample's. It pads again, samples of similar length together (:class:`Bucket`).

A quarter of the places of a training step is padding otherwise (docs/decisions/0002). Packing asks where the valid
places are before it can begin, which would make a GPU wait in each pass: there, and where blocks are compiled for any
length, the only bucket is the padded batch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIMILAR = 0.6
"""Share of a bucket's longest sequence that its shortest has at least, where it is worth a bucket more."""

WORTH = 2**15
"""Scores of a head that another bucket has to save: about what the calls that it takes cost (docs/decisions/0002)."""

MASKED = torch.finfo(torch.bfloat16).min
"""What is added to the score of a place that is not there."""


@dataclass(frozen=True)
class Bucket:
    """Samples whose rows follow each other in the packed batch.

    Attributes:
        samples: ``(b,)``, which of the batch.
        num_rows: s, rows that they have together.
        length: n, of the longest.
        rows: ``(b * n,)``, which of the s rows stands at each padded place; at padding any row of the sample. None: the
            rows are the padded places.
        places: ``(s,)``, the padded place of each row. None: the same.
        padding: the padded places at which no row stands. None: the same.
        mask: ``(b, n)``, 0 at valid places and very negative at padding.
    """

    samples: Tensor
    num_rows: int
    length: int
    rows: Tensor | None
    places: Tensor | None
    padding: Tensor | None
    mask: Tensor

    def padded(self, values: Tensor, num_heads: int) -> Tensor:
        """Rows ``(s, D)`` -> ``(H, b, n, D / H)``; what stands at padding is finite and says nothing."""
        if self.rows is None:
            return values.reshape(len(self.samples), self.length, num_heads, -1).permute(2, 0, 1, 3)
        split: Tensor = _Pad.apply(values, self.rows, self.places, num_heads)
        return split.reshape(num_heads, len(self.samples), self.length, -1)

    def packed(self, values: Tensor) -> Tensor:
        """The inverse, ``(H, b, n, D / H)`` -> ``(s, D)``."""
        if self.places is None:
            return _joined(values.flatten(1, 2))
        packed: Tensor = _Unpad.apply(values.flatten(1, 2), self.rows, self.places, self.padding)
        return packed


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch are.

    Attributes:
        shape: B and N of the padded batch.
        rows: ``(S,)``, the place of each row in the flattened ``B * N``, bucket after bucket. None: all, in order.
        buckets: each sample is in one of them.
        order: ``(B,)``, which sample of the batch comes first in the packed one, which next.
    """

    shape: tuple[int, int]
    rows: Tensor | None
    buckets: tuple[Bucket, ...]
    order: Tensor

    @property
    def num_rows(self) -> list[int]:
        """Of each bucket."""
        return [bucket.num_rows for bucket in self.buckets]

    def pack(self, values: Tensor) -> Tensor:
        """``(B, N, D)`` -> ``(S, D)``."""
        flat = values.flatten(0, 1)
        if self.rows is None:
            return flat
        packed: Tensor = _Take.apply(flat, self.rows)
        return packed

    def unpack(self, values: Tensor) -> Tensor:
        """The inverse; 0 at padding."""
        if self.rows is None:
            return values.reshape(*self.shape, -1)
        batch = self.shape[0] * self.shape[1]
        return values.new_zeros((batch, values.shape[1])).index_copy(0, self.rows, values).reshape(*self.shape, -1)

    def rows_at(self, wanted: slice) -> Tensor:
        """The rows ``(B * r,)`` of r places that are valid in every sample, sample after sample in :attr:`order`."""
        flat = self.shape[0] * self.shape[1]
        places = torch.arange(flat, device=self.order.device).reshape(self.shape)[self.order][:, wanted].flatten()
        if self.rows is None:
            return places
        row_of = torch.empty(flat, dtype=torch.int64, device=self.rows.device)
        row_of[self.rows] = torch.arange(len(self.rows), device=self.rows.device)
        return row_of[places]

    def in_batch(self, values: Tensor) -> Tensor:
        """What :meth:`rows_at` named, ``(B * r, D)``, as ``(B, r, D)`` in the order of the batch."""
        return values.reshape(self.shape[0], -1, values.shape[1])[self.order.argsort()]


def packing(valid: Tensor, *, dense: bool) -> Packing:
    """How a batch is packed.

    Args:
        valid: ``(B, N)`` bool, at least one place of each sample.
        dense: leave padding out; else the rows are all places of the padded batch.
    """
    shape = (valid.shape[0], valid.shape[1])
    if not dense or not len(valid):
        order = torch.arange(len(valid), device=valid.device)
        return Packing(shape, None, (Bucket(order, valid.numel(), shape[1], None, None, None, additive(valid)),), order)
    lengths = valid.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    buckets, rows, first = [], [], 0
    sizes = lengths[order].tolist()
    for place in range(1, len(sizes) + 1):
        if place == len(sizes) or _is_worth(sizes[first], sizes[place:]):
            samples = order[first:place]
            rows.append((samples[:, None] * shape[1] + torch.arange(shape[1], device=valid.device))[valid[samples]])
            buckets.append(_bucket(samples, lengths[samples], sizes[first]))
            first = place
    return Packing(shape, torch.cat(rows), tuple(buckets), order)


def _is_worth(longest: int, rest: Sequence[int]) -> bool:
    """Whether the rest of the samples, the longest first, begin another bucket than one with a longest sequence."""
    saved = sum(longest**2 - length**2 for length in rest)
    return rest[0] < SIMILAR * longest and saved >= WORTH


def additive(valid: Tensor) -> Tensor:
    """A mask for scores: 0 at valid places and very negative at others."""
    return torch.zeros(valid.shape, device=valid.device).masked_fill_(~valid, MASKED)


def _bucket(samples: Tensor, lengths: Tensor, longest: int) -> Bucket:
    places = torch.arange(longest, device=lengths.device).expand(len(lengths), -1)
    there = places < lengths[:, None]
    starts = lengths.cumsum(0) - lengths
    rows = starts[:, None] + places * there
    full, empty = there.flatten().nonzero()[:, 0], (~there).flatten().nonzero()[:, 0]
    return Bucket(samples, int(lengths.sum()), longest, rows.flatten(), full, empty, additive(there))


def _split(values: Tensor, num_heads: int) -> Tensor:
    """``(S, D)`` -> ``(H, S, D / H)``."""
    return values.reshape(len(values), num_heads, -1).transpose(0, 1)


def _joined(values: Tensor) -> Tensor:
    """The inverse."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)


# Rows are taken by index_select, which copies each as a whole: plain indexing takes 4.5 times as long on a CPU (torch
# 2.14). And no row is taken twice, which the gradient of neither knows: it would add them up one by one.


class _Take(torch.autograd.Function):
    """The ``rows`` of ``values``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.length = len(values)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0].new_zeros((ctx.length, gradients[0].shape[1])).index_copy_(0, rows, gradients[0]), None


class _Pad(torch.autograd.Function):
    """Rows ``(s, D)`` -> padded places ``(H, b * n, D / H)``. Attention gives padding no gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, places: Tensor, num_heads: int) -> Tensor:
        ctx.save_for_backward(places)
        return _split(values, num_heads).index_select(1, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return _joined(gradients[0]).index_select(0, places), None, None, None


class _Unpad(torch.autograd.Function):
    """Padded places ``(H, b * n, D / H)`` -> rows ``(s, D)``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, places: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(rows, padding)
        ctx.num_heads = len(values)
        return _joined(values).index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rows, padding = ctx.saved_tensors
        padded = gradients[0].index_select(0, rows).index_fill_(0, padding, 0)
        return _split(padded, ctx.num_heads).contiguous(), None, None, None
