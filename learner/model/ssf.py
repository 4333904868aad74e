"""SSF: tune a frozen backbone by a scale and a shift after each of its operations (Lian et al., arXiv 2210.08823).

``y = gamma * op(x) + beta``, gamma = 1 and beta = 0 at the start, so that injecting changes nothing until trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULT_PATTERN = r"encoder\.layer\.\d+\..*|layernorm"
"""Every linear layer and layer norm of the encoder, as in the paper."""


class ScaleShift(nn.Module):
    """``op`` followed by a per-feature scale and shift."""

    def __init__(self, op: nn.Linear | nn.LayerNorm) -> None:
        super().__init__()
        self.op = op
        width = op.out_features if isinstance(op, nn.Linear) else op.normalized_shape[-1]
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.op, nn.LayerNorm):
            # A layer norm ends in a scale and a shift of its own: one pass does both.
            return F.layer_norm(x, self.op.normalized_shape, self.weight, self.bias, self.op.eps)
        y = self.op(x)
        # In the type that autocast gave y: float32 parameters would turn every activation back into float32.
        return torch.addcmul(self.beta.to(y.dtype), y, self.gamma.to(y.dtype))

    # torch's own attention and encoder layers, and some of timm's, compute with a map's weights and never call it.

    @property
    def weight(self) -> Tensor:
        """Of the one map that does what both do."""
        gamma = self.gamma.to(self.op.weight.dtype)
        return gamma.reshape(-1, *[1] * (self.op.weight.ndim - 1)) * self.op.weight

    @property
    def bias(self) -> Tensor:
        bias: Tensor | None = self.op.bias
        beta = self.beta.to(self.op.weight.dtype)
        return beta if bias is None else self.gamma.to(beta.dtype) * bias + beta

    @property
    def eps(self) -> float:
        return self.op.eps  # type: ignore[return-value]


def last_layers_pattern(num_layers: int, number: int) -> str:
    """The pattern of the last ``number`` of an encoder's ``num_layers`` layers, and of its final layer norm.

    Raises:
        ValueError: it has not so many.
    """
    if not 1 <= number <= num_layers:
        raise ValueError(f"SSF can tune 1..{num_layers} of the last layers, not {number}")
    chosen = "|".join(str(layer) for layer in range(num_layers - number, num_layers))
    return rf"encoder\.layer\.({chosen})\..*|layernorm"


def inject(model: nn.Module, pattern: str = DEFAULT_PATTERN) -> int:
    """Freeze ``model`` and put a :class:`ScaleShift` around every linear layer and layer norm whose name matches.

    Returns:
        The number of trainable parameters, asserted to be exactly those of the scales and shifts.

    Raises:
        ValueError: nothing matches (a misspelt pattern would silently train nothing), or SSF is there already.
    """
    if any(isinstance(module, ScaleShift) for module in model.modules()):
        raise ValueError("SSF has already been injected into this model")
    targets = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.LayerNorm) and re.fullmatch(pattern, name)
    ]
    if not targets:
        raise ValueError(f"no linear layer or layer norm has a name that matches {pattern!r}")
    model.requires_grad_(False)
    expected = 0
    for name, module in targets:
        parent, _, attribute = name.rpartition(".")
        wrapped = ScaleShift(module).to(next(module.parameters()).device)
        setattr(model.get_submodule(parent), attribute, wrapped)
        expected += wrapped.gamma.numel() + wrapped.beta.numel()
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable != expected:
        raise AssertionError(f"{trainable} parameters are trainable, SSF alone has {expected}")
    return trainable


def scale_shift_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The scales and shifts, for an optimiser."""
    for module in model.modules():
        if isinstance(module, ScaleShift):
            yield module.gamma
            yield module.beta
