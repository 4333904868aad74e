"""A ViLT block that does what transformers' does, for less: fused attention, and only the places that are wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViltConfig
from transformers.models.vilt.modeling_vilt import ViltLayer, ViltSelfAttention

from learner.attention import split_heads
from learner.backbones.additions import Prefix, widened

EVERYTHING = slice(None)


class Block(ViltLayer):
    """``ViltLayer`` with the same weights under the same names."""

    def __init__(self, config: ViltConfig) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self.attention.attention = FusedSelfAttention(config)  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, layer: ViltLayer, config: ViltConfig) -> Block:
        """A block with a layer's weights."""
        block = cls(config)
        block.load_state_dict(layer.state_dict())
        return block.train(layer.training)

    def forward(
        self,
        hidden: Tensor,
        additive_mask: Tensor | None = None,
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
        context = self.attention.attention(normed, additive_mask, prefix=prefix, wanted=wanted)[0]
        hidden = self.attention.output(context, normed) + hidden[:, wanted]
        normed = self.layernorm_after(hidden)
        out: Tensor = self.output(self.intermediate(normed), hidden)
        return out if adapter is None else out + adapter(normed)


class FusedSelfAttention(ViltSelfAttention):
    """transformers' self-attention with the same weights through PyTorch's fused kernel; it can take a prefix."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        prefix: Prefix | None = None,
        wanted: slice = EVERYTHING,
    ) -> tuple[Tensor]:
        if output_attentions:
            raise ValueError("fused attention forms no attention matrix; use ViltBackbone.read instead")
        queries = self.query(hidden_states[:, wanted])
        keys, values = self.key(hidden_states), self.value(hidden_states)
        if prefix is not None:
            keys, values = (
                torch.cat([front.to(own.dtype).expand(len(own), -1, -1), own], dim=1)
                for front, own in ((prefix.keys, keys), (prefix.values, values))
            )
            attention_mask = None if attention_mask is None else widened(attention_mask, prefix.keys.shape[1])
        query, key, value = (split_heads(part, self.num_attention_heads) for part in (queries, keys, values))
        trains = query.requires_grad or key.requires_grad or value.requires_grad
        if trains and hidden_states.device.type == "cpu":
            # The fused kernel's backward pass is slow on CPUs at a hundred tokens: docs/decisions/0002.
            scores = query @ key.transpose(-1, -2) / self.attention_head_size**0.5
            scores = scores if attention_mask is None else scores + attention_mask
            context = self.dropout(scores.softmax(-1)) @ value
        else:
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=attention_mask, dropout_p=self.dropout.p if self.training else 0.0
            )
        return (context.transpose(1, 2).flatten(2),)
