"""Masked exemplars as the page shows them: the sample, the attention that made the mask, and what is stored."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.files import DamagedFileError
from learner.memory.contents import Example, Held, load_examples

log = logging.getLogger(__name__)

SHOWN_PX = 256
"""The longer side of the pictures in the report: a page of hundreds must stay one that a browser opens."""


class Vocabulary(Protocol):
    """Turns token ids into words."""

    def id_to_token(self, id: int) -> str | None: ...


@dataclass(frozen=True)
class Picture:
    """``src`` and ``alt`` of an image."""

    src: str
    alt: str


@dataclass(frozen=True)
class Word:
    """A word of the caption.

    Attributes:
        before: what stands between it and the last one: a space, or nothing within a word that was cut.
        kept: whether it is shown as one that matters.
    """

    before: str
    text: str
    kept: bool


@dataclass(frozen=True)
class Exhibit:
    """One exemplar that the memory holds."""

    class_name: str
    figures: str
    pictures: list[Picture]
    words: list[Word]


def exhibits(folder: Path, held: Held | None, class_names: Sequence[str], vocabulary: Vocabulary) -> list[Exhibit]:
    """The most preferred exemplar of each class that is still held, in the order in which the classes came.

    Args:
        folder: of the method.
        held: what its memory holds; None: as it is not known, what was stored.
    """
    return [_exhibit(example, class_names, vocabulary) for example in preferred(folder, held)]


def preferred(folder: Path, held: Held | None) -> list[Example]:
    """Those exemplars. Arguments as for :func:`exhibits`."""
    return [
        example
        for path in sorted(folder.glob("examples-*.npz"), key=lambda path: int(path.stem.split("-")[1]))
        for example in _one_a_class(_examples(path), held)
    ]


def _examples(path: Path) -> list[Example]:
    try:
        return load_examples(path)
    except DamagedFileError as error:
        # Hours of training are not to end without their report for some pictures.
        log.warning("%s: its pictures are not in the report", error)
        return []


def _one_a_class(examples: Sequence[Example], held: Held | None) -> Iterator[Example]:
    shown = set()
    for example in examples:
        if example.class_id not in shown and (held is None or example.exemplar_id in held.ids):
            shown.add(example.class_id)
            yield example


def _exhibit(example: Example, class_names: Sequence[str], vocabulary: Vocabulary) -> Exhibit:
    name = class_names[example.class_id] if example.class_id < len(class_names) else str(example.class_id)
    kept, total = int(example.keep_mask.sum()), example.keep_mask.size
    share = float(example.attention[example.keep_mask].sum() / max(float(example.attention.sum()), 1e-12))
    return Exhibit(
        class_name=name,
        figures=f"{kept} of {total} patches, {share:.0%} of the attention, {example.charge:,} bytes",
        pictures=[
            Picture(_data_url(example.image), f"{name}, the whole picture"),
            Picture(_data_url(_heat(example)), f"{name}, attention from dark (least) to bright (most)"),
            Picture(_data_url(_stored(example)), f"{name}, the {kept} patches that are stored"),
        ],
        words=list(_words(example, vocabulary)),
    )


def _stored(example: Example) -> NDArray[np.uint8]:
    """``(H, W, 4)``: what the record gives back, and nothing where it holds nothing."""
    opaque = 255 * _upsampled(example.keep_mask, example).astype(np.uint8)
    return np.concatenate([example.stored, opaque[:, :, None]], axis=2)


def _heat(example: Example) -> NDArray[np.uint8]:
    """The attention map over the picture, from its least (dark) to its most attended patch."""
    low, high = float(example.attention.min()), float(example.attention.max())
    share = (example.attention - low) / max(high - low, 1e-12)
    colours = matplotlib.colormaps["inferno"](_upsampled(share, example))[:, :, :3] * 255
    blended: NDArray[np.uint8] = (0.75 * colours + 0.25 * example.image).astype(np.uint8)
    return blended


def _upsampled(grid: NDArray[np.generic], example: Example) -> NDArray[np.generic]:
    side = example.image.shape[0] // grid.shape[0]
    return grid.repeat(side, axis=0).repeat(side, axis=1)


def _words(example: Example, vocabulary: Vocabulary) -> Iterator[Word]:
    """The caption without its ends, sub-words joined."""
    marked = example.stored_tokens & example.attended_tokens
    for token, kept in zip(example.token_ids[1:-1].tolist(), marked[1:-1].tolist(), strict=True):
        text = vocabulary.id_to_token(token) or "?"
        inner = text.startswith("##")
        yield Word("" if inner else " ", text[2:] if inner else text, kept)


def _data_url(picture: NDArray[np.uint8]) -> str:
    """The picture in the page: small ones enlarged by whole factors, large ones made smaller."""
    image, longest = Image.fromarray(picture), max(picture.shape[:2])
    if longest > SHOWN_PX:
        image.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    else:
        factor = SHOWN_PX // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
