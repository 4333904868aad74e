"""SSF, head, selection and augmentation, each by itself."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.memory.selection import Selection, selection_order
from learner.model import ssf
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import GrowingHead
from learner.run.evaluate import accuracy_by_phase, forgetting
from learner.training import augment
from tests.learner.builders import PATCH_PX, make_tokens


def _backbone() -> torch.nn.Module:
    return small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=32, num_layers=2, num_heads=2, vocab_size=200)


def test_ssf_changes_nothing_until_trained_and_trains_nothing_else() -> None:
    backbone, tokens = _backbone(), make_tokens()
    before = backbone(tokens)
    frozen = {name: value.clone() for name, value in backbone.named_parameters()}
    trainable = ssf.inject(backbone)
    # Each layer: query, key, value, output and second MLP map of 32, first MLP map of 128, two layer norms of 32; and
    # the last layer norm. A scale and a shift for each feature.
    assert trainable == 2 * (2 * (5 * 32 + 128 + 2 * 32) + 32)
    assert torch.equal(backbone(tokens), before)
    optimizer = torch.optim.SGD(list(ssf.scale_shift_parameters(backbone)), lr=0.1)
    backbone(tokens).pow(2).sum().backward()
    optimizer.step()
    assert not torch.allclose(backbone(tokens), before)
    after = {name.replace(".op.", "."): value for name, value in backbone.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


def test_ssf_says_when_it_would_train_nothing() -> None:
    with pytest.raises(ValueError, match="no linear layer"):
        ssf.inject(_backbone(), r"decoder\..*")
    backbone = _backbone()
    ssf.inject(backbone)
    with pytest.raises(ValueError, match="already"):
        ssf.inject(backbone)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_grown_head_answers_for_old_classes_as_before(kind: str) -> None:
    head = GrowingHead(8, kind=kind)  # type: ignore[arg-type]
    head.grow(torch.randn(3, 8))
    features = torch.randn(5, 8)
    before = head(features)
    head.grow(torch.randn(2, 8))
    assert head.num_classes == 5
    assert torch.allclose(head(features)[:, :3], before, atol=1e-6)


@given(st.integers(1, 12), st.integers(0, 1000), st.sampled_from(sorted(get_args(Selection))))
@settings(max_examples=60, deadline=None)
def test_selection_is_an_ordering(number: int, seed: int, selection: Selection) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, 6))
    order = selection_order(features, features, selection, rng)
    assert sorted(order.tolist()) == list(range(number))


def test_cosine_ranks_by_similarity_and_herding_avoids_duplicates() -> None:
    features = np.array([[1.0, 0.0], [1.0, 0.01], [0.2, 1.0], [-1.0, 0.3]])
    full = np.array([[1.0, 0.4]])
    rng = np.random.default_rng(0)
    assert selection_order(features, full, "cosine", rng).tolist()[:2] == [1, 0]
    assert set(selection_order(features, full, "herding", rng).tolist()[:2]) == {1, 2}


def test_herding_to_the_mean_as_it_is_comes_nearer_to_a_weakly_clustered_class() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(60, 32)) + 0.3
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)

    def distance(selection: Selection) -> float:
        chosen = selection_order(unit, unit, selection, rng)[:20]
        return float(np.linalg.norm(unit[chosen].mean(0) - unit.mean(0)))

    assert distance("herding-mean") < distance("random") / 1.5
    # Towards a target of unit length, which no mean of such features reaches, it takes those nearest to it.
    assert distance("herding-mean") < distance("herding") / 2


def test_typical_samples_come_first_one_of_each_part_of_the_class() -> None:
    """Three heaps, the largest first, and of each its middle; what lies alone comes after them."""
    rng = np.random.default_rng(0)
    angles = [(0.0, 12), (1.5, 7), (3.0, 4)]
    heaps = [np.linspace(middle - 0.1, middle + 0.1, number | 1) for middle, number in angles]
    angle = np.concatenate([*heaps, [4.5]])
    unit = np.stack([np.cos(angle), np.sin(angle)], 1)
    order = selection_order(unit, unit, "typical", rng).tolist()
    first = int(np.abs(angle[order[0]] - np.array([0.0, 1.5, 3.0])).argmin())
    assert first in (0, 1)
    heap = np.searchsorted([0.75, 2.25, 3.75], angle)
    assert len(set(heap[order[:4]].tolist())) >= 3
    assert sorted(order) == list(range(len(unit)))
    equal = np.ones((5, 3))
    assert sorted(selection_order(equal, equal, "typical", rng).tolist()) == list(range(5))


def test_ssf_can_be_limited_to_the_last_layers() -> None:
    backbone = _backbone()
    ssf.inject(backbone, ssf.last_layers_pattern(2, 1))
    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    assert trained
    assert all(name.startswith(("encoder.layer.1.", "layernorm.")) for name in trained)
    backbone(make_tokens()).sum().backward()
    for number in (0, 3):
        with pytest.raises(ValueError, match=r"1\.\.2"):
            ssf.last_layers_pattern(2, number)


def test_dropping_words_keeps_cls_and_sep() -> None:
    tokens = make_tokens(num=50, text=8)
    dropped = augment.drop_words(tokens, 0.9, torch.Generator().manual_seed(0))
    assert (dropped.token_ids[:, 0] == 1).all()
    last = dropped.token_valid.sum(1) - 1
    assert (dropped.token_ids[torch.arange(50), last] == 2).all()
    assert dropped.token_valid.sum() < tokens.token_valid.sum() * 0.7


def test_random_keep_never_leaves_a_sample_empty() -> None:
    valid = torch.ones((200, 6), dtype=torch.bool)
    valid[:, 4:] = False
    keep = augment.random_keep(valid, 0.99, torch.Generator().manual_seed(0))
    assert (keep.sum(1) >= 1).all()
    assert not keep[:, 4:].any()
    assert keep.sum() < 260


def test_modality_dropout_takes_one_or_the_other() -> None:
    tokens = augment.drop_modality(make_tokens(num=400), 0.25, torch.Generator().manual_seed(0))
    blind = tokens.patch_valid.sum(1) == 0
    wordless = tokens.token_valid.sum(1) == 2
    assert 0.15 < blind.float().mean() < 0.35
    assert 0.15 < wordless.float().mean() < 0.5  # some texts are that short by themselves
    assert tokens.token_valid[:, 0].all()


def test_forgetting_is_the_drop_from_the_best() -> None:
    assert forgetting([[0.9]]) == 0.0
    assert forgetting([[0.9], [0.6, 0.8], [0.7, 0.5, 1.0]]) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    hits = np.array([True, False, True, True])
    assert accuracy_by_phase(hits, np.array([0, 0, 1, 2]), [[0], [1, 2]]) == [0.5, 1.0]
