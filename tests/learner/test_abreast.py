"""Batches computed at once are those computed one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import abreast
from learner.memory.exemplars import mask_split
from learner.model.attention_masks import MaskConfig
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.tokens import concatenate
from learner.training.settings import TrainConfig
from learner.training.train import _gradients, train_phase
from tests.learner.builders import PATCH_PX, make_split, make_tokens

THREADS = 3


@pytest.fixture
def threads() -> Iterator[None]:
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(1)


def test_results_come_in_order_each_of_a_thread_with_its_share(threads: None) -> None:
    taken: list[int] = []

    def items() -> Iterator[tuple[int, str]]:
        for number in range(20):
            taken.append(number)
            yield number, "x"

    def work(number: int, text: str) -> tuple[int, str, int, bool]:
        torch.rand(2000 - 100 * number, 16).sum()
        return number, text, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        found = abreast.each(work, items(), 2)
        assert next(found)[0] == 0
        assert len(taken) == 3, "no more of the items than are under way"
        assert [*found] == [(number, "x", 1, False) for number in range(1, 20)]
    assert {enabled for *_, enabled in abreast.each(work, [(1, "")] * 2, 2)} == {True}
    assert torch.get_num_threads() == THREADS


def test_an_error_comes_where_its_result_would_have(threads: None) -> None:
    found = abreast.each(lambda number: 6 // number, [(3,), (0,), (1,)], 2)
    assert next(found) == 2
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert [*abreast.each(lambda number: 6 // number, [(3,), (2,)], 2)] == [2, 3]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_each_sample_is_dealt_to_one_part_and_parts_are_of_like_length(patches: list[int], number: int) -> None:
    tokens = make_tokens(num=len(patches), text=3)
    tokens = tokens.keep_patches(torch.arange(9) < torch.tensor(patches)[:, None])
    parts = tokens.dealt(number)
    assert len(parts) == min(number, len(patches))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(patches)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    lengths = [tokens[rows].patch_valid.sum() for rows in parts if len(rows) == len(parts[0])]
    assert max(lengths) - min(lengths) <= 9


def _model(drop: float = 0.0) -> Classifier:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=2, num_heads=1, vocab_size=200)
    backbone.shape = backbone.shape.__class__(**{**vars(backbone.shape), "hidden_dropout_prob": drop})
    model = Classifier(backbone, torch.device("cpu"), bf16="off")
    model.add_classes(make_split([0, 1, 2], 8))
    return model


def test_what_draws_in_a_pass_passes_alone(threads: None) -> None:
    assert _model().train().abreast == THREADS
    assert _model(drop=0.1).train().abreast == 1
    assert _model(drop=0.1).eval().abreast == THREADS


def test_gradients_are_those_of_one_pass_to_float32s_rounding(threads: None) -> None:
    def found() -> tuple[float, list[torch.Tensor]]:
        model = _model().train()
        torch.nn.init.normal_(model.head.weight)
        few = split.tokens.keep_patches(torch.rand(split.tokens.patch_valid.shape) < 0.3)
        views = [split, type(split)(concatenate([few]), split.class_ids)]
        loss = _gradients(model, views, list(model.parameters()))
        assert all(p.grad is None or p.grad.stride() == p.stride() for p in model.parameters())
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    split = make_split([0, 1, 2], 3)
    loss, several = found()
    again, same = found()
    torch.set_num_threads(1)
    alone, one = found()
    assert loss == again
    assert all(torch.equal(a, b) for a, b in zip(several, same, strict=True))
    assert loss == pytest.approx(alone, rel=1e-6)
    for a, b in zip(several, one, strict=True):
        # A key's shift has no gradient but of rounding.
        assert torch.allclose(a, b, rtol=0, atol=3e-6 * max(1e-3, float(b.abs().max())))


def _of_a_phase(model: Classifier) -> list[torch.Tensor]:
    split = make_split([0, 1, 2], 6)
    config = TrainConfig(base_tunes="backbone", base_epochs=2, batch_size=5)
    train_phase(
        model, split, split.tokens.patch_valid, None, phase=0, config=config, generator=torch.Generator().manual_seed(0)
    )
    return [parameter.detach() for parameter in model.parameters()]


def _answers(model: Classifier) -> list[torch.Tensor]:
    tokens = make_split([0, 1, 2], 30).tokens
    masks = mask_split(model, make_split([0, 1, 2], 30), MaskConfig(), torch.Generator())
    return [model.features(tokens), model.scores(tokens), masks.features, masks.keep_patches, masks.patch_attention]


@pytest.mark.parametrize("what", [_of_a_phase, _answers])
def test_they_are_the_same_each_time(threads: None, what: Callable[[Classifier], list[torch.Tensor]]) -> None:
    first, second = what(_model()), what(_model())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_features_and_masks_are_those_of_one_thread(threads: None) -> None:
    several = _answers(_model())
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(several, _answers(_model()), strict=True))
