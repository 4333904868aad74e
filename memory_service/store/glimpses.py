"""What is known of a record from its header and the beginning of its body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from memory_format.api.answers import ExemplarInfo
from memory_format.bitmask import count_kept
from memory_format.body import count_parts, extras_of, tokens_of
from memory_format.codecs import codec_by_number
from memory_format.extras import decode_extras
from memory_format.header import FLAG_EXTRAS, FLAG_PARTS, layout_of
from memory_format.parts import further_of

_OF_HEADER: Final = ("exemplar_id", "class_id", "phase", "score", "rank", "patch_px", "text_length", "crc32")


@dataclass(frozen=True)
class Glimpse:
    """A record without its pixels."""

    info: ExemplarInfo
    token_ids: tuple[int, ...]
    token_positions: tuple[int, ...]
    """Places in the original text."""


def info_of(header: np.void, learner_id: str, prefix: bytes, charge: int, revision: int) -> ExemplarInfo:
    """What is known of a record without its pixels and tokens: its header, and how its body begins.

    Args:
        revision: how often its arrays were replaced.
        prefix: as :meth:`~memory_service.store.contents.Contents.read_prefixes` gives it.
    """
    flags, h, w = int(header["flags"]), int(header["grid_h"]), int(header["grid_w"])
    num_patches, num_tokens = count_parts(header, prefix)
    further = further_of(decode_extras(extras_of(header, prefix)).parts) if flags & FLAG_PARTS else []
    num_patches += sum(count_kept(picture.keep_mask_bytes) for picture in further)
    cells = h * w + sum(picture.grid[0] * picture.grid[1] for picture in further)
    return ExemplarInfo(
        **{name: header[name].item() for name in _OF_HEADER},
        learner_id=learner_id,
        grid=(h, w),
        codec=codec_by_number(int(header["codec"])).codec_id,
        layout=layout_of(flags),
        has_extras=bool(flags & FLAG_EXTRAS),
        num_tokens=num_tokens,
        num_patches=num_patches,
        keep_ratio=num_patches / cells,
        num_pictures=1 + len(further),
        charge=charge,
        revision=revision,
    )


def glimpse_of(header: np.void, learner_id: str, prefix: bytes, charge: int, revision: int) -> Glimpse:
    """The same with its text."""
    ids, positions = tokens_of(header, prefix)
    return Glimpse(
        info_of(header, learner_id, prefix, charge, revision), tuple(ids.tolist()), tuple(positions.tolist())
    )
