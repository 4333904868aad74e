"""Small records whose contents tell which one they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from memory_format import RawZstd, Record, make_record


def make(number: int, **changes: Any) -> Record:
    """Record ``number``: its class is ``number % 4``, and its pixels and tokens are drawn from it."""
    rng = np.random.default_rng(number)
    h, w = 2 + number % 2, 3
    keep_mask = np.zeros((h, w), dtype=bool)
    keep_mask.flat[rng.permutation(h * w)[: 1 + number % 4]] = True
    length = 4 + number % 5
    positions = np.sort(rng.permutation(length)[: 2 + number % 3])
    arguments: dict[str, Any] = {
        "class_id": number % 4,
        "patches": rng.integers(0, 256, (int(keep_mask.sum()), 8, 8, 3), dtype=np.uint8),
        "keep_mask": keep_mask,
        "codec": RawZstd(),
        "token_ids": 100 + 10 * number + positions,
        "token_positions": positions,
        "text_length": length,
        "phase": number // 10,
        "learner_id": f"learner-{number % 2}",
        "score": number / 100,
        "rank": number,
        "user_json": {"number": number},
    }
    return make_record(**{**arguments, **changes})


def make_many(count: int, first: int = 0, **changes: Any) -> list[Record]:
    return [make(number, **changes) for number in range(first, first + count)]
