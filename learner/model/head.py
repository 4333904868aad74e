"""A classifier that grows with the classes seen."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HeadKind = Literal["cosine", "linear"]


class GrowingHead(nn.Module):
    """Features ``(B, D)`` -> logits ``(B, number of classes seen)``.

    Args:
        dim: D.
        kind: ``cosine`` compares directions, so that classes seen lately do not win by longer weights
            (Hou et al., CVPR 2019); ``linear`` is plain.
        scale: temperature of the cosine head; logits lie in [-scale, scale].
    """

    def __init__(self, dim: int, *, kind: HeadKind = "cosine", scale: float = 16.0) -> None:
        super().__init__()
        self.kind = kind
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.bias = nn.Parameter(torch.empty(0))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def grow(self, new_weight: Tensor) -> None:
        """Add classes whose weights ``(n, D)`` start as given."""
        weight = torch.cat([self.weight.data, new_weight.detach().to(self.weight)])
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.cat([self.bias.data, self.bias.new_zeros(len(new_weight))]))

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))
        return F.linear(features, self.weight, self.bias)
