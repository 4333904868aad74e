"""A ViLT block that does what transformers' does, for less: attention as each device has it fastest, with no matrix
handed out, and only the places that are wanted.

Beside a sample's tokens a frozen backbone can be given prompts, prefixes and adapters (:class:`Additions`). They are
passed in with each call and nothing is left behind, so that one set of frozen weights serves any number of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVERYTHING = slice(None)


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


class Block(nn.Module):
    """The parts of a ``ViltLayer``, which stays as it is, under the same names."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention: Any = nn.Module()
        self.attention.attention = SelfAttention(layer.attention.attention)
        self.attention.output = layer.attention.output
        self.intermediate = layer.intermediate
        self.output = layer.output
        self.layernorm_before = layer.layernorm_before
        self.layernorm_after = layer.layernorm_after

    def forward(
        self,
        hidden: Tensor,
        additive_mask: Tensor,
        *,
        prefix: Prefix | None = None,
        adapter: nn.Module | None = None,
        wanted: slice = EVERYTHING,
    ) -> Tensor:
        """Hidden states ``(B, N, D)`` after the block, of the ``wanted`` of its N places only: of the last block a
        classifier wants one, and the others are work for nothing.

        Args:
            additive_mask: ``(B, 1, 1, N)``, 0 at valid places and very negative at padding.
            prefix: in front of its keys and values.
            adapter: ``D -> D`` beside its two linear maps.
        """
        normed = self.layernorm_before(hidden)
        context = self.attention.attention(normed, additive_mask, prefix, wanted)
        hidden = self.attention.output(context, normed) + hidden[:, wanted]
        normed = self.layernorm_after(hidden)
        out: Tensor = self.output(self.intermediate(normed), hidden)
        return out if adapter is None else out + adapter(normed)

    def attention_rows(self, hidden: Tensor, rows: Tensor, additive_mask: Tensor) -> Tensor:
        """Rows ``(R,)`` of the attention matrix, ``(B, H, R, N)`` float32, computed once more: neither plain products
        nor a fused kernel hand out the matrix. ``hidden`` and ``additive_mask`` are what the block was called with."""
        own, normed = self.attention.attention, self.layernorm_before(hidden)
        queries, keys = (split_heads(part, own.num_heads) for part in (own.query(normed[:, rows]), own.key(normed)))
        scores = (queries @ keys.transpose(-1, -2)).float() / queries.shape[-1] ** 0.5
        probabilities: Tensor = (scores + additive_mask).softmax(-1)
        return probabilities


class SelfAttention(nn.Module):
    """The parts of a ``ViltSelfAttention``; on a GPU with PyTorch's fused kernel. What is needed of the matrix,
    :meth:`ViltBackbone.read` reads.

    One computation for training and evaluation, unlike ``nn.MultiheadAttention`` of torch 2.14.1, whose answer for a
    sequence that is all padding is 0 in the one and NaN in the other (findings/torch_attention_of_nothing.sh).
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = plain.query, plain.key, plain.value
        self.dropout = plain.dropout
        self.num_heads: int = plain.num_attention_heads

    def forward(self, hidden: Tensor, additive_mask: Tensor, prefix: Prefix | None, wanted: slice) -> Tensor:
        """Context ``(B, N, D)`` of the wanted places; arguments as :class:`Block` has them."""
        queries, keys, values = self.query(hidden[:, wanted]), self.key(hidden), self.value(hidden)
        if prefix is not None:
            keys, values = (
                torch.cat([front.to(own.dtype).expand(len(own), -1, -1), own], dim=1)
                for front, own in ((prefix.keys, keys), (prefix.values, values))
            )
            additive_mask = widened(additive_mask, prefix.keys.shape[1])
        query, key, value = (split_heads(part, self.num_heads) for part in (queries, keys, values))
        drop = self.dropout.p if self.training else 0.0
        if hidden.device.type == "cpu":
            context = _attend(query, key, value, additive_mask, drop)
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=additive_mask, dropout_p=drop)
        return context.transpose(1, 2).flatten(2)


def split_heads(values: Tensor, num_heads: int) -> Tensor:
    """``(B, N, D)`` -> ``(B, H, N, D / H)``."""
    return values.reshape(*values.shape[:-1], num_heads, -1).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, additive_mask: Tensor, drop: float) -> Tensor:
    """Attention ``(B, H, R, D / H)`` by two plain matrix products, quicker on CPUs than the fused kernel at the lengths
    of these sequences (docs/decisions/0002)."""
    mask = additive_mask.to(query.dtype).expand(-1, query.shape[1], -1, -1).flatten(0, 1)
    scores = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    attention = F.dropout(scores.softmax(-1), drop)
    return torch.bmm(attention, value.flatten(0, 1)).reshape(query.shape)
