"""What is known of a record from its header and the beginning of its body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from memory_format.api.answers import ExemplarInfo
from memory_format.body import count_parts, tokens_of
from memory_format.codecs import codec_by_number
from memory_format.header import FLAG_EXTRAS, layout_of

_OF_HEADER: Final = ("exemplar_id", "class_id", "phase", "score", "rank", "patch_px", "text_length", "crc32")


@dataclass(frozen=True)
class Glimpse:
    """A record without its pixels."""

    info: ExemplarInfo
    token_ids: tuple[int, ...]
    token_positions: tuple[int, ...]
    """Places in the original text."""


def info_of(header: np.void, learner_id: str, prefix: bytes, charge: int) -> ExemplarInfo:
    """What is known of a record without its pixels and tokens: its header, and how its body begins."""
    flags, h, w = int(header["flags"]), int(header["grid_h"]), int(header["grid_w"])
    num_patches, num_tokens = count_parts(header, prefix)
    return ExemplarInfo(
        **{name: header[name].item() for name in _OF_HEADER},
        learner_id=learner_id,
        grid=(h, w),
        codec=codec_by_number(int(header["codec"])).codec_id,
        layout=layout_of(flags),
        has_extras=bool(flags & FLAG_EXTRAS),
        num_tokens=num_tokens,
        num_patches=num_patches,
        keep_ratio=num_patches / (h * w),
        charge=charge,
    )


def glimpse_of(header: np.void, learner_id: str, prefix: bytes, charge: int) -> Glimpse:
    """The same with its text."""
    ids, positions = tokens_of(header, prefix)
    return Glimpse(info_of(header, learner_id, prefix, charge), tuple(ids.tolist()), tuple(positions.tolist()))
