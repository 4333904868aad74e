"""The backbone that a configuration names."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from learner.data.base import DataError
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.vilt import ViltBackbone, pretrained_vilt, small_vilt
from learner.model.settings import BackboneConfig


def make_backbone(config: BackboneConfig, image_size: int, seed: int, directory: Path | None) -> ViltBackbone:
    """The backbone that a configuration names.

    Raises:
        DataError: the weights of a pretrained one cannot be read.
        ValueError: its patches are of another size.
    """
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
            num_heads=config.num_heads,
            seed=seed,
        )
    try:
        backbone = pretrained_vilt(config.name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"backbone.name: the weights of {config.name!r} cannot be read ({error})") from error
    if backbone.config.patch_size != config.patch_px:
        raise ValueError(f"{config.name} has patches of {backbone.config.patch_size} px, not {config.patch_px}")
    return backbone
