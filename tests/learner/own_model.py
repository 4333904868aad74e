"""A model of a user's own, as ``backbone.kind = "callable"`` finds it, and some that are wrong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learner.model.backbones.pictures import Seen


class OwnModel(nn.Module):
    """A class token and one encoder layer of torch's own."""

    def __init__(self, patch_px: int, dim: int = 16) -> None:
        super().__init__()
        self.patch_px, self.feature_dim = patch_px, dim
        self.embed = nn.Linear(3 * patch_px**2, dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(dim, 2, 32, 0.0, batch_first=True)])

    def forward(self, pixels: Tensor, keep: Tensor, mask_layers: int) -> Seen:
        cells = pixels.unfold(2, self.patch_px, self.patch_px).unfold(3, self.patch_px, self.patch_px)
        tokens = self.embed(cells.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        there = tokens[keep.flatten(1)].reshape(len(keep), -1, self.feature_dim)
        hidden = torch.cat([self.class_token.expand(len(keep), -1, -1), there], dim=1)
        (layer,) = self.layers
        assert isinstance(layer, nn.TransformerEncoderLayer)
        attention = layer.self_attn(hidden, hidden, hidden, average_attn_weights=False)[1] if mask_layers else None
        out = layer(hidden)
        return Seen(out[:, 0], attention, out[:, 1:])


def make(image_size: int, patch_px: int) -> OwnModel:
    return OwnModel(patch_px)


class Wrong(OwnModel):
    """One thing is not as it should be."""

    def __init__(self, patch_px: int, **changed: Any) -> None:
        super().__init__(patch_px)
        self.changed = changed

    def forward(self, pixels: Tensor, keep: Tensor, mask_layers: int) -> Any:
        seen = super().forward(pixels, keep, mask_layers)
        given = {"features": seen.features, "attention": seen.attention, "patches": seen.patches}
        return given if self.changed == {"type": dict} else Seen(**given | self.changed)


def other_patches(image_size: int, patch_px: int) -> OwnModel:
    return OwnModel(patch_px + 2)


def no_module(image_size: int, patch_px: int) -> object:
    return "a model"


def short_features(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, features=torch.zeros(2, 7))


def long_attention(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, attention=torch.zeros(2, 2, 11, 5))


def whole_numbers(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, attention=torch.zeros(2, 3, 3, dtype=torch.int64))


def few_patches(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, patches=torch.zeros(2, 3, 16))


def no_attention(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, attention=None)


def a_dictionary(image_size: int, patch_px: int) -> OwnModel:
    return Wrong(patch_px, type=dict)


def of_any_depth(image_size: int, patch_px: int, depth: int) -> OwnModel:
    return OwnModel(patch_px)


SIDE = 4
