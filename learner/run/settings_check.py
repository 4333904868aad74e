"""Whether the settings of a run go together, asked before anything starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learner.data.load import check_size
from learner.memory.settings import MemoryConfig
from learner.model.backbones.choose import VOCABULARY, BackboneFacts
from learner.model.backbones.vilt import NEEDS_VILT
from learner.run.config import LearnerConfig
from learner.run.methods import Method
from learner.run.problem import given_order
from memory_format import make_codec, make_record


def with_backbones_patch(config: LearnerConfig, facts: BackboneFacts) -> LearnerConfig:
    """The configuration with ``backbone.patch_px`` as a pretrained backbone has it."""
    patch_px = facts.patch_px
    return replace(config, backbone=replace(config.backbone, patch_px=patch_px)) if patch_px else config


def check_method(method: Method, config: LearnerConfig, facts: BackboneFacts) -> None:
    """Check a run's configuration as a method has it; no method has another backbone.

    Args:
        facts: of the configuration's backbone.

    Raises:
        DataError, ValueError: as :func:`check_fit`, or the method asks for another backbone.
    """
    if (method.model != "ssf" or method.stores in ("cim", "latent")) and not facts.is_vilt:
        raise ValueError(f"{method.name} looks into the layers of a ViLT: {NEEDS_VILT}")
    check_fit(method.configure(config), facts)


def check_fit(config: LearnerConfig, facts: BackboneFacts) -> None:
    """Check what one setting asks of another, or of the backbone.

    Args:
        facts: of its backbone.

    Raises:
        DataError: there is no such file with an order of classes.
        ValueError: they do not go together; says which, and what would.
    """
    name = config.backbone.name
    patch_px = config.backbone.patch_px
    if facts.patch_px not in (0, patch_px):
        raise ValueError(f"backbone.patch_px is {patch_px}, but {name} has patches of {facts.patch_px} px")
    check_size(config.data.image_size, patch_px)
    if facts.vocabulary < VOCABULARY:
        raise ValueError(
            f"backbone.name: {name} has a vocabulary of {facts.vocabulary:,} words, the tokenizer {VOCABULARY:,}"
        )
    if config.mask.text and not facts.is_vilt:
        raise ValueError(f"mask.text is on, but {name} sees pictures alone and has no attention to words")
    if config.mask.choice == "object" and config.data.name != "emoji":
        raise ValueError(f"mask.choice is object, but emoji alone says where objects are, not {config.data.name}")
    if facts.num_layers is not None and config.train.ssf_layers > facts.num_layers:
        raise ValueError(
            f"train.ssf_layers is {config.train.ssf_layers}, but the backbone has {facts.num_layers} layers (0 = all)"
        )
    tuned = config.train.ssf_layers or facts.num_layers
    if tuned is not None and config.train.later_layers > tuned:
        raise ValueError(f"train.later_layers is {config.train.later_layers}, but the first phase tunes {tuned} layers")
    most = facts.mask_layers
    if config.mask.layers == "mean" and most is not None and config.mask.last_layers > most:
        raise ValueError(
            f"mask.last_layers is {config.mask.last_layers}, but the backbone has {facts.num_layers} layers"
            + (", and its attention for masks is that of its pooling alone" if most != facts.num_layers else "")
        )
    given_order(config.data)
    if config.memory.patch_px > patch_px:
        raise ValueError(f"memory.patch_px is {config.memory.patch_px}, but the backbone's patches have {patch_px} px")
    smallest = _smallest_exemplar(config.memory, config.memory.patch_px or patch_px)
    if not config.memory.grows and 0 < config.memory.budget_bytes < smallest:
        raise ValueError(
            f"memory.budget_bytes is {config.memory.budget_bytes}, but an exemplar takes {smallest} bytes at the least"
        )


def _smallest_exemplar(memory: MemoryConfig, patch_px: int) -> int:
    """Bytes that one patch without anything on it is charged."""
    patch = np.zeros((1, patch_px, patch_px, 3), dtype=np.uint8)
    record = make_record(class_id=0, patches=patch, keep_mask=np.ones((1, 1), bool), codec=make_codec(memory.codec))
    return record.charge
