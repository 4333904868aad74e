"""A few masked samples as they were made, kept for the report."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from learner.data.tokenised import TokenisedSplit
from learner.exemplars import MaskedSplit, mask_split, with_text_mask
from learner.files import DamagedFileError, write_atomically
from learner.masks import MaskConfig
from learner.train import Classifier
from memory_format import patches_to_image


@dataclass(frozen=True)
class Example:
    """One masked sample for looking at.

    Attributes:
        image: ``(H, W, 3)`` uint8, the whole picture.
        keep_mask: ``(h, w)`` bool.
        attention: ``(h, w)`` float32, the class token's attention.
        token_ids: ``(T,)``; ``stored_tokens``: which of them the exemplar holds; ``attended_tokens``: which ones the
            text mask keeps (the same, unless text masking is off).
        class_id: the sample's class.
    """

    image: NDArray[np.uint8]
    keep_mask: NDArray[np.bool_]
    attention: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    stored_tokens: NDArray[np.bool_]
    attended_tokens: NDArray[np.bool_]
    class_id: int


def save_examples(
    path: Path,
    model: Classifier,
    new: TokenisedSplit,
    masked: MaskedSplit,
    config: MaskConfig,
    per_class: int = 1,
) -> None:
    """Write the first ``per_class`` samples of each class of a phase."""
    chosen = np.concatenate([np.flatnonzero(new.class_ids == c)[:per_class] for c in dict.fromkeys(new.class_ids)])
    index = torch.from_numpy(chosen)
    part = TokenisedSplit(new.tokens[index], new.class_ids[chosen])
    attended = mask_split(model, part, with_text_mask(config), torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        # Grids differ between pictures: as long as the largest, cut to their own when they are read.
        grids=part.tokens.grid.numpy(),
        patches=part.tokens.patches.numpy(),
        keep_masks=masked.keep_patches[index].numpy(),
        attention=masked.patch_attention[index].numpy(),
        token_ids=part.tokens.token_ids.numpy(),
        token_valid=part.tokens.token_valid.numpy(),
        stored_tokens=masked.keep_tokens[index].numpy(),
        attended_tokens=attended.keep_tokens.numpy(),
        class_ids=part.class_ids,
    )
    write_atomically(path, buffer.getvalue())


def load_examples(path: Path) -> list[Example]:
    """The examples that :func:`save_examples` wrote.

    Raises:
        DamagedFileError: they cannot be read any more.
    """
    try:
        # Opened here, as numpy leaves a file open when it turns out to be no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(path, error) from error
    examples = []
    for row in range(len(columns["class_ids"])):
        valid = columns["token_valid"][row]
        h, w = columns["grids"][row].tolist()
        examples.append(
            Example(
                image=patches_to_image(columns["patches"][row, : h * w], (h, w)),
                keep_mask=columns["keep_masks"][row, : h * w].reshape(h, w),
                attention=columns["attention"][row, : h * w].reshape(h, w),
                token_ids=columns["token_ids"][row][valid],
                stored_tokens=columns["stored_tokens"][row][valid],
                attended_tokens=columns["attended_tokens"][row][valid],
                class_id=int(columns["class_ids"][row]),
            )
        )
    return examples
