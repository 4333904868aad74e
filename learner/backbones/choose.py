"""The backbone that a configuration names."""

from __future__ import annotations

from pathlib import Path

from learner.backbones.parts import vilt_from_parts
from learner.backbones.vilt import ViltBackbone, pretrained_vilt, small_vilt
from learner.config import BackboneConfig


def make_backbone(config: BackboneConfig, image_size: int, seed: int, directory: Path | None) -> ViltBackbone:
    """The backbone that a configuration names."""
    if config.kind == "parts":
        return vilt_from_parts(
            image_size=image_size, patch_px=config.patch_px, blocks=config.blocks, directory=directory
        )
    if config.kind == "small":
        return small_vilt(
            image_size=image_size,
            patch_px=config.patch_px,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=max(1, config.hidden_size // 64),
            seed=seed,
        )
    backbone = pretrained_vilt(config.name)
    if backbone.config.patch_size != config.patch_px:
        raise ValueError(f"{config.name} has patches of {backbone.config.patch_size} px, not {config.patch_px}")
    return backbone
