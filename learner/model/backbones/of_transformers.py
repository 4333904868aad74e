"""CLIP's and SigLIP's vision transformers, of transformers' checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils.constants import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from learner.model.backbones.pictures import Seen

_KINDS: dict[str, Any] = {
    "clip": (CLIPVisionConfig, CLIPVisionModel, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "siglip": (SiglipVisionConfig, SiglipVisionModel, IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}


class TransformersPictures(nn.Module):
    """A :class:`~learner.model.backbones.pictures.PictureModel` of transformers.

    CLIP's attention is the class token's in the last layers (as in DINO: Caron et al., ICCV 2021). SigLIP has no class
    token: it is that of its attention pooling (Zhai et al., ICCV 2023), or without one the mean that a patch receives
    from all patches (as in LTP: Kim et al., KDD 2022), whose states are then the feature, their mean.

    Args:
        model: a ``CLIPVisionModel`` or ``SiglipVisionModel``.
        mean, std: what a picture in 0..1 is normalised by, each of three colours.
    """

    model: Any

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.patch_px = int(self.model.config.patch_size)
        self.feature_dim = int(self.model.config.hidden_size)
        self._head: Any = getattr(model, "head", None)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self.model.encoder.layers)

    def forward(self, pixels: Tensor, keep: Tensor, mask_layers: int) -> Seen:
        pixels = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        reads_layers = bool(mask_layers) and self._head is None
        states: list[Tensor] = []
        hooks = [
            self.model.embeddings.register_forward_hook(lambda _, args, out: _left_out(out, keep)),
            self.model.encoder.layers[-1].register_forward_hook(lambda _, args, out: states.append(out)),
        ]
        try:
            with self._eager(reads_layers):
                out = self.model(pixels, interpolate_pos_encoding=True, output_attentions=reads_layers)
        finally:
            for hook in hooks:
                hook.remove()
        features = out.pooler_output if out.pooler_output is not None else out.last_hidden_state.mean(1)
        if not mask_layers:
            return Seen(features)
        count = int(keep[0].sum())
        if self._head is not None:
            probe = self._head.probe.expand(len(pixels), -1, -1)
            tokens = out.last_hidden_state
            attention = self._head.attention(probe, tokens, tokens, average_attn_weights=False)[1][:, :, 0]
        else:
            attention = torch.stack(out.attentions[-mask_layers:]).mean(0)
        return Seen(features, attention, states[0][:, -count:])

    @contextlib.contextmanager
    def _eager(self, wanted: bool) -> Iterator[None]:
        """Without fused kernels, which hand out no attention."""
        before = self.model.config._attn_implementation
        if not wanted or before == "eager":
            yield
            return
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)


def make_vision(name: str, kind: str) -> TransformersPictures:
    """The vision transformer of a checkpoint; float32, whatever type the file has.

    Args:
        name: hub id or folder.
        kind: ``model_type`` of its configuration.

    Raises:
        OSError: there is none.
        ValueError: it is of another kind.
    """
    _, model, mean, std = _KINDS[family(kind)]
    with contextlib.suppress(OSError):  # without a file of how pictures are prepared: as all of its kind
        found = ImageProcessingMixin.get_image_processor_dict(name)[0]
        mean, std = found.get("image_mean", mean), found.get("image_std", std)
    # Not in the file's type, as by default since transformers 5 (5.24.0, findings/transformers_half_by_file.sh).
    return TransformersPictures(model.from_pretrained(name, dtype=torch.float32), mean, std)


def vision_shape(name: str, kind: str) -> tuple[int, int, int]:
    """Of a checkpoint: the side of a patch in pixels, and how many layers can be tuned and give attention.

    Raises:
        OSError: there is none.
        ValueError: it is of another kind.
    """
    config = _KINDS[family(kind)][0].from_pretrained(name)
    layers = int(config.num_hidden_layers)
    pools = family(kind) == "siglip" and config.vision_use_head
    return int(config.patch_size), layers, 1 if pools else layers


def family(kind: str) -> str:
    """``clip`` or ``siglip``, of a ``model_type``; empty: it is neither."""
    stem = kind.removesuffix("_vision_model")
    return stem if stem in _KINDS else ""


def _left_out(hidden: Tensor, keep: Tensor) -> Tensor:
    """Embedded tokens ``(B, P + h * w, D)`` -> ``(B, P + n, D)``, of those that are kept."""
    flat = keep.flatten(1)
    prefix = hidden.shape[1] - flat.shape[1]
    patches = hidden[:, prefix:][flat].reshape(len(hidden), -1, hidden.shape[2])
    return torch.cat([hidden[:, :prefix], patches], dim=1)
