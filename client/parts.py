"""Which picture and which text the patches and tokens of a batch are of, where its records have several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format.bitmask import count_kept
from memory_format.parts import Further, PartHead, Said

IntArray = NDArray[np.int64]

ROLES: Final = ("system", "user", "assistant", "tool")
"""Numbered 1, 2, 3 and 4 as a token's role. 0 = none, -1 = another one."""


@dataclass(frozen=True, eq=False)
class BatchParts:
    """B records: I = most pictures of one, K = most patches, T = most tokens. Padding is zero."""

    num_pictures: IntArray
    """``(B,)``."""
    picture_grid: IntArray
    """``(B, I, 2)``: rows and columns of each picture's own grid."""
    picture_at: IntArray
    """``(B, I)``: how many tokens of the original text, kept or not, come before each picture."""
    patch_picture: IntArray
    """``(B, K)``: which of its record's pictures each patch is of, from 0; its position is one of that grid."""
    token_turn: IntArray
    """``(B, T)``: which of its record's texts each token is of, from 0."""
    token_role: IntArray
    """``(B, T)``: that text's role, its place in :data:`ROLES` and 1."""
    roles: tuple[tuple[str, ...], ...]
    """Of each record's texts, in their order."""


TENSORS: Final = ("num_pictures", "picture_grid", "picture_at", "patch_picture", "token_turn", "token_role")
"""Those that become tensors."""


def batch_parts(
    heads: Sequence[tuple[PartHead, ...]],
    grid: IntArray,
    patch_valid: NDArray[np.bool_],
    token_positions: IntArray,
    token_valid: NDArray[np.bool_],
) -> BatchParts:
    """The parts of a batch.

    Args:
        heads: of each record; ``(None,)`` where it was not made of parts.
        grid, patch_valid, token_positions, token_valid: as :class:`client.batch.ReplayBatch` has them.
    """
    count = len(heads)
    num_pictures = np.array([sum(not isinstance(part, Said) for part in parts) for parts in heads], dtype=np.int64)
    most = int(num_pictures.max())
    picture_grid, picture_at = np.zeros((count, most, 2), np.int64), np.zeros((count, most), np.int64)
    patch_picture, token_turn = np.zeros(patch_valid.shape, np.int64), np.zeros(token_valid.shape, np.int64)
    token_role = np.zeros_like(token_turn)
    roles: list[tuple[str, ...]] = []
    for row, parts in enumerate(heads):
        further = [part for part in parts if isinstance(part, Further)]
        texts = [part for part in parts if isinstance(part, Said)]
        picture_grid[row, : num_pictures[row]] = [grid[row].tolist(), *(picture.grid for picture in further)]
        picture_at[row, : num_pictures[row]] = _tokens_before_pictures(parts)
        kept = [count_kept(picture.keep_mask_bytes) for picture in further]
        counts = [int(patch_valid[row].sum()) - sum(kept), *kept]
        patch_picture[row, : sum(counts)] = np.repeat(np.arange(len(counts)), counts)
        if texts:
            ends, said = np.cumsum([text.text_length for text in texts]), token_valid[row]
            turns = np.searchsorted(ends, token_positions[row, said], side="right")
            token_turn[row, said] = turns
            token_role[row, said] = np.array([_number(text.role) for text in texts])[turns]
        roles.append(tuple(text.role for text in texts))
    return BatchParts(num_pictures, picture_grid, picture_at, patch_picture, token_turn, token_role, tuple(roles))


def _tokens_before_pictures(parts: tuple[PartHead, ...]) -> list[int]:
    found, before = [], 0
    for part in parts:
        if isinstance(part, Said):
            before += part.text_length
        else:
            found.append(before)
    return found


def _number(role: str) -> int:
    return ROLES.index(role) + 1 if role in ROLES else -1
