"""The backbone that a configuration names, and what its own configuration says of it before it is loaded."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from learner.data.base import DataError
from learner.model.backbones.base import Backbone
from learner.model.backbones.modules import TextEmbeddings, ViltShape, unfilled
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.pictures import PictureBackbone, PictureModel, check_model
from learner.model.backbones.vilt import pretrained_vilt, small_vilt
from learner.model.backbones.weights import load_minilm
from learner.model.operations import Encoder
from learner.model.settings import BackboneConfig

# timm and transformers are imported where a kind needs them: together they take 230 MiB.

_Loaded = TypeVar("_Loaded")

VOCABULARY = 30_522
"""Words of the tokenizer: BERT's."""
WORD_POSITIONS = 512
"""Of MiniLM."""
_DINO_WIDTH = 384
"""Of DINOv2-S, whose blocks ``parts`` takes."""


@dataclass(frozen=True)
class BackboneFacts:
    """What settings must go with.

    Attributes:
        num_layers: of its encoder. None: not known before it is made.
        text_positions: how many text tokens it has position embeddings for.
        vocabulary: how many words it has embeddings for.
        patch_px: of its patches; 0 = as one likes.
        mask_layers: of how many of the last layers masks can read the attention. None: not known.
        is_vilt: words are in the sequence, beside the patches, and its layers take what references add to them.
        encoder: the shape of its blocks. None: not known before it is made.
    """

    num_layers: int | None
    text_positions: int
    vocabulary: int = VOCABULARY
    patch_px: int = 0
    mask_layers: int | None = None
    is_vilt: bool = True
    encoder: Encoder | None = None


def backbone_facts(config: BackboneConfig) -> BackboneFacts:
    """Of the backbone that a configuration names; of ``pretrained``, its ``config.json`` is read.

    Raises:
        DataError: there is no such backbone.
    """
    if config.kind == "parts":
        return _of_vilt(Encoder(len(config.blocks), _DINO_WIDTH, 4 * _DINO_WIDTH), WORD_POSITIONS)
    if config.kind == "small":
        return _of_vilt(Encoder(config.num_layers, config.hidden_size, 4 * config.hidden_size), 128)
    if config.kind == "callable":
        _function(config.name)
        return BackboneFacts(None, WORD_POSITIONS, is_vilt=False)
    if config.kind == "timm":
        from learner.model.backbones.of_timm import timm_shape

        try:
            return _of_pictures(timm_shape(config.name))
        except (OSError, ValueError, RuntimeError) as error:  # timm's own of a name that it does not know
            raise DataError(f"backbone.name: {error}") from error
    return _pretrained_facts(config.name)


def _of_vilt(
    encoder: Encoder, text_positions: int, *, vocabulary: int = VOCABULARY, patch_px: int = 0
) -> BackboneFacts:
    layers = encoder.layers
    return BackboneFacts(layers, text_positions, vocabulary, patch_px, mask_layers=layers, encoder=encoder)


def _of_pictures(shape: tuple[int, int, int]) -> BackboneFacts:
    patch_px, num_layers, mask_layers = shape
    return BackboneFacts(num_layers, WORD_POSITIONS, patch_px=patch_px, mask_layers=mask_layers, is_vilt=False)


def _pretrained_facts(name: str) -> BackboneFacts:
    from transformers import ViltConfig

    kind, found = _checkpoint(name)
    if kind != "vilt":
        from learner.model.backbones.of_transformers import vision_shape

        return _of_pictures(vision_shape(name, kind))
    vilt = ViltConfig.from_dict(found)
    if not isinstance(vilt.patch_size, int):
        raise DataError(f"backbone.name: {name!r} has patches of {vilt.patch_size} px, a single number is wanted")
    return _of_vilt(
        Encoder(vilt.num_hidden_layers, vilt.hidden_size, vilt.intermediate_size),
        vilt.max_position_embeddings,
        vocabulary=vilt.vocab_size,
        patch_px=vilt.patch_size,
    )


