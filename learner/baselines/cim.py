"""CIM: exemplars whose class-activation box keeps its pixels and whose surroundings are downsampled.

Luo et al., "Class-Incremental Exemplar Compression for Class-Incremental Learning", CVPR 2023, with a fixed threshold:
what that paper calls the CAM-based mask. The masking model that it learns on top, by bilevel optimisation, is not here.
The activation map is Grad-CAM (Selvaraju et al., ICCV 2017) at the input of the last block, as is usual for vision
transformers; the box is the smallest that holds every patch above a share of the map's maximum.

A stored exemplar is one picture in the run's codec: the box as it was, the rest averaged over cells and drawn large
again. Averaged regions cost a codec almost nothing, and the memory charges what it really stores for them:
docs/decisions/0008 compares that with storing box and small picture apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.model.backbones.packing import Packing
from learner.model.backbones.vilt import NEEDS_VILT, ViltBackbone
from learner.model.classifier import Classifier
from learner.model.tokens import Tokens

THRESHOLD = 0.6
"""Share of the map's maximum from which on a patch is in the box."""
DOWNSAMPLE = 4
"""Side in pixels of the cells that become one colour outside the box."""


def compress(model: Classifier, tokens: Tokens, targets: Tensor, batch_size: int = 64) -> Tokens:
    """Full samples with their pictures downsampled outside the box of their class.

    Args:
        tokens: ``(N, ...)`` full samples, patches in row-major order.
        targets: ``(N,)`` head indices of their classes.

    Raises:
        ValueError: the patch side is not a multiple of :data:`DOWNSAMPLE`.
    """
    patches = []
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size]
        box = activation_box(class_activation(model, batch, targets[start : start + batch_size]), batch)
        patches.append(torch.where(box[:, :, None, None, None], batch.patches, averaged(batch.patches, DOWNSAMPLE)))
    return replace(tokens, patches=torch.cat(patches))


def class_activation(model: Classifier, tokens: Tokens, targets: Tensor) -> Tensor:
    """Grad-CAM ``(B, K)`` on the CPU, non-negative: which patches speak for the class.

    Raises:
        ValueError: the model's backbone is no ViLT.
    """
    if not isinstance(model.backbone, ViltBackbone):
        raise ValueError(f"an activation map is of a ViLT's last layer: {NEEDS_VILT}")
    last = model.backbone.layers[-1]
    entered: list[tuple[Tensor, Packing]] = []

    def enter(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # A leaf: gradients are wanted here and nowhere before.
        leaf = args[0].detach().requires_grad_()
        entered.append((leaf, args[1]))
        return (leaf, *args[1:])

    handle = last.register_forward_pre_hook(enter)
    model.eval()
    try:
        with torch.enable_grad():
            logits = model.logits(tokens)
    finally:
        handle.remove()
    score = logits.gather(1, targets.to(logits.device)[:, None]).sum()
    ((leaf, packed),) = entered
    (gradient,) = torch.autograd.grad(score, leaf)
    first_patch = tokens.token_ids.shape[1] + 1
    hidden, gradient = (packed.unpack(values)[:, first_patch:].float() for values in (leaf.detach(), gradient))
    weights = gradient.mean(1, keepdim=True)
    return (hidden * weights).sum(-1).relu().cpu() * tokens.patch_valid.cpu()


def activation_box(activation: Tensor, tokens: Tokens, threshold: float = THRESHOLD) -> Tensor:
    """``(B, K)`` bool: the smallest box of the grid that holds every patch of at least ``threshold`` of the largest
    activation. A picture that speaks for its class nowhere keeps all of itself."""
    active = activation >= threshold * activation.amax(1, keepdim=True)
    width = tokens.grid[:, 1:]
    row, column = tokens.patch_positions // width, tokens.patch_positions % width
    inside = torch.ones_like(active)
    for place in (row, column):
        low = place.masked_fill(~active, int(place.max()) + 1).amin(1, keepdim=True)
        high = place.masked_fill(~active, -1).amax(1, keepdim=True)
        inside &= (place >= low) & (place <= high)
    return inside


def averaged(patches: Tensor, cell: int) -> Tensor:
    """Patches ``(B, K, P, P, 3)`` whose cells of ``cell`` x ``cell`` pixels have become one colour each."""
    side = patches.shape[2]
    if side % cell:
        raise ValueError(f"patches of {side} px do not divide into cells of {cell} px")
    pixels = patches.flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(pixels, cell)
    large = small.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    return large.permute(0, 2, 3, 1).round().to(torch.uint8).reshape(patches.shape)
