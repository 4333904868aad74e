from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory_format import FormatError
from memory_format.bitmask import count_kept, mask_from_bytes, mask_to_bytes, num_mask_bytes
from tests.memory_format.strategies import keep_masks


@given(keep_masks(max_side=20))
def test_a_bitmask_says_what_the_mask_does(keep_mask: np.ndarray) -> None:
    bitmask = mask_to_bytes(keep_mask)
    assert len(bitmask) == num_mask_bytes(keep_mask.size)
    assert count_kept(bitmask) == keep_mask.sum()
    back = mask_from_bytes(bitmask, keep_mask.size)
    np.testing.assert_array_equal(back.reshape(keep_mask.shape), keep_mask)


def test_the_first_cell_is_the_most_significant_bit() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    mask[0, 0] = mask[2, 2] = True
    assert mask_to_bytes(mask) == b"\x80\x80"


@given(st.binary(max_size=12), st.integers(0, 80))
def test_only_canonical_bitmasks_are_read(bitmask: bytes, num_cells: int) -> None:
    try:
        mask = mask_from_bytes(bitmask, num_cells)
    except FormatError:
        return
    assert mask_to_bytes(mask) == bitmask