def _checkpoint(name: str) -> tuple[str, dict[str, Any]]:
    """Of a checkpoint of transformers: its ``model_type``, and all that its configuration says."""
    from transformers import PretrainedConfig

    try:
        found = PretrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError) as error:
        raise DataError(f"backbone.name: no model at {name!r}, neither a folder nor on the hub ({error})") from error
    kind = str(found.get("model_type"))
    known = kind == "vilt"
    if not known:
        from learner.model.backbones.of_transformers import family

        known = bool(family(kind))
    if not known:
        raise DataError(f"backbone.name: {name!r} is of type {kind}, and none of ViLT, CLIP and SigLIP")
    return kind, found


def make_backbone(config: BackboneConfig, image_size: int, seed: int, directory: Path | None) -> Backbone:
    """The backbone that a configuration names.

    Raises:
        DataError: the weights of a pretrained one cannot be read, its patches are of another size, or a model of the
            user's own gives what is not right.
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
    kind = _checkpoint(config.name)[0] if config.kind == "pretrained" else config.kind
    if kind == "vilt":
        vilt = _read(config, lambda: pretrained_vilt(config.name))
        if vilt.shape.patch_size != config.patch_px:
            raise DataError(
                f"backbone.patch_px is {config.patch_px}, and {config.name} has patches of {vilt.shape.patch_size} px"
            )
        return vilt
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _picture_model(config, kind, image_size)
    backbone = PictureBackbone(model, config.name, _words(directory), config.patch_px)
    if kind == "callable":
        check_model(model, image_size=image_size, name=config.name)
    return backbone


def _picture_model(config: BackboneConfig, kind: str, image_size: int) -> PictureModel:
    if kind == "callable":
        made: PictureModel = _function(config.name)(image_size=image_size, patch_px=config.patch_px)
        return made
    if kind == "timm":
        from learner.model.backbones.of_timm import make_timm

        return _read(config, lambda: make_timm(config.name, image_size=image_size, weights=config.weights))
    from learner.model.backbones.of_transformers import make_vision

    return _read(config, lambda: make_vision(config.name, kind))


def _read(config: BackboneConfig, load: Callable[[], _Loaded]) -> _Loaded:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        other = " or set backbone.weights to a file or to random" if config.kind == "timm" else ""
        raise DataError(f"backbone.name: the weights of {config.name!r} cannot be read ({error}){other}") from error


def _function(name: str) -> Callable[..., Any]:
    """What makes a model of the user's own.

    Raises:
        DataError: there is no such function, or it takes other arguments.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise DataError(f"backbone.name of a callable is package.module:function, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"backbone.name: {name!r} cannot be imported ({error}); PYTHONPATH has to hold the folder of {module}"
        ) from error
    if not callable(found):
        raise DataError(f"backbone.name: {name!r} is no function but a {type(found).__name__}")
    try:
        inspect.signature(found).bind(image_size=0, patch_px=0)
    except TypeError as error:
        raise DataError(
            f"backbone.name: {name!r} must take image_size and patch_px, and nothing else ({error})"
        ) from error
    made: Callable[..., Any] = found
    return made


def _words(directory: Path | None) -> TextEmbeddings:
    """MiniLM's, as pretrained: updating them costs much and gains nothing."""
    state = {name: value.clone() for name, value in load_minilm(directory).items()}
    kinds = {"word_embeddings", "position_embeddings", "token_type_embeddings"}
    shape = ViltShape(
        image_size=0,
        patch_size=0,
        hidden_size=state["word_embeddings"].shape[1],
        intermediate_size=0,
        num_hidden_layers=0,
        num_attention_heads=0,
        vocab_size=len(state["word_embeddings"]),
        max_position_embeddings=len(state["position_embeddings"]),
        type_vocab_size=len(state["token_type_embeddings"]),
    )
    with unfilled():
        words = TextEmbeddings(shape)
    weights = {f"{kind}.weight": state[kind] for kind in kinds}
    weights |= {f"LayerNorm.{part}": state[f"layer_norm_{part}"] for part in ("weight", "bias")}
    words.load_state_dict(weights, assign=True)
    words.word_embeddings.weight.requires_grad_(False)
    return words
