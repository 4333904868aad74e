from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import Layout
from memory_format.canvas import kept_pixels, lay_out, take_out
from memory_format.masks import canvas_grid
from tests.memory_format.strategies import keep_masks, noise


@pytest.mark.parametrize("layout", ["mosaic", "in_place", "strip"])
@given(keep_mask=keep_masks(), patch_px=st.integers(1, 5), seed=st.integers(0, 1000))
def test_take_out_inverts_lay_out(layout: Layout, keep_mask: np.ndarray, patch_px: int, seed: int) -> None:
    h, w = keep_mask.shape
    patches = noise((int(keep_mask.sum()), patch_px, patch_px, 3), seed)
    canvas = lay_out(patches, keep_mask, (h, w), layout)
    rows, columns = canvas_grid(len(patches), (h, w), layout, patch_px)
    assert canvas.shape == (rows * patch_px, columns * patch_px, 3)
    np.testing.assert_array_equal(take_out(canvas, keep_mask, patch_px, layout), patches)


@pytest.mark.parametrize("layout", ["mosaic", "in_place", "strip"])
@given(keep_mask=keep_masks(), patch_px=st.integers(1, 5))
def test_kept_pixels_are_those_that_hold_patches(layout: Layout, keep_mask: np.ndarray, patch_px: int) -> None:
    patches = np.full((int(keep_mask.sum()), patch_px, patch_px, 3), 7, dtype=np.uint8)
    kept = kept_pixels(keep_mask, patch_px, layout)
    canvas = lay_out(patches, keep_mask, keep_mask.shape, layout)
    assert kept.shape == canvas.shape[:2]
    assert kept.sum() == len(patches) * patch_px**2
    assert (take_out(np.where(kept[..., None], canvas, 0), keep_mask, patch_px, layout) == 7).all()


@given(keep_mask=keep_masks(), colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_a_picture_of_one_colour_is_painted_in_it(keep_mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    patches = np.empty((int(keep_mask.sum()), 3, 3, 3), dtype=np.uint8)
    patches[:] = colour
    for layout in ("mosaic", "in_place", "strip"):
        assert (lay_out(patches, keep_mask, keep_mask.shape, layout) == colour).all()
