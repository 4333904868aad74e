"""What a frozen backbone can be given beside a sample's tokens: prompts, prefixes and adapters.

They are passed in with each call and nothing is left behind in the backbone, so that one set of frozen weights serves
any number of them, and none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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

    def through(self, place: int, layer: Any, hidden: Tensor, additive_mask: Tensor) -> Tensor:
        """The hidden states after a ``ViltLayer``."""
        prefix = self.prefixes.get(place)
        if prefix is None and not self.adapters:
            return layer(hidden, additive_mask)[0]  # type: ignore[no-any-return]
        # The layer's own forward takes neither: these are its steps.
        normed = layer.layernorm_before(hidden)
        context = layer.attention.attention(normed, additive_mask, prefix=prefix)[0]
        hidden = layer.attention.output(context, normed) + hidden
        normed = layer.layernorm_after(hidden)
        out: Tensor = layer.output(layer.intermediate(normed), hidden)
        return out + self.adapters[place](normed) if self.adapters else out


NOTHING = Additions()


def widened(additive_mask: Tensor, number: int) -> Tensor:
    """A mask ``(B, 1, 1, N)`` with ``number`` valid places before its own."""
    return F.pad(additive_mask, (number, 0))
