from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import FormatError, RawZstd, image_to_patches, make_record, patches_to_image
from memory_format.masks import (
    MAX_SIDE_PX,
    canvas_grid,
    count_kept,
    default_layout,
    mask_from_bytes,
    mask_from_indices,
    mask_to_bytes,
    mask_to_indices,
    num_mask_bytes,
)
from tests.memory_format.strategies import keep_masks, noise


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


@given(num_kept=st.integers(1, 500))
def test_a_mosaic_is_near_square_and_wastes_less_than_a_row(num_kept: int) -> None:
    rows, columns = canvas_grid(num_kept, (255, 255), "mosaic", 8)
    assert 0 <= columns - rows <= 1
    assert num_kept <= rows * columns < num_kept + columns


@given(num_kept=st.integers(1, 65_025), patch_px=st.integers(1, 255))
def test_a_strip_is_one_row_as_far_as_an_image_may_be_wide(num_kept: int, patch_px: int) -> None:
    rows, columns = canvas_grid(num_kept, (255, 255), "strip", patch_px)
    assert columns * patch_px <= MAX_SIDE_PX
    assert num_kept <= rows * columns < num_kept + columns
    assert (rows == 1) == (num_kept * patch_px <= MAX_SIDE_PX - MAX_SIDE_PX % patch_px)


@pytest.mark.parametrize(("num_kept", "layout"), [(1, "strip"), (8, "strip"), (9, "in_place"), (16, "in_place")])
def test_few_patches_make_a_strip_and_many_stay_in_place(num_kept: int, layout: str) -> None:
    keep_mask = (np.arange(16) < num_kept).reshape(4, 4)
    assert default_layout(keep_mask) == layout
    record = make_record(class_id=0, patches=noise((num_kept, 8, 8, 3), 0), keep_mask=keep_mask, codec=RawZstd())
    assert record.layout == layout


@given(h=st.integers(1, 6), w=st.integers(1, 6), patch_px=st.integers(1, 6), seed=st.integers(0, 1000))
def test_patches_and_image_are_inverse(h: int, w: int, patch_px: int, seed: int) -> None:
    image = noise((h * patch_px, w * patch_px, 3), seed)
    patches = image_to_patches(image, patch_px)
    assert patches.shape == (h * w, patch_px, patch_px, 3)
    np.testing.assert_array_equal(patches[-1], image[-patch_px:, -patch_px:])
    np.testing.assert_array_equal(patches_to_image(patches, (h, w)), image)


def test_an_image_that_does_not_divide_is_refused() -> None:
    with pytest.raises(FormatError, match="does not divide"):
        image_to_patches(np.zeros((16, 17, 3), dtype=np.uint8), 8)


def test_pictures_may_have_a_fourth_channel() -> None:
    image = np.arange(8 * 12 * 4, dtype=np.uint16).astype(np.uint8).reshape(8, 12, 4)
    np.testing.assert_array_equal(patches_to_image(image_to_patches(image, 4), (2, 3)), image)
