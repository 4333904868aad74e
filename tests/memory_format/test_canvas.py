from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import (
    AVIF,
    JPEG,
    FormatError,
    Layout,
    PatchCodec,
    RawZstd,
    WebP,
    image_to_patches,
    make_record,
    patches_to_image,
)
from memory_format.canvas import MAX_SIDE_PX, canvas_grid, default_layout, kept_pixels, lay_out, take_out
from tests.memory_format.strategies import keep_masks, noise


@pytest.mark.parametrize("layout", ["mosaic", "in_place", "strip"])
@given(keep_mask=keep_masks(), patch_px=st.integers(1, 5), seed=st.integers(0, 1000))
def test_take_out_inverts_lay_out(layout: Layout, keep_mask: np.ndarray, patch_px: int, seed: int) -> None:
    h, w = keep_mask.shape
    patches = noise((int(keep_mask.sum()), patch_px, patch_px, 3), seed)
    canvas = lay_out(patches, keep_mask, (h, w), layout)
    rows, columns = canvas_grid(len(patches), (h, w), layout, patch_px)
    assert canvas.shape == (rows * patch_px, columns * patch_px, 3)
    np.testing.assert_array_equal(take_out(canvas, np.flatnonzero(keep_mask), patch_px, layout), patches)


@pytest.mark.parametrize("layout", ["mosaic", "in_place", "strip"])
@given(keep_mask=keep_masks(), patch_px=st.integers(1, 5))
def test_kept_pixels_are_those_that_hold_patches(layout: Layout, keep_mask: np.ndarray, patch_px: int) -> None:
    patches = np.full((int(keep_mask.sum()), patch_px, patch_px, 3), 7, dtype=np.uint8)
    kept = kept_pixels(keep_mask, patch_px, layout)
    canvas = lay_out(patches, keep_mask, keep_mask.shape, layout)
    assert kept.shape == canvas.shape[:2]
    assert kept.sum() == len(patches) * patch_px**2
    assert (take_out(np.where(kept[..., None], canvas, 0), np.flatnonzero(keep_mask), patch_px, layout) == 7).all()


@given(keep_mask=keep_masks(), colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_a_picture_of_one_colour_is_painted_in_it(keep_mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    patches = np.empty((int(keep_mask.sum()), 3, 3, 3), dtype=np.uint8)
    patches[:] = colour
    for layout in ("mosaic", "in_place", "strip"):
        assert (lay_out(patches, keep_mask, keep_mask.shape, layout) == colour).all()


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


@pytest.mark.parametrize("codec", [WebP(), AVIF(), JPEG(), RawZstd()])
@pytest.mark.parametrize("patch_px", [4, 8, 12])
def test_few_patches_lower_than_the_codecs_blocks_make_a_mosaic(codec: PatchCodec, patch_px: int) -> None:
    keep_mask = (np.arange(16) < 8).reshape(4, 4)
    record = make_record(class_id=0, patches=noise((8, patch_px, patch_px, 3), 0), keep_mask=keep_mask, codec=codec)
    is_wasteful = patch_px == 4 and codec.codec_id in ("em_avif", "em_jpeg")
    assert record.layout == ("mosaic" if is_wasteful else "strip")


@pytest.mark.parametrize(("num_kept", "layout"), [(1, "strip"), (8, "strip"), (9, "in_place"), (16, "in_place")])
def test_few_patches_make_a_strip_and_many_stay_in_place(num_kept: int, layout: str) -> None:
    keep_mask = (np.arange(16) < num_kept).reshape(4, 4)
    assert default_layout(keep_mask, 8) == layout
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
