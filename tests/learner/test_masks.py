from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.model.attention_masks import AttentionRead, MaskConfig, compute_masks
from learner.model.tokens import Tokens
from tests.learner.builders import make_tokens


def _read(tokens: Tokens, seed: int, heads: int = 2) -> AttentionRead:
    generator = torch.Generator().manual_seed(seed)
    num, patches, text = len(tokens), tokens.patches.shape[1], tokens.token_ids.shape[1]
    return AttentionRead(
        class_to_image=torch.rand((num, heads, patches), generator=generator),
        image_to_text=torch.rand((num, heads, patches, text), generator=generator),
        patch_norms=torch.ones((num, patches)),
    )


def test_defaults() -> None:
    """The most attentive head of each patch; patches above the mean of the picture's attention; text by the attention
    of the discarded patches, above its mean over the words; [CLS] and [SEP] stay."""
    tokens = make_tokens(num=1, text=6)
    attention = torch.tensor(
        [[[0.9, 0.1, 0.1, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.7]]]
    )
    to_text = torch.zeros(1, 2, 9, 6)
    to_text[:, :, 1, 2] = 0.9  # patch 1 is discarded: its attention counts
    to_text[:, :, 0, 3] = 0.9  # patch 0 is kept: its does not
    to_text[:, :, 2, 5] = 5.0  # [SEP] draws much, and must not crowd out the words
    masks = compute_masks(AttentionRead(attention, to_text, torch.ones(1, 9)), tokens, MaskConfig())
    # maxima of the heads: .9 .1 .1 .1 .8 .1 .1 .1 .7; their mean is .333
    assert masks.keep_patches[0].nonzero().flatten().tolist() == [0, 4, 8]
    assert masks.keep_tokens[0].nonzero().flatten().tolist() == [0, 2, 5]
    assert torch.allclose(masks.patch_attention[0, [0, 8]], torch.tensor([0.9, 0.7]))


def test_each_part_can_be_switched_off() -> None:
    tokens = make_tokens()
    read = _read(tokens, 1)
    no_image = compute_masks(read, tokens, MaskConfig(image=False))
    assert torch.equal(no_image.keep_patches, tokens.patch_valid)
    # Nothing was discarded, so there is nothing for the text to stand in for.
    assert torch.equal(no_image.keep_tokens, tokens.token_valid)
    no_text = compute_masks(read, tokens, MaskConfig(text=False))
    assert torch.equal(no_text.keep_tokens, tokens.token_valid)
    assert no_text.keep_patches.sum() < tokens.patch_valid.sum()


