"""Samples as the tokens a backbone takes, made once before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from learner.data.base import Split
from learner.tokens import Tokens
from memory_format import image_to_patches


class Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class Tokenizer(Protocol):
    """What is needed of a ``tokenizers`` tokenizer: ``[CLS]`` first, ``[SEP]`` last, nothing padded."""

    def encode_batch(self, texts: list[str]) -> list[Encoding]: ...


@dataclass(frozen=True)
class TokenisedSplit:
    """N full samples.

    Attributes:
        tokens: padded to the longest text.
        class_ids: ``(N,)`` int64.
    """

    tokens: Tokens
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.class_ids)

    def of_classes(self, classes: list[int]) -> TokenisedSplit:
        """The samples of some classes."""
        index = np.flatnonzero(np.isin(self.class_ids, classes))
        return TokenisedSplit(self.tokens[torch.from_numpy(index)], self.class_ids[index])


def tokenise(split: Split, tokenizer: Tokenizer, *, patch_px: int, max_text_tokens: int = 40) -> TokenisedSplit:
    """Cut pictures into patches and texts into tokens.

    Args:
        patch_px: side of a patch; the pictures' side must be a multiple of it.
        max_text_tokens: longer texts lose their end; ``[SEP]`` stays last.

    Raises:
        FormatError: the pictures do not divide into patches.
        ValueError: the split is empty.
    """
    if not len(split):
        raise ValueError("there is no sample to tokenise")
    patches = np.stack([image_to_patches(image, patch_px) for image in split.images])
    side = split.images.shape[1] // patch_px
    number, count = patches.shape[:2]
    encodings = [_cut(encoding.ids, max_text_tokens) for encoding in tokenizer.encode_batch(split.texts)]
    longest = max(map(len, encodings))
    token_ids = torch.zeros((number, longest), dtype=torch.long)
    token_valid = torch.zeros((number, longest), dtype=torch.bool)
    for row, ids in enumerate(encodings):
        token_ids[row, : len(ids)] = torch.tensor(ids)
        token_valid[row, : len(ids)] = True
    tokens = Tokens(
        patches=torch.from_numpy(patches),
        patch_positions=torch.arange(count).expand(number, count).contiguous(),
        patch_valid=torch.ones((number, count), dtype=torch.bool),
        grid=torch.full((number, 2), side),
        token_ids=token_ids,
        token_positions=torch.arange(longest).expand(number, longest).contiguous(),
        token_valid=token_valid,
    )
    return TokenisedSplit(tokens, split.class_ids)


def _cut(ids: list[int], most: int) -> list[int]:
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
