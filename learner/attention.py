"""Reading the two attentions that the masks need, from the last layer alone.

The forward pass keeps fused attention, which never forms the attention matrix. The rows that masking needs are
computed once more from the input of the last layer: the class token's row (A_CLS->I) and the image tokens' rows onto
the text (A_I->T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionRead:
    """Attention probabilities of the last layer, per head.

    Attributes:
        class_to_image: ``(B, H, K)``, the class token's row at the patches.
        image_to_text: ``(B, H, K, T)``, each patch's row at the text tokens.
    """

    class_to_image: Tensor
    image_to_text: Tensor


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


def read_attention(
    *,
    hidden: Tensor,
    query: nn.Module,
    key: nn.Module,
    num_heads: int,
    additive_mask: Tensor,
    class_index: int,
    text_slice: slice,
    image_slice: slice,
) -> AttentionRead:
    """Attention rows of one layer from its normalised input.

    Args:
        hidden: ``(B, N, D)``, what the layer's query and key projections see.
        query, key: the projections, ``D -> D``.
        additive_mask: ``(B, 1, 1, N)``, 0 at valid tokens and very negative at padding.
        class_index: place of the class token in the sequence.
        text_slice, image_slice: where the text tokens and the patches are in it.
    """

    def heads(values: Tensor) -> Tensor:
        return split_heads(values, num_heads)

    rows = torch.cat([hidden[:, class_index : class_index + 1], hidden[:, image_slice]], dim=1)
    scores = heads(query(rows)) @ heads(key(hidden)).transpose(-1, -2)
    scores = scores.float() / (hidden.shape[-1] // num_heads) ** 0.5 + additive_mask
    probabilities = scores.softmax(-1)
    return AttentionRead(
        class_to_image=probabilities[:, :, 0, image_slice],
        image_to_text=probabilities[:, :, 1:, text_slice],
    )
