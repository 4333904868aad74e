"""What a backbone's configuration says of it before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import ViltConfig

from learner.data.base import DataError
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
