"""What a frozen backbone can be given beside a sample's tokens: prompts, prefixes and adapters.

They are passed in with each call and nothing is left behind in the backbone, so that one set of frozen weights serves
any number of them, and none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """Keys and values in front of a layer's own: its tokens attend to them, and they become no tokens themselves
    (prefix tuning, Li and Liang, ACL 2021).

    Attributes:
        keys, values: ``(B, P, D)``, or ``(1, P, D)`` for all samples, as they come out of the layer's projections.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Additions:
    """What a forward pass is given.

    Attributes:
        prompts: ``(B, P, D)``, embedded tokens in front of the sequence.
        prefixes: by place of the layer.
        adapters: one for each layer, ``D -> D``, beside its two linear maps: it sees what they see, and its output is
            added to theirs. Empty = none.
    """

    prompts: Tensor | None = None
    prefixes: Mapping[int, Prefix] = field(default_factory=dict)
    adapters: Sequence[nn.Module] = ()

    @property
    def num_prompts(self) -> int:
        return 0 if self.prompts is None else self.prompts.shape[1]

    def prepend(self, hidden: Tensor, additive_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts before an embedded sequence ``(B, N, D)``, and its mask ``(B, 1, 1, N)`` widened by them."""
        if self.prompts is None:
            return hidden, additive_mask
        return torch.cat([self.prompts.to(hidden.dtype), hidden], dim=1), widened(additive_mask, self.num_prompts)


NOTHING = Additions()


def widened(additive_mask: Tensor, number: int) -> Tensor:
    """A mask ``(B, 1, 1, N)`` with ``number`` valid places before its own."""
    return F.pad(additive_mask, (number, 0))
