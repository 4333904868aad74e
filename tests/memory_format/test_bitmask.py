from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import FormatError
from memory_format.bitmask import (
    count_kept,
    mask_from_bytes,
    mask_from_indices,
    mask_to_bytes,
    mask_to_indices,
    num_mask_bytes,
)
from tests.memory_format.strategies import keep_masks


@given(keep_masks(max_side=20))
def test_bitmask_and_indices_say_the_same(keep_mask: np.ndarray) -> None:
    bitmask = mask_to_bytes(keep_mask)
    assert len(bitmask) == num_mask_bytes(keep_mask.size)
    assert count_kept(bitmask) == keep_mask.sum()
    back = mask_from_bytes(bitmask, keep_mask.size)
    np.testing.assert_array_equal(back.reshape(keep_mask.shape), keep_mask)
    indices = mask_to_indices(back)
    assert (np.diff(indices) > 0).all()
    np.testing.assert_array_equal(mask_from_indices(indices, keep_mask.size), back)
    assert mask_to_bytes(mask_from_indices(indices, keep_mask.size)) == bitmask


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


@pytest.mark.parametrize("indices", [[0, 0], [-1], [6], [0, 7]])
def test_indices_outside_or_twice_are_refused(indices: list[int]) -> None:
    with pytest.raises(FormatError) as caught:
        mask_from_indices(np.array(indices), 6)
    assert caught.value.code == "mask_mismatch"
