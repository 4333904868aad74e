"""Reading the two attentions that the masks need, beside a forward pass that hands out no attention matrix.

Blocks keep the matrix to themselves, and a fused kernel forms none. The rows that masking needs are computed once more
from the inputs of the layers that are read: the class token's row (A_CLS->I) and, where the text is masked too, the
image tokens' rows onto the text (A_I->T). By default that is one row of the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Layers = Literal["last", "mean", "rollout"]
"""``last``: the last layer. ``mean``: the mean of the last few. ``rollout``: all layers, multiplied with their residual
connections (Abnar and Zuidema, ACL 2020)."""

HeadReduction = Literal["mean", "max"]


@dataclass(frozen=True)
class AttentionRead:
    """Attention probabilities, per head (after rollout there is but one).

    Attributes:
        class_to_image: ``(B, H, K)``, the class token's row at the patches.
        image_to_text: ``(B, H, K, T)``, each patch's row at the text tokens; None where it was not asked for.
        patch_norms: ``(B, K)``, lengths of the patches' last hidden states.
    """

    class_to_image: Tensor
    image_to_text: Tensor | None
    patch_norms: Tensor


@dataclass(frozen=True)
class LayerInput:
    """What one layer's attention is computed from.

    Attributes:
        hidden: ``(B, N, D)``, what the layer's query and key projections see.
        query, key: the projections, ``D -> D``.
        num_heads: H.
    """

    hidden: Tensor
    query: nn.Module
    key: nn.Module
    num_heads: int

    def rows(self, rows: Tensor | None, additive_mask: Tensor) -> Tensor:
        """Rows of the attention matrix, ``(B, H, R, N)`` float32.

        Args:
            rows: ``(R,)`` which; None = all N.
            additive_mask: ``(B, 1, 1, N)``, 0 at valid tokens and very negative at padding.
        """
        asked = self.hidden if rows is None else self.hidden[:, rows]
        queries, keys = (split_heads(values, self.num_heads) for values in (self.query(asked), self.key(self.hidden)))
        scores = (queries @ keys.transpose(-1, -2)).float() / (self.hidden.shape[-1] // self.num_heads) ** 0.5
        probabilities: Tensor = (scores + additive_mask).softmax(-1)
        return probabilities


class InputRecorder:
    """Keeps the input of a module's latest call; :meth:`eject` takes the hook out again.

    Use as a context manager. :meth:`value` raises if the module was not called: a hook that silently did not
    fire would give masks of the wrong batch.
    """

    def __init__(self, module: nn.Module) -> None:
        self._value: Tensor | None = None
        self._handle = module.register_forward_pre_hook(self._record)

    def _record(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._value = args[0]

    def value(self) -> Tensor:
        if self._value is None:
            raise RuntimeError("the recorded module was not called: no attention to read")
        return self._value

    def eject(self) -> None:
        self._handle.remove()

    def __enter__(self) -> InputRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.eject()


def split_heads(values: Tensor, num_heads: int) -> Tensor:
    """``(B, N, D)`` -> ``(B, H, N, D / H)``."""
    return values.reshape(*values.shape[:-1], num_heads, -1).transpose(1, 2)


def mean_rows(layers: Iterable[LayerInput], rows: Tensor, additive_mask: Tensor) -> Tensor:
    """Rows ``(B, H, R, N)`` averaged over layers; of one layer, its own."""
    read = [layer.rows(rows, additive_mask) for layer in layers]
    return read[0] if len(read) == 1 else torch.stack(read).mean(0)


def rollout_rows(layers: Iterable[LayerInput], rows: Tensor, additive_mask: Tensor, heads: HeadReduction) -> Tensor:
    """Rows ``(B, 1, R, N)`` of the attention rollout: the product over all layers, the last one leftmost, of
    ``(A + 1) / 2``, A with its heads combined and its rows summing to one.

    Args:
        layers: all, first to last.
    """
    product: Tensor | None = None
    for layer in reversed(list(layers)):
        # From the end, so that only the asked rows are carried along; the last layer needs no others.
        attention = layer.rows(rows if product is None else None, additive_mask)
        attention = attention.mean(1) if heads == "mean" else attention.amax(1)
        attention = attention / attention.sum(-1, keepdim=True)
        if product is None:
            identity = torch.eye(attention.shape[-1], device=attention.device)[rows]
            product = (attention + identity) / 2
        else:
            product = (product @ attention + product) / 2
    if product is None:
        raise ValueError("a rollout needs at least one layer")
    return product[:, None]
