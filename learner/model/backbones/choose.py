"""The backbone that a configuration names, and what its own configuration says of it before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from learner.data.base import DataError
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.vilt import ViltBackbone, pretrained_vilt, small_vilt
from learner.model.settings import BackboneConfig

VOCABULARY = 30_522
"""Words of the tokenizer: BERT's."""


@dataclass(frozen=True)
class BackboneFacts:
    """What settings must go with.

    Attributes:
        num_layers: of its encoder.
        text_positions: how many text tokens it has position embeddings for.
        vocabulary: how many words it has embeddings for.
        patch_px: of its patches; 0 = as one likes.
    """

    num_layers: int
    text_positions: int
    vocabulary: int = VOCABULARY
    patch_px: int = 0


def backbone_facts(config: BackboneConfig) -> BackboneFacts:
    """Of the backbone that a configuration names; of ``pretrained``, its ``config.json`` is read.

    Raises:
        DataError: there is no such pretrained backbone.
    """
    if config.kind == "parts":
        return BackboneFacts(len(config.blocks), text_positions=512)  # MiniLM's
    if config.kind == "small":
        return BackboneFacts(config.num_layers, text_positions=128)
    from transformers import ViltConfig  # what no other kind needs

    try:
        found = ViltConfig.get_config_dict(config.name)[0]
    except (OSError, ValueError) as error:
        raise DataError(
            f"backbone.name: no ViLT at {config.name!r}, neither a folder nor on the hub ({error})"
        ) from error
    kind = found.get("model_type")
    if kind != "vilt":
        raise DataError(f"backbone.name: {config.name!r} is of type {kind}, and no ViLT")
    vilt = ViltConfig.from_dict(found)
    if not isinstance(vilt.patch_size, int):
        raise DataError(
            f"backbone.name: {config.name!r} has patches of {vilt.patch_size} px, a single number is wanted"
        )
    return BackboneFacts(
        num_layers=vilt.num_hidden_layers,
        text_positions=vilt.max_position_embeddings,
        vocabulary=vilt.vocab_size,
        patch_px=vilt.patch_size,
    )


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
    if backbone.shape.patch_size != config.patch_px:
        raise ValueError(f"{config.name} has patches of {backbone.shape.patch_size} px, not {config.patch_px}")
    return backbone
