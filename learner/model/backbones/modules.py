"""The modules of a ViLT under the names that its checkpoints have.

transformers' own are not used for it: to import them takes 250 MiB (docs/decisions/0019), and of what they compute a
learner uses nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import ViltConfig


@dataclass(frozen=True)
class ViltShape:
    """What the shapes of a ViLT's weights follow from, by the names of ``transformers.ViltConfig``."""

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    type_vocab_size: int = 2
    modality_type_vocab_size: int = 2
    qkv_bias: bool = True

    @classmethod
    def of(cls, config: ViltConfig) -> ViltShape:
        """That of a checkpoint.

        Raises:
            ValueError: it is a ViLT of another kind than all that are known.
        """
        if config.hidden_act != "gelu" or config.num_channels != 3:
            raise ValueError(
                f"a ViLT with {config.num_channels} colours and the activation {config.hidden_act!r}: wanted are 3 "
                "and 'gelu'"
            )
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})


class TextEmbeddings(nn.Module):
    """BERT's."""

    def __init__(self, shape: ViltShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.word_embeddings = nn.Embedding(shape.vocab_size, width)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)

    def forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """``(B, T)`` and ``(B, T)`` -> ``(B, T, D)``."""
        kinds = self.token_type_embeddings(torch.zeros_like(token_ids))
        embedded = self.word_embeddings(token_ids) + kinds + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(embedded))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """What texts and patches are embedded by; :class:`~learner.model.backbones.vilt.ViltBackbone` does it."""

    def __init__(self, shape: ViltShape) -> None:
        super().__init__()
        width, patch_px = shape.hidden_size, shape.patch_size
        self.text_embeddings = TextEmbeddings(shape)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embeddings: Any = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)
        places = (shape.image_size // patch_px) ** 2
        self.position_embeddings = nn.Parameter(torch.zeros(1, places + 1, width))
        self.token_type_embeddings = nn.Embedding(shape.modality_type_vocab_size, width)
        self.dropout = nn.Dropout(shape.hidden_dropout_prob)


class Dense(nn.Module):
    """A linear map, and what follows it."""

    def __init__(self, width: int, width_out: int, then: nn.Module) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width_out)
        self.then = then

    def forward(self, hidden: Tensor) -> Tensor:
        return self.then(self.dense(hidden))  # type: ignore[no-any-return]


class _Undrawn(TorchFunctionMode):
    """``torch.nn.init`` leaves tensors as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        drawing = getattr(func, "__module__", "") == nn.init.__name__
        return named["tensor"] if drawing else func(*args, **named)


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """A block in which modules are made as shapes alone, to be given weights that are there already.

    For numbers that are drawn on the meta device torch imports its compiler, though there is nothing to draw.
    """
    with torch.device("meta"), _Undrawn():
        yield


def draw_weights(model: nn.Module) -> None:
    """Random weights as transformers draws them for a ViLT: deviation 0.02, biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
