"""A padded batch of image and text tokens: what every part of the learner passes around.

Full samples, masked samples and replayed exemplars differ only in *which* tokens they hold, so one type serves all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """``B`` samples with at most ``K`` patches and ``T`` text tokens each; padding is where ``*_valid`` is False.

    Attributes:
        patches: ``(B, K, P, P, 3)`` uint8; or, of exemplars that are states of a frozen block
            (:mod:`learner.memory.latent`), ``(B, 1 + n, 1, 1, D)`` float32, the class token's first.
        patch_positions: ``(B, K)`` int64, row-major place in the sample's own grid.
        patch_valid: ``(B, K)`` bool.
        grid: ``(B, 2)`` int64, rows and columns.
        token_ids: ``(B, T)`` int64.
        token_positions: ``(B, T)`` int64, place in the original text.
        token_valid: ``(B, T)`` bool.
    """

    patches: Tensor
    patch_positions: Tensor
    patch_valid: Tensor
    grid: Tensor
    token_ids: Tensor
    token_positions: Tensor
    token_valid: Tensor

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def are_states(self) -> bool:
        """Hidden states, and no pixels."""
        return self.patches.is_floating_point()

    @property
    def patch_px(self) -> int:
        return int(self.patches.shape[2])

    def __getitem__(self, index: Tensor | slice) -> Tokens:
        """Some of the samples, in the order of ``index``."""
        return Tokens(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def to(self, device: torch.device) -> Tokens:
        """On another device; to a GPU without waiting for it, where the tensors are in page-locked memory."""
        ahead = device.type == "cuda"
        return Tokens(**{f.name: getattr(self, f.name).to(device, non_blocking=ahead) for f in fields(self)})

    def keep_patches(self, keep: Tensor) -> Tokens:
        """Only the patches where ``keep`` ``(B, K)`` is True, moved to the front, the padding cut off."""
        order, valid = _compact(keep & self.patch_valid)
        return replace(
            self,
            patches=_gather(self.patches, order),
            patch_positions=_gather(self.patch_positions, order),
            patch_valid=valid,
        )

    def trimmed(self) -> Tokens:
        """Without the places at the end where no sample has a patch or a text token; one place of each stays."""
        places = {"patch": _cut(self.patch_valid), "token": _cut(self.token_valid)}
        return Tokens(**{f.name: getattr(self, f.name)[:, : places.get(f.name[:5])] for f in fields(self)})

    def dealt(self, number: int) -> list[Tensor]:
        """Which rows go into each of ``number`` parts that take about as long as each other, or of fewer where there
        are fewer samples: the longest to the first part, the next one to the second, and back from the last."""
        length = self.patch_valid.sum(1) + self.token_valid.sum(1)
        turns = [*range(number), *reversed(range(number))]
        parts: list[list[int]] = [[] for _ in range(min(number, len(self)))]
        for row, part in zip(length.argsort(descending=True, stable=True).tolist(), cycle(turns)):
            parts[part].append(row)
        return [torch.tensor(rows) for rows in parts]

    def by_length(self, batch_size: int) -> Iterator[tuple[Tensor, Tokens]]:
        """Batches of samples of similar length, the shortest first and each padded to its own longest: which rows
        ``(B,)`` they are, on the CPU, and their tokens."""
        length = self.patch_valid.sum(1) + self.token_valid.sum(1)
        for rows in length.argsort(stable=True).cpu().split(batch_size):
            yield rows, self[rows].trimmed()

    def keep_tokens(self, keep: Tensor) -> Tokens:
        """Only the text tokens where ``keep`` ``(B, T)`` is True, moved to the front, the padding cut off."""
        order, valid = _compact(keep & self.token_valid)
        return replace(
            self,
            token_ids=_gather(self.token_ids, order),
            token_positions=_gather(self.token_positions, order),
            token_valid=valid,
        )


def special_tokens(tokens: Tokens) -> Tensor:
    """``(B, T)`` bool: ``[CLS]`` (first) and ``[SEP]`` (last of the valid ones)."""
    places = torch.arange(tokens.token_ids.shape[1], device=tokens.token_ids.device)
    last = tokens.token_valid.sum(1, keepdim=True) - 1
    return ((places == 0) | (places == last)) & tokens.token_valid


def _cut(valid: Tensor) -> int:
    """Places up to the last one that is valid in any row of ``(B, N)``, and at least one."""
    used = valid.any(0).nonzero()
    return int(used.max()) + 1 if len(used) else 1


def _compact(keep: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, N)`` keep -> order ``(B, M)`` with the kept first, and which of those are kept; M = the most kept."""
    most = max(1, int(keep.sum(1).max())) if len(keep) else 1
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)[:, :most]
    return order, keep.gather(1, order)


def _gather(values: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *([1] * (values.dim() - 2))).expand(*order.shape, *values.shape[2:])
    return values.gather(1, index)


def concatenate(batches: Sequence[Tokens]) -> Tokens:
    """One batch of all, padded to the widest."""
    merged = {}
    for field in fields(Tokens):
        values = [getattr(batch, field.name) for batch in batches]
        if field.name != "grid":
            width = max(value.shape[1] for value in values)
            values = [
                v if v.shape[1] == width else F.pad(v, (0, 0) * (v.dim() - 2) + (0, width - v.shape[1])) for v in values
            ]
        merged[field.name] = torch.cat(values)
    return Tokens(**merged)
