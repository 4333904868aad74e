"""ViLT from parts: an image transformer's blocks and patch embedding + a BERT-like model's word embeddings.

That is how ViLT itself was made (ViT-B/32 + BERT's tokens); here DINOv2-S and MiniLM, both 384 wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.model.backbones.modules import ViltShape
from learner.model.backbones.resizing import patch_embedding_resized, positions_resized
from learner.model.backbones.vilt import ViltBackbone
from learner.model.backbones.weights import PIXEL_MEAN, PIXEL_STD, load_dinov2_small, load_minilm


def vilt_from_parts(
    *,
    image_size: int = 112,
    patch_px: int = 16,
    blocks: Sequence[int] = tuple(range(12)),
    directory: Path | str | None = None,
) -> ViltBackbone:
    """A ViLT with DINOv2-S's blocks and MiniLM's word embeddings.

    Args:
        image_size: side of the training pictures in pixels; other grids interpolate from its positions.
        patch_px: side of a patch; DINOv2's 14-px kernel is resized to it.
        blocks: which of the 12 blocks, in order; fewer are faster and know less.
        directory: where the weights packages are kept.

    Raises:
        ValueError: ``blocks`` is empty or names a block that is not there.
        FetchError: the packages are not there and cannot be fetched.
    """
    if not blocks or not all(0 <= block < 12 for block in blocks):
        raise ValueError(f"blocks must name some of 0..11, got {tuple(blocks)}")
    # Copies, one file after the other: what is held longer must not be pages of a file that somebody may cut.
    words = {name: value.clone() for name, value in load_minilm(directory).items()}
    image = load_dinov2_small(directory)
    dim = image["cls_token"].shape[-1]
    shape = ViltShape(
        image_size=image_size,
        patch_size=patch_px,
        hidden_size=dim,
        intermediate_size=image["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=6,
        vocab_size=len(words["word_embeddings"]),
        max_position_embeddings=len(words["position_embeddings"]),
        layer_norm_eps=1e-6,
    )
    projection = patch_embedding_resized(image["patch_embed.proj.weight"], patch_px)
    positions = positions_resized(image["pos_embed"], image_size // patch_px)
    # The blocks were trained on image tokens. Word embeddings are several times smaller; unscaled, the text would start
    # as a whisper beside the image.
    weight, bias = words["layer_norm_weight"], words["layer_norm_bias"]
    some = words["word_embeddings"][1000:3000] + words["position_embeddings"][0] + words["token_type_embeddings"][0]
    scale = _token_std(image) / F.layer_norm(some, (dim,), weight, bias, eps=1e-12).std()  # BERT's epsilon
    state: dict[str, Tensor] = {
        "embeddings.cls_token": image["cls_token"].clone(),
        "embeddings.position_embeddings": positions.clone(),
        "embeddings.patch_embeddings.projection.weight": projection,
        "embeddings.patch_embeddings.projection.bias": image["patch_embed.proj.bias"].clone(),
        "embeddings.token_type_embeddings.weight": torch.zeros(shape.modality_type_vocab_size, dim),
        "embeddings.text_embeddings.word_embeddings.weight": words["word_embeddings"],
        "embeddings.text_embeddings.position_embeddings.weight": words["position_embeddings"],
        "embeddings.text_embeddings.token_type_embeddings.weight": words["token_type_embeddings"],
        "embeddings.text_embeddings.LayerNorm.weight": weight * scale,
        "embeddings.text_embeddings.LayerNorm.bias": bias * scale,
        "layernorm.weight": image["norm.weight"].clone(),
        "layernorm.bias": image["norm.bias"].clone(),
    }
    for place, block in enumerate(blocks):
        state |= _block(image, block, f"encoder.layer.{place}")
    backbone = ViltBackbone(
        shape, state, class_token="image", mean_std=(PIXEL_MEAN, PIXEL_STD), project_text=True, keep_words=True
    )
    # Half of all parameters, pretrained on more text than any run here sees: updating them costs much, gains nothing.
    backbone.embeddings.text_embeddings.word_embeddings.weight.requires_grad_(False)
    return backbone


def _token_std(image: dict[str, Tensor]) -> Tensor:
    """Standard deviation of image tokens as the first block sees them, from the part that varies: 0.18 on
    photographs, most of it the position embeddings and the projection's response to texture."""
    kernel = image["patch_embed.proj.weight"]
    noise = torch.randn(256, kernel[0].numel(), generator=torch.Generator().manual_seed(0))
    response = noise @ kernel.flatten(1).T + image["patch_embed.proj.bias"]
    return (response + image["pos_embed"][0, 1:257]).std()


def _block(image: dict[str, Tensor], block: int, place: str) -> dict[str, Tensor]:
    """One timm block under ViltModel's names."""
    source = f"blocks.{block}"
    names = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    state = {
        f"{place}.{ours}.{kind}": image[f"{source}.{theirs}.{kind}"].clone()
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        parts = image[f"{source}.attn.qkv.{kind}"].chunk(3)
        for ours, values in zip(("query", "key", "value"), parts, strict=True):
            state[f"{place}.attention.attention.{ours}.{kind}"] = values.clone()
    return state
