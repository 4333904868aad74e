"""Each training technique by itself: what it computes, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.model.attention_masks import MaskConfig, compute_masks
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.tokens import Tokens, concatenate
from learner.run.evaluate import correct
from learner.training.ablations.balance import log_shares
from learner.training.ablations.distill import distillation_loss
from learner.training.ablations.extras import Extras
from learner.training.ablations.fill_from import fill_from, fill_with_mean
from learner.training.ablations.flip import flip
from learner.training.ablations.settings import AblationConfig
from learner.training.ablations.stored_logits import stored_logits_loss
from learner.training.ablations.two_views import two_view_scores
from learner.training.augment import without_picture
from learner.training.settings import TrainConfig
from learner.training.techniques.colour import jitter
from learner.training.techniques.fill import fill, to_canvas
from learner.training.techniques.refit import STRENGTH, fit_ridge
from learner.training.techniques.translate import fit_translation
from learner.training.train import _loss, _View
from memory_format import patches_to_image
from tests.learner.builders import PATCH_PX, make_split, make_tokens

KEEP = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]]).bool()


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("source", ["new", "background", "mean"])
def test_fill_leaves_the_kept_patches_in_their_places(source: str) -> None:
    masked, donors = make_tokens(num=3), make_tokens(num=5, seed=9)
    background = torch.arange(9).expand(5, 9) >= 3
    filled = fill_from(source, masked.keep_patches(KEEP), donors, background, _generator())  # type: ignore[arg-type]
    canvas, valid = to_canvas(filled)
    for row in range(3):
        assert torch.equal(canvas[row][KEEP[row]], masked.patches[row][KEEP[row]])
        others = canvas[row][~KEEP[row]]
        if source == "new":
            assert valid[row].all()
            assert any(torch.equal(others, donor[~KEEP[row]]) for donor in donors.patches)
        if source == "background":
            assert torch.equal(valid[row], KEEP[row] | (torch.arange(9) >= 3))
        if source == "mean":
            mean = masked.patches[row][KEEP[row]].float().mean((0, 1, 2)).round()
            assert torch.equal(others.float(), mean.expand_as(others))


def test_fill_needs_donors_that_fit() -> None:
    masked, donors = make_tokens(num=3).keep_patches(KEEP), make_tokens()
    donors = replace(donors, patches=donors.patches[:, :, :4, :4])
    with pytest.raises(ValueError, match="same patch size"):
        fill(masked, donors, _generator())


def _of_two_grids() -> Tokens:
    """One of 2 x 4 patches with place 5 kept, one of 1 x 2 with place 0 kept."""
    tokens = concatenate([make_tokens(num=1, grid=(2, 4)), make_tokens(num=1, grid=(1, 2), seed=1)])
    keep = torch.zeros_like(tokens.patch_valid)
    keep[0, 5] = keep[1, 0] = True
    return tokens.keep_patches(keep)


def test_fill_takes_the_nearest_place_of_a_donor_with_another_grid() -> None:
    masked, donor = _of_two_grids(), make_tokens(num=1, grid=(4, 2), seed=9)
    filled = fill(masked, donor, _generator())
    assert filled.patch_valid.tolist() == [[True] * 8, [True] * 2 + [False] * 6]
    # Two rows of four over four rows of two: the middles of rows 0, 1 lie in rows 1, 3; each column is seen twice.
    expected = donor.patches[0][[2, 2, 3, 3, 6, 6, 7, 7]]
    expected[5] = masked.patches[0, 0]
    assert torch.equal(filled.patches[0], expected)
    assert torch.equal(filled.patches[1, 0], masked.patches[1, 0])
    assert torch.equal(filled.patches[1, 1], donor.patches[0, 5])
    assert filled.patch_positions[1, :2].tolist() == [0, 1]


def test_fill_by_the_mean_stays_within_each_grid() -> None:
    filled = fill_with_mean(_of_two_grids())
    assert filled.patch_valid.sum(1).tolist() == [8, 2]


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_mirrored_sample_is_its_mirrored_picture_and_mirrored_mask(seed: int) -> None:
    tokens = make_tokens(num=3, grid=(2, 4), seed=seed)
    keep = torch.rand((3, 8), generator=_generator(seed)) < 0.5
    keep[:, 0] = True
    mirrored = flip(tokens.keep_patches(keep), 1.0, _generator())
    canvas, valid = to_canvas(mirrored)
    for row in range(3):
        image = patches_to_image(tokens.patches[row].numpy() * keep[row, :, None, None, None].numpy(), (2, 4))
        assert np.array_equal(patches_to_image(canvas[row].numpy(), (2, 4)), image[:, ::-1])
        assert torch.equal(valid[row].reshape(2, 4), keep[row].reshape(2, 4).flip(1))
    half = flip(make_tokens(num=400), 0.5, _generator())
    moved = (half.patch_positions[:, 0] != 0).float().mean()
    assert 0.35 < moved < 0.65


def test_colour_moves_all_patches_of_a_sample_together() -> None:
    tokens = make_tokens(num=6)
    flat = replace(tokens, patches=torch.full_like(tokens.patches, 100))
    changed = jitter(flat, 0.3, _generator())
    for row in changed.patches:
        assert len(row.unique()) == 1  # grey, and the mean of the sample: brightness alone can move it
        assert 70 <= int(row[0, 0, 0, 0]) <= 130
    assert len({int(row[0, 0, 0, 0]) for row in changed.patches}) > 1
    assert torch.equal(jitter(tokens, 0.0, _generator()).patches, tokens.patches)
    empty = tokens.keep_patches(torch.zeros_like(tokens.patch_valid))
    assert len(jitter(empty, 0.3, _generator())) == 6


def test_distillation_is_the_divergence_and_vanishes_for_the_teacher() -> None:
    logits, teacher = torch.randn(5, 7, generator=_generator()), torch.randn(5, 4, generator=_generator(1))
    p, q = (teacher / 2).softmax(1), (logits[:, :4] / 2).softmax(1)
    expected = 4 * (p * (p.log() - q.log())).sum()
    assert torch.allclose(distillation_loss(logits, teacher), expected, atol=1e-5)
    assert distillation_loss(logits, logits[:, :4]).abs() < 1e-5


def test_stored_logits_count_only_the_classes_known_then() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 9.0], [1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    nan = float("nan")
    stored = torch.tensor([[0.0, 0.0, nan], [1.0, 3.0, 1.0], [nan, nan, nan]])
    loss = stored_logits_loss(logits, stored)
    assert loss.item() == pytest.approx((1 + 4) / 2 + 4 / 3)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[2], torch.zeros(4))
    assert logits.grad.isfinite().all()


def test_shares_are_those_of_half_new_data_and_half_balanced_exemplars() -> None:
    new = np.array([8, 8, 8, 2])
    shares = log_shares([5, 6, 7, 8, 2], new, replayed=True).exp()
    assert torch.allclose(shares, torch.tensor([1 / 6, 1 / 6, 1 / 6, 3 / 8, 1 / 8]))
    # Nothing is shown of the old ones, or all classes are new.
    assert torch.allclose(log_shares([5, 8, 2], new, replayed=False).exp(), torch.tensor([1 / 4, 3 / 4, 1 / 4]))
    assert torch.allclose(log_shares([8, 2], new, replayed=True).exp(), torch.tensor([3 / 4, 1 / 4]))


def test_the_fitted_classifier_is_the_ridge_whatever_the_number_of_exemplars() -> None:
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    features = 3 * F.one_hot(targets, 5).float() + 0.1 * torch.randn(6, 5, generator=_generator())
    head = fit_ridge(features, targets, 3)
    assert torch.equal(head(7 * features).argmax(1), targets)
    # A class weighs what a class weighs: one that has all its exemplars twice gains nothing over the others.
    more = fit_ridge(
        torch.cat([features, features[:2]]), torch.cat([targets, targets[:2]]), 3, strength=8 / 6 * STRENGTH
    )
    assert torch.allclose(head.weight, more.weight, atol=1e-5)
    # With equal classes it is plain ridge regression on centred features.
    unit = F.normalize(features, dim=1)
    centred = (unit - unit.mean(0)).double()
    wanted = F.one_hot(targets, 3).double()
    plain = torch.linalg.solve(centred.T @ centred + STRENGTH * torch.eye(5), centred.T @ wanted)
    assert torch.allclose(head.weight.double(), plain, atol=1e-5)
    with pytest.raises(ValueError, match="no exemplars"):
        fit_ridge(features[:0], targets[:0], 3)


def test_a_translation_undoes_what_storing_does_to_features() -> None:
    stored = F.normalize(torch.randn(40, 6, generator=_generator()), dim=1)
    full = F.normalize(stored + 0.3 * stored[:, :1] * torch.ones(6) + 0.2 * torch.arange(6), dim=1)
    seen, others = slice(0, 30), slice(30, 40)
    there = fit_translation(5 * stored[seen], 7 * full[seen])(3 * stored[others])
    assert torch.allclose(there.norm(dim=1), torch.ones(10))
    before, after = ((values - full[others]).norm(dim=1).mean() for values in (stored[others], there))
    assert after < 0.15 * before
    # Stored as they are, they stay; one pair alone gives the shift.
    assert torch.allclose(fit_translation(stored, 2 * stored)(stored), stored, atol=1e-5)
    assert torch.allclose(fit_translation(stored[:1], full[:1])(stored[:1]), full[:1], atol=1e-5)
    with pytest.raises(ValueError, match=r"at least one: got shapes \(0, 6\) and \(0, 6\)"):
        fit_translation(stored[:0], full[:0])
    with pytest.raises(ValueError, match="the same samples"):
        fit_translation(stored[:2], full[:3])


def test_translating_is_for_the_fitted_classifier() -> None:
    with pytest.raises(ValueError, match="translate needs refit"):
        TrainConfig(refit=False)


def _model() -> Classifier:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=1, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16="off")
    model.add_classes(make_split([7, 3], 4))
    torch.nn.init.normal_(model.head.weight, std=0.05)
    return model.eval()


def test_the_loss_of_a_step_is_the_sum_of_its_parts_over_its_samples() -> None:
    model = _model()
    split = make_split([3, 7], 3)
    short = split.tokens.keep_patches(torch.arange(9).expand(6, 9) < 4)
    stored = torch.full((6, 2), 0.5)
    views = [_View(split.tokens, split.class_ids), _View(short, split.class_ids, stored)]
    targets = model.targets(split.class_ids)
    long_logits, short_logits = model.logits(split.tokens), model.logits(short)
    cross = F.cross_entropy(torch.cat([long_logits, short_logits]), targets.repeat(2))
    even = torch.zeros(2)
    assert torch.allclose(_loss(model, views, even, Extras()), cross, atol=1e-5)
    raised = torch.tensor([0.0, -2.0])
    balanced = F.cross_entropy(torch.cat([long_logits, short_logits]) + raised, targets.repeat(2))
    assert torch.allclose(_loss(model, views, raised, Extras()), balanced, atol=1e-5)
    der = (short_logits - 0.5).square().mean(1).sum() / 12
    assert torch.allclose(
        _loss(model, views, even, Extras(AblationConfig(stored_logits=0.3))), cross + 0.3 * der, atol=1e-5
    )
    # Its own teacher has nothing to add.
    assert torch.allclose(_loss(model, views, even, Extras(AblationConfig(distill=1.0), model)), cross, atol=1e-5)


def test_two_views_add_the_scores_of_the_masked_view() -> None:
    model, split = _model(), make_split([3, 7], 20)
    whole = model.logits(split.tokens)
    config = MaskConfig(text=False, image_threshold="quantile", image_amount=0.2)
    keep = torch.zeros_like(split.tokens.patch_valid)
    for rows, shown, _, read in model.read(split.tokens, config):
        keep[rows] = compute_masks(read, shown, config).keep_patches
    total = whole + model.logits(split.tokens.keep_patches(keep))
    expected = (total.argmax(1) == model.targets(split.class_ids)).numpy()
    two_views = partial(two_view_scores, model, mask=config)
    assert np.array_equal(correct(model, split, scores=two_views), expected)
    assert np.array_equal(correct(model, split, batch_size=7, scores=two_views), expected)
    # Masks that keep everything say the same thing twice; where there is no picture none is made up.
    everything = partial(two_view_scores, model, mask=MaskConfig(image=False, text=False))
    assert np.array_equal(correct(model, split, scores=everything), correct(model, split))
    blind = correct(model, split, show=without_picture, scores=two_views)
    assert np.array_equal(blind, correct(model, split, show=without_picture))


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        (TrainConfig, {"fill": 1.5}, "fill must lie in 0..1, got 1.5"),
        (TrainConfig, {"modality_drop": 0.6}, "modality_drop"),
        (AblationConfig, {"distill": -1.0}, "distill must lie in"),
        (AblationConfig, {"balance": -1.0}, "balance must lie in"),
        (TrainConfig, {"ssf_layers": -1}, "ssf_layers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, setting: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**setting)
