"""Attention masks of the pretrained backbone, read before any training.

The learner's "ViLT from parts" sees each picture alone, without its caption: what the last layer's class token attends
to is then DINOv2's own idea of what matters, and finds the object. Words that the image blocks were never trained on
only blur it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.density.pictures import Picture, Sample
from learner.model.attention_masks import AttentionRead, MaskConfig, compute_masks
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.model.tokens import Tokens
from memory_format import image_to_patches

_SMOOTH_CELLS = 1.2  # makes shapes of a few patches


def masked(
    pictures: Sequence[Picture], keep_ratios: Sequence[float], directory: Path | None, tick: Callable[[], object]
) -> list[Sample]:
    """Samples of pictures that share a patch size. The most attended ``keep_ratio`` of the patches are kept.

    Args:
        tick: called after each picture.
    """
    tokenizer = wordpiece_tokenizer(directory)
    encodings = tokenizer.encode_batch([picture.caption for picture in pictures])
    samples = []
    for picture, encoding, (tokens, read) in zip(pictures, encodings, _reads(pictures, directory), strict=True):
        keep = {
            ratio: compute_masks(
                read, tokens, MaskConfig(text=False, image_threshold="quantile", image_amount=ratio)
            ).keep_patches
            for ratio in keep_ratios
        }
        samples.append(
            Sample(
                picture,
                {ratio: kept.numpy().reshape(picture.grid) for ratio, kept in keep.items()},
                np.array(encoding.ids, dtype=np.int64),
            )
        )
        tick()
    return samples


def at_random(samples: Sequence[Sample], keep_ratio: float) -> list[Sample]:
    """The same pictures with masks that know nothing of them: as many patches, smooth random shapes.

    A control: attention keeps the patches where most happens, which are the dearest to code.
    """
    rng = np.random.default_rng(0)
    found = []
    for sample in samples:
        noise = gaussian_filter(rng.normal(size=sample.picture.grid), _SMOOTH_CELLS).reshape(-1)
        keep = np.zeros(noise.size, dtype=bool)
        keep[np.argsort(-noise)[: int(sample.keep_masks[keep_ratio].sum())]] = True
        found.append(replace(sample, keep_masks={keep_ratio: keep.reshape(sample.picture.grid)}))
    return found


@torch.no_grad()
def _reads(pictures: Sequence[Picture], directory: Path | None) -> Iterator[tuple[Tokens, AttentionRead]]:
    patch_px = pictures[0].patch_px
    shortest = min(min(picture.image.shape[:2]) for picture in pictures)
    backbone = vilt_from_parts(image_size=shortest, patch_px=patch_px, directory=directory).eval()
    for picture in pictures:
        tokens = _picture_alone(picture)
        yield tokens, backbone.read(tokens)[1]


def _picture_alone(picture: Picture) -> Tokens:
    """A batch of one picture and no text."""
    patches = torch.from_numpy(image_to_patches(picture.image, picture.patch_px))[None]
    number = patches.shape[1]
    no_text = torch.zeros((1, 0), dtype=torch.long)
    return Tokens(
        patches=patches,
        patch_positions=torch.arange(number)[None],
        patch_valid=torch.ones((1, number), dtype=torch.bool),
        grid=torch.tensor([picture.grid]),
        token_ids=no_text,
        token_positions=no_text,
        token_valid=no_text.bool(),
    )
