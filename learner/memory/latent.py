"""Latent replay: exemplars are hidden states of a frozen block, not pixels (Pellegrini et al., IROS 2020).

Blocks that no later phase tunes give the same states ever after. So of each sample the states that enter the first
tuned block are stored, the class token's and those of the patches that the mask keeps, as uint8 with a smallest value
and a step for each token. They are arrays of the record and charged as such. Its pixels are black, since a record has
some, and cost next to nothing. Words are token ids, as in all records; their states are not stored, so that tuned
blocks see none of them, and a feature's own words, where the backbone puts them beside it, are embedded anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.model.backbones.vilt import NEEDS_VILT, ViltBackbone
from learner.model.classifier import Classifier
from learner.model.tokens import Tokens
from memory_format import Record, make_codec, make_record

STATES, RANGES = "states", "ranges"
"""Names of a record's arrays: ``(1 + n, D)`` uint8, the class token's first; and ``(1 + n, 2)`` float16, of each token
its smallest value and the step from one level to the next."""


def states_of(model: Classifier, tokens: Tokens, keep: Tensor) -> Tokens:
    """Samples ``(N, ...)`` as their states, the class token in front of the patches that ``keep`` ``(N, K)`` keeps.

    Raises:
        ValueError: the backbone is no ViLT.
    """
    if not isinstance(model.backbone, ViltBackbone):
        raise ValueError(NEEDS_VILT)
    states = model.states(tokens)
    everywhere = torch.ones((len(tokens), 1), dtype=torch.bool)
    as_states = replace(
        tokens,
        patches=states[:, :, None, None],
        patch_positions=torch.cat([torch.zeros(len(tokens), 1, dtype=torch.long), tokens.patch_positions], dim=1),
        patch_valid=torch.cat([everywhere, tokens.patch_valid], dim=1),
    )
    return as_states.keep_patches(torch.cat([everywhere, keep], dim=1))


def state_record(states: NDArray[np.float32], keep_mask: NDArray[np.bool_], patch_px: int, **fields: object) -> Record:
    """One sample's states ``(1 + n, D)`` as a record.

    Args:
        keep_mask: ``(h, w)`` bool, n cells of it True.
        fields: as :func:`~memory_format.make_record` has them.
    """
    low = states.min(1).astype(np.float16)
    step = np.maximum((states.max(1) - low) / 255, 1e-4).astype(np.float16)
    levels = (states - low[:, None].astype(np.float32)) / step[:, None].astype(np.float32)
    return make_record(
        patches=np.zeros((len(states) - 1, patch_px, patch_px, 3), dtype=np.uint8),
        keep_mask=keep_mask,
        arrays={STATES: levels.round().clip(0, 255), RANGES: np.stack([low, step], axis=1)},
        array_dtypes={STATES: "uint8"},
        **{**fields, "codec": make_codec({"id": "em_zstd"})},  # type: ignore[arg-type]
    )


def from_arrays(tokens: Tokens, arrays: Mapping[str, Tensor]) -> Tokens:
    """Replayed tokens with the states that their records hold in the place of pixels.

    Args:
        arrays: of a batch, by name: NaN where a record has fewer tokens than another.
    """
    levels, ranges = arrays[STATES], arrays[RANGES]
    low, step = ranges[:, :, :1], ranges[:, :, 1:]
    valid = levels[:, :, 0].isfinite()
    states = (low + levels * step).where(valid[:, :, None], torch.zeros(()))
    positions = torch.cat([torch.zeros_like(tokens.patch_positions[:, :1]), tokens.patch_positions], dim=1)
    return replace(tokens, patches=states[:, :, None, None], patch_positions=positions, patch_valid=valid)
