"""What a memory holds at the end of a run, and masked samples as they were stored: kept for the report, as the service
may be gone when somebody reads that."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client import Buffer, BufferStats
from client.files import DamagedFileError, write_atomically
from learner.memory.exemplars import MaskedSplit, as_split, mask_split
from learner.model.attention_masks import MaskConfig
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from memory_format import Record, patches_to_image

FILE = "held.json"
PER_CLASS = 3
"""Of each class its most preferred exemplars: whichever else is evicted later, these are the last to go."""


@dataclass(frozen=True)
class Held:
    """The contents of a method's buffer after the last phase.

    Attributes:
        exemplars, bytes: by class id; classes of which nothing is held are left out.
        ids: of the exemplars.
    """

    exemplars: Mapping[int, int]
    bytes: Mapping[int, int]
    ids: frozenset[int]


def save_held(
    folder: Path, buffer: Buffer, stats: BufferStats, own: Callable[[list[int]], NDArray[np.int64]] | None = None
) -> None:
    """Write ``held.json`` into a method's folder.

    Args:
        own: the buffer's class ids -> the run's; None = they are the same.
    """
    ids = [of.class_id for of in stats.classes]
    named = dict(zip(ids, ids if own is None else own(ids).tolist(), strict=True))
    document = {
        "exemplars": {str(named[of.class_id]): of.count for of in stats.classes},
        "bytes": {str(named[of.class_id]): of.bytes for of in stats.classes},
        "ids": [info.exemplar_id for info in buffer.query()],
    }
    write_atomically(folder / FILE, (json.dumps(document) + "\n").encode())


def load_held(folder: Path) -> Held | None:
    """What :func:`save_held` wrote; None where the run has not come to its end.

    Raises:
        DamagedFileError: it cannot be read any more.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_bytes())
        exemplars, size = (
            {int(key): int(value) for key, value in said[name].items()} for name in ("exemplars", "bytes")
        )
        return Held(exemplars, size, frozenset(int(number) for number in said["ids"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(path, error) from error


@dataclass(frozen=True)
class Example:
    """One masked exemplar for looking at, beside the sample that it was made of.

    Attributes:
        image: ``(H, W, 3)`` uint8, the whole picture.
        stored: ``(H, W, 3)`` uint8, what the record gives back; 0 where it holds no patch.
        keep_mask: ``(h, w)`` bool.
        attention: ``(h, w)`` float32, the class token's attention.
        token_ids: ``(T,)``; ``stored_tokens``: which of them the exemplar holds; ``attended_tokens``: which ones the
            text mask keeps (the same, unless text masking is off).
        class_id: the sample's class.
        exemplar_id: its number in the buffer.
        charge: bytes that the budget counts for it.
    """

    image: NDArray[np.uint8]
    stored: NDArray[np.uint8]
    keep_mask: NDArray[np.bool_]
    attention: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    stored_tokens: NDArray[np.bool_]
    attended_tokens: NDArray[np.bool_]
    class_id: int
    exemplar_id: int
    charge: int


def save_examples(
    path: Path,
    model: Classifier,
    new: TokenisedSplit,
    masked: MaskedSplit,
    config: MaskConfig,
    pushed: Iterable[tuple[int, Record, int | None]],
) -> None:
    """Write the first :data:`PER_CLASS` exemplars of each class of a phase that the memory took.

    Args:
        new, masked: all samples of the phase, ``(N, ...)``.
        pushed: row, record and the buffer's number of it, in order of preference; None: it was not kept.
    """
    chosen: list[tuple[int, Record, int]] = []
    of_class: Counter[int] = Counter()
    for row, record, exemplar_id in pushed:
        if exemplar_id is not None and of_class[record.class_id] < PER_CLASS:
            of_class[record.class_id] += 1
            chosen.append((row, record, exemplar_id))
    index = torch.tensor([row for row, _, _ in chosen], dtype=torch.long)
    part = new[index]
    stored = np.zeros(part.tokens.patches.shape, dtype=np.uint8)
    for place, (_, record, _) in enumerate(chosen):
        shown = as_split([record], part.class_ids[place : place + 1], part.tokens.patch_px).tokens
        stored[place, record.keep_indices] = shown.patches[0].numpy()
    attended = masked.keep_tokens[index]
    if chosen and not config.text and model.backbone.reads_words:
        generator = torch.Generator().manual_seed(0)
        attended = mask_split(model, part, replace(config, text=True), generator).keep_tokens
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        # Grids differ between pictures: as long as the largest, cut to their own when they are read.
        grids=part.tokens.grid.numpy(),
        patches=part.tokens.patches.numpy(),
        stored=stored,
        keep_masks=masked.keep_patches[index].numpy(),
        attention=masked.patch_attention[index].numpy(),
        token_ids=part.tokens.token_ids.numpy(),
        token_valid=part.tokens.token_valid.numpy(),
        stored_tokens=masked.keep_tokens[index].numpy(),
        attended_tokens=attended.numpy(),
        class_ids=part.class_ids,
        exemplar_ids=np.array([exemplar_id for _, _, exemplar_id in chosen], dtype=np.int64),
        charges=np.array([record.charge for _, record, _ in chosen], dtype=np.int64),
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
        return [_example(columns, row) for row in range(len(columns["class_ids"]))]
    except (OSError, ValueError, EOFError, AttributeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(path, error) from error


def _example(columns: dict[str, NDArray[Any]], row: int) -> Example:
    valid = columns["token_valid"][row]
    h, w = columns["grids"][row].tolist()
    return Example(
        image=patches_to_image(columns["patches"][row, : h * w], (h, w)),
        stored=patches_to_image(columns["stored"][row, : h * w], (h, w)),
        keep_mask=columns["keep_masks"][row, : h * w].reshape(h, w),
        attention=columns["attention"][row, : h * w].reshape(h, w),
        token_ids=columns["token_ids"][row][valid],
        stored_tokens=columns["stored_tokens"][row][valid],
        attended_tokens=columns["attended_tokens"][row][valid],
        class_id=int(columns["class_ids"][row]),
        exemplar_id=int(columns["exemplar_ids"][row]),
        charge=int(columns["charges"][row]),
    )
