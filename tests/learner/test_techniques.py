"""Each training technique by itself: what it computes, and what it must leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens, concatenate
from learner.training.augment import fill, jitter, to_canvas
from learner.training.refit import STRENGTH, fit_ridge, fit_translation
from learner.training.settings import TrainConfig
from learner.training.train import _gradients
from tests.learner.builders import PATCH_PX, make_split, make_tokens

KEEP = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]]).bool()


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fill_leaves_the_kept_patches_in_their_places() -> None:
    masked, donors = make_tokens(num=3), make_tokens(num=5, seed=9)
    canvas, valid = to_canvas(fill(masked.keep_patches(KEEP), donors, _generator()))
    assert valid.all()
    for row in range(3):
        assert torch.equal(canvas[row][KEEP[row]], masked.patches[row][KEEP[row]])
        others = canvas[row][~KEEP[row]]
        assert any(torch.equal(others, donor[~KEEP[row]]) for donor in donors.patches)


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


def test_the_loss_of_a_step_is_the_mean_over_its_samples_whatever_their_lengths() -> None:
    model = _model()
    split = make_split([3, 7], 3)
    short = split.tokens.keep_patches(torch.arange(9).expand(6, 9) < 4)
    views = [split, TokenisedSplit(short, split.class_ids)]
    logits = torch.cat([model.logits(split.tokens), model.logits(short)])
    cross = F.cross_entropy(logits, model.targets(split.class_ids).repeat(2))
    assert _gradients(model, views, list(model.parameters())) == pytest.approx(cross.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        (TrainConfig, {"fill": 1.5}, "fill must lie in 0..1, got 1.5"),
        (TrainConfig, {"modality_drop": 0.6}, "modality_drop"),
        (TrainConfig, {"ssf_layers": -1}, "ssf_layers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, setting: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**setting)