def test_heads_and_thresholds() -> None:
    tokens = make_tokens(num=1)
    read = AttentionRead(
        torch.tensor([[[0.0, 0.9, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [0.6, 0.0, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]]]),
        torch.zeros(1, 2, 9, 7),
        torch.ones(1, 9),
    )

    def kept(**settings: object) -> list[int]:
        masks = compute_masks(read, tokens, MaskConfig(text=False, **settings))  # type: ignore[arg-type]
        return masks.keep_patches[0].nonzero().flatten().tolist()

    assert kept(heads="max", image_threshold="quantile", image_amount=2 / 9) == [0, 1]
    assert kept(heads="mean", image_threshold="quantile", image_amount=1 / 9) == [1]
    # means of the heads: .3 .45 .2 .1 x 6, in all 1.55; .45 + .3 is 48 %, with .2 it is 61 %
    assert kept(heads="mean", image_threshold="mass", image_amount=0.48) == [0, 1]
    assert kept(heads="mean", image_threshold="mass", image_amount=0.5) == [0, 1, 2]


@given(
    seed=st.integers(0, 10_000),
    threshold=st.sampled_from(["mean", "quantile", "mass"]),
    amount=st.floats(0.01, 1),
    heads=st.sampled_from(["mean", "max"]),
    flat=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_masks_keep_something_and_only_what_is_there(
    seed: int, threshold: str, amount: float, heads: str, flat: bool
) -> None:
    tokens = make_tokens(num=3, seed=seed)
    tokens = tokens.keep_patches(torch.rand((3, 9), generator=torch.Generator().manual_seed(seed)) < 0.7)
    tokens = replace(tokens, patch_valid=tokens.patch_valid | (torch.arange(tokens.patches.shape[1]) == 0))
    read = _read(tokens, seed)
    if flat:
        flat_text = torch.full((3, 2, 9, 7), 0.1)[:, :, : tokens.patches.shape[1]]
        read = AttentionRead(torch.full_like(read.class_to_image, 0.1), flat_text, read.patch_norms)
    config = MaskConfig(image_threshold=threshold, image_amount=amount, heads=heads)  # type: ignore[arg-type]
    masks = compute_masks(read, tokens, config)
    assert (masks.keep_patches.sum(1) >= 1).all()
    assert not (masks.keep_patches & ~tokens.patch_valid).any()
    assert not (masks.keep_tokens & ~tokens.token_valid).any()
    assert masks.keep_tokens[:, 0].all()
    last = tokens.token_valid.sum(1) - 1
    assert masks.keep_tokens[torch.arange(3), last].all()


def test_random_masks_keep_as_many() -> None:
    tokens = make_tokens()
    read = _read(tokens, 3)
    attended = compute_masks(read, tokens, MaskConfig(text=False)).keep_patches
    drawn = compute_masks(
        read, tokens, MaskConfig(text=False, choice="random"), torch.Generator().manual_seed(0)
    ).keep_patches
    assert torch.equal(attended.sum(1), drawn.sum(1))
    assert not torch.equal(attended, drawn)
    with pytest.raises(ValueError, match="generator"):
        compute_masks(read, tokens, MaskConfig(choice="random"))


def test_a_fixed_grid_keeps_the_same_places_of_all_pictures_evenly_spread() -> None:
    tokens = make_tokens(num=2, grid=(8, 8))
    keep = compute_masks(_read(tokens, 3), tokens, MaskConfig(text=False, choice="grid")).keep_patches
    assert torch.equal(keep[0], keep[1])
    assert keep[0].float().mean() == pytest.approx(0.4, abs=0.03)
    places = keep[0].reshape(8, 8)
    assert places[0, 0]
    quarters = places.unfold(0, 4, 4).unfold(1, 4, 4).sum((2, 3))
    assert quarters.min() >= 5
    assert quarters.max() <= 8
    one = compute_masks(_read(tokens, 3), tokens, MaskConfig(text=False, choice="grid", image_amount=0.001))
    assert one.keep_patches.sum(1).tolist() == [1, 1]


def test_an_objects_masks_keep_what_it_covers_most() -> None:
    tokens = make_tokens(num=2, grid=(2, 3))
    shares = torch.tensor([[0.0, 0.9, 0.1, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.2]])
    config = MaskConfig(text=False, choice="object")
    keep = compute_masks(_read(tokens, 3), tokens, config, object_shares=shares).keep_patches
    # Above the mean, as attention is.
    assert keep.tolist() == [[False, True, False, False, True, False], [False] * 5 + [True]]
    half = replace(config, image_threshold="quantile", image_amount=0.5)
    keep = compute_masks(_read(tokens, 3), tokens, half, object_shares=shares).keep_patches
    assert keep[0].tolist() == [False, True, True, False, True, False]
    with pytest.raises(ValueError, match="does not say where objects are"):
        compute_masks(_read(tokens, 3), tokens, config)


def test_amounts_outside_0_1_are_refused() -> None:
    with pytest.raises(ValueError, match="image_amount"):
        MaskConfig(image_amount=0)
    with pytest.raises(ValueError, match="text_amount"):
        MaskConfig(text_amount=1.2)


def test_sinks_can_be_left_out_and_nothing_else() -> None:
    tokens = make_tokens(num=2)
    read = _read(tokens, 5)
    attention = read.class_to_image.clone()
    attention[:, :, 4] = 9.0  # the corner that draws it all
    norms = 1 + 0.1 * torch.rand((2, 9), generator=torch.Generator().manual_seed(0))
    norms[0, 4] = 8.0
    read = replace(read, class_to_image=attention, patch_norms=norms)
    config = MaskConfig(text=False, image_threshold="quantile", image_amount=1 / 9)
    with_sinks = compute_masks(read, tokens, replace(config, drop_sinks=False)).keep_patches
    without = compute_masks(read, tokens, config).keep_patches
    assert with_sinks[:, 4].all()
    # In the second sample patch 4 is as long as any other: no sink, whatever it attracts.
    assert without[:, 4].tolist() == [False, True]
    assert without.sum(1).tolist() == [1, 1]


def test_a_text_mask_without_its_attention_is_refused() -> None:
    tokens = make_tokens()
    read = replace(_read(tokens, 3), image_to_text=None)
    assert compute_masks(read, tokens, MaskConfig(text=False)).keep_tokens.equal(tokens.token_valid)
    with pytest.raises(ValueError, match="text=True"):
        compute_masks(read, tokens, MaskConfig())
