"""A record shown as a picture: kept patches where they were, the rest flat."""

from __future__ import annotations

import numpy as np
import pytest

from memory_format import Dropped, FormatError, RawZstd, image_to_patches, make_record


@pytest.mark.parametrize(
    ("dropped", "colour"), [("grey", (211, 211, 211)), ("black", (0, 0, 0)), ("transparent", (0, 0, 0, 0))]
)
@pytest.mark.parametrize("layout", ["strip", "mosaic", "in_place"])
def test_kept_patches_are_in_their_places_and_the_others_flat(
    dropped: Dropped, colour: tuple[int, ...], layout: str
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5 * 8, 7 * 8, 3), dtype=np.uint8)
    keep_mask = rng.random((5, 7)) < 0.4
    patches = image_to_patches(image, 8)[keep_mask.reshape(-1)]
    shown = make_record(
        class_id=0,
        patches=patches,
        keep_mask=keep_mask,
        codec=RawZstd(),
        layout=layout,  # type: ignore[arg-type]
    ).image(dropped)
    kept = np.kron(keep_mask, np.ones((8, 8), dtype=bool))
    assert shown.shape == (*image.shape[:2], len(colour))
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[kept][:, :3], image[kept])
    assert (shown[kept][:, 3:] == 255).all()
    assert (shown[~kept] == colour).all()


def test_a_small_record_of_gigapixels_is_not_drawn() -> None:
    keep_mask = np.zeros((255, 255), dtype=bool)
    keep_mask[0, 0] = True
    huge = make_record(class_id=0, patches=np.zeros((1, 255, 255, 3), np.uint8), keep_mask=keep_mask, codec=RawZstd())
    with pytest.raises(FormatError, match=r"would be 65025x65025 px, over 16777216") as raised:
        huge.image()
    assert raised.value.code == "invalid_record"
