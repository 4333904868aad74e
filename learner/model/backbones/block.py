"""A ViLT block: attention as each device has it fastest, with no matrix handed out, and only the rows that are there
and wanted (:mod:`learner.model.backbones.packing`).

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

from learner.model.backbones.modules import Dense, ViltShape
from learner.model.backbones.packing import Bucket, Packing, additive


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

    def prepend(self, hidden: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts before an embedded sequence ``(B, N, D)``, and which of its places are there, ``(B, N)``."""
        if self.prompts is None:
            return hidden, valid
        return torch.cat([self.prompts.to(hidden.dtype), hidden], dim=1), F.pad(
            valid, (self.num_prompts, 0), value=True
        )


NOTHING = Additions()


class Block(nn.Module):
    """One layer of the encoder."""

    def __init__(self, shape: ViltShape) -> None:
        super().__init__()
        width, within, drop = shape.hidden_size, shape.intermediate_size, shape.hidden_dropout_prob
        self.attention: Any = nn.Module()
        self.attention.attention = SelfAttention(shape)
        self.attention.output = Dense(width, width, nn.Dropout(drop))
        self.intermediate = Dense(width, within, nn.GELU())
        self.output = Dense(within, width, nn.Dropout(drop))
        self.layernorm_before = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(width, eps=shape.layer_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        packing: Packing,
        *,
        prefix: Prefix | None = None,
        adapter: nn.Module | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``(S, D)`` after the block; of the ``wanted`` rows ``(B * r,)`` only where they are given: of
        the last block a classifier wants one of each sample, and the others are work for nothing.

        Args:
            packing: which rows are one sample's.
            prefix: in front of its keys and values.
            adapter: ``D -> D`` beside its two linear maps.
            wanted: as :meth:`Packing.rows_at` gives them.
        """
        normed = self.layernorm_before(hidden)
        context = self.attention.attention(normed, packing, prefix, wanted)
        hidden = self.attention.output(context) + (hidden if wanted is None else hidden[wanted])
        normed = self.layernorm_after(hidden)
        out: Tensor = self.output(self.intermediate(normed)) + hidden
        return out if adapter is None else out + adapter(normed)

    def attention_rows(self, hidden: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Rows ``(R,)`` of the attention matrix, ``(B, H, R, N)`` float32, computed once more: neither plain products
        nor a fused kernel hand out the matrix.

        Args:
            hidden: ``(B, N, D)``, what the block was called with.
            valid: ``(B, N)``, which of it is there.
        """
        own, normed = self.attention.attention, self.layernorm_before(hidden)
        queries, keys = (
            _of_heads(part, own.num_heads).transpose(0, 1) for part in (own.query(normed[:, rows]), own.key(normed))
        )
        scores = (queries @ keys.transpose(-1, -2)).float() / queries.shape[-1] ** 0.5
        probabilities: Tensor = (scores + additive(valid)[:, None, None]).softmax(-1)
        return probabilities


class SelfAttention(nn.Module):
    """On a GPU with PyTorch's fused kernel. What is needed of the matrix,
    :meth:`ViltBackbone.read` reads.

    One computation for training and evaluation, unlike ``nn.MultiheadAttention`` of torch 2.14.1, whose answer for a
    sequence that is all padding is 0 in the one and NaN in the other (findings/torch_attention_of_nothing.sh).
    """

    def __init__(self, shape: ViltShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.query, self.key, self.value = (nn.Linear(width, width, bias=shape.qkv_bias) for _ in range(3))
        self.dropout = nn.Dropout(shape.attention_probs_dropout_prob)
        self.num_heads = shape.num_attention_heads

    def forward(self, hidden: Tensor, packing: Packing, prefix: Prefix | None, wanted: Tensor | None) -> Tensor:
        """Context ``(S, D)``, or of the wanted rows; arguments as :class:`Block` has them."""
        device = hidden.device.type
        if torch.is_autocast_enabled(device):
            # Once, and not by each of the three maps.
            hidden = hidden.to(torch.get_autocast_dtype(device))
        queries = self.query(hidden if wanted is None else hidden[wanted])
        keys, values = self.key(hidden), self.value(hidden)
        number = packing.num_rows
        of_each = len(queries) // packing.shape[0]
        asked = number if wanted is None else [of_each * len(bucket.samples) for bucket in packing.buckets]
        parts = zip(packing.buckets, queries.split(asked), keys.split(number), values.split(number), strict=True)
        contexts = [self._of_bucket(*part, prefix, packed=wanted is None) for part in parts]
        # On a GPU there is one, which cat would copy.
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def _of_bucket(
        self, bucket: Bucket, queries: Tensor, keys: Tensor, values: Tensor, prefix: Prefix | None, *, packed: bool
    ) -> Tensor:
        """The context of its rows, or (``packed`` False) of as many queries of each of its samples."""
        key, value = (bucket.padded(part, self.num_heads) for part in (keys, values))
        if packed:
            query = bucket.padded(queries, self.num_heads)
        else:
            query = _of_heads(queries.reshape(len(bucket.samples), -1, queries.shape[1]), self.num_heads)
        mask = bucket.mask
        if prefix is not None:
            key, value = (
                torch.cat([_of_heads(_of_samples(front, bucket.samples).to(own.dtype), self.num_heads), own], dim=2)
                for front, own in ((prefix.keys, key), (prefix.values, value))
            )
            mask = F.pad(mask, (prefix.keys.shape[1], 0))
        drop = self.dropout.p if self.training else 0.0
        context = _attend(query, key, value, mask[None, :, None].to(query.dtype), drop)
        return bucket.packed(context) if packed else context.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def _of_heads(values: Tensor, num_heads: int) -> Tensor:
    """``(B, N, D)`` -> ``(H, B, N, D / H)``."""
    return values.reshape(*values.shape[:2], num_heads, -1).permute(2, 0, 1, 3)


def _of_samples(front: Tensor, samples: Tensor) -> Tensor:
    """Keys or values of a :class:`Prefix` for ``(b,)`` of the batch's samples."""
    return front.expand(len(samples), -1, -1) if len(front) == 1 else front[samples]


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, drop: float) -> Tensor:
    """Attention ``(H, b, R, D / H)`` with a mask ``(1, b, 1, n)``: on CPUs by two plain matrix products, quicker than
    the fused kernel at the lengths of these sequences (docs/decisions/0002)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
    mask = mask.expand(len(query), -1, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=query.shape[-1] ** -0.5)
    attention = F.dropout(scores.softmax(-1), drop)
    return torch.bmm(attention, value.flatten(0, 1)).view(query.shape)
