"""Training learns, and learns old classes from replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from learner.memory.exemplars import mask_split
from learner.model import ssf
from learner.model.attention_masks import MaskConfig
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.run.evaluate import correct
from learner.training.loop import one_cycle
from learner.training.settings import TrainConfig
from learner.training.train import Replay, train_phase
from tests.learner.builders import PATCH_PX, make_split

CONFIG = TrainConfig(
    base_tunes="backbone",
    base_epochs=12,
    base_lr=1e-3,
    ssf_epochs=8,
    ssf_lr=1e-2,
    head_lr=1e-2,
    batch_size=8,
    bf16="off",
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _replays(split: TokenisedSplit) -> Iterator[Replay]:
    rng = np.random.default_rng(0)
    while True:
        index = rng.integers(len(split), size=CONFIG.batch_size)
        yield Replay(split.tokens[torch.from_numpy(index)], split.class_ids[index], complete=False)


def _rates(num_steps: int) -> list[float]:
    """The learning rate of each step, of at most 1."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = one_cycle(optimizer, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_a_phase_may_have_any_number_of_steps() -> None:
    """Up and down once. With few steps the rise is shorter than one; with four it ends at step 0 exactly."""
    for num_steps in range(60):
        rates = _rates(num_steps)
        assert len(rates) == num_steps
        assert all(0 < rate <= 1 for rate in rates)
        peak = rates.index(max(rates)) if rates else 0
        assert peak <= max(1, num_steps / 5)
        assert rates[: peak + 1] == sorted(rates[: peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert num_steps == 0 or max(rates) > 0.5


@pytest.mark.parametrize("samples", [1, 9, 25])
def test_phases_of_few_steps_and_of_none_are_trained(samples: int) -> None:
    """1, 2 and 4 steps an epoch, one epoch or none."""
    split = make_split([0], samples)
    for epochs in (0, 1):
        torch.manual_seed(0)
        backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=1, num_heads=1)
        model = Classifier(backbone, torch.device("cpu"), bf16=CONFIG.bf16, head=CONFIG.head)
        model.add_classes(split)
        before = backbone.layernorm.weight.clone()
        config = replace(CONFIG, base_epochs=epochs)
        train_phase(model, split, split.tokens.patch_valid, None, phase=0, config=config, generator=_generator(0))
        assert torch.equal(before, backbone.layernorm.weight) == (epochs == 0)


def _after_two_phases(replay: bool) -> tuple[float, float]:
    """Accuracy on the classes of the first and of the second phase."""
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=2, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16=CONFIG.bf16, head=CONFIG.head)
    old, new = make_split([0, 1, 2], 16), make_split([4, 8], 16, seed=1)
    model.add_classes(old)
    train_phase(model, old, old.tokens.patch_valid, None, phase=0, config=CONFIG, generator=_generator(0))
    assert correct(model, make_split([0, 1, 2], 8, seed=5)).mean() > 0.8
    ssf.inject(model.backbone)
    model.add_classes(new)
    stream = _replays(old) if replay else None
    train_phase(model, new, new.tokens.patch_valid, stream, phase=1, config=CONFIG, generator=_generator(1))
    first = correct(model, make_split([0, 1, 2], 8, seed=6)).mean()
    second = correct(model, make_split([4, 8], 8, seed=7)).mean()
    return float(first), float(second)


def test_frozen_weights_are_held_as_autocast_rounds_them() -> None:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=2, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16="on", head=CONFIG.head)
    split = make_split([0, 1], 20)
    model.add_classes(split)
    ssf.inject(model.backbone)
    before = model.features(split.tokens), _gradients(model, split)
    model.round_frozen()
    after = model.features(split.tokens), _gradients(model, split)
    blocks: list[Any] = list(model.backbone.layers)
    assert all(layer.output.dense.op.weight.dtype == torch.bfloat16 for layer in blocks)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(was, now) for was, now in zip(before[1], after[1], strict=True))


def _gradients(model: Classifier, split: TokenisedSplit) -> list[torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(model.logits(split.tokens), model.targets(split.class_ids))
    return list(torch.autograd.grad(loss, [p for p in model.backbone.parameters() if p.requires_grad]))


def test_samples_have_their_features_whatever_is_asked_beside_them() -> None:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=2, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16=CONFIG.bf16, head=CONFIG.head)
    split = make_split([0, 1, 2], 30)
    model.add_classes(split)
    singly = torch.cat([model.features(split.tokens[i : i + 1]) for i in range(len(split))])
    assert torch.allclose(model.features(split.tokens), singly, atol=1e-5)
    assert torch.allclose(model.scores(split.tokens), model.head(singly), atol=1e-5)
    config = MaskConfig()
    masks = mask_split(model, split, config, _generator(0))
    assert torch.allclose(masks.features, singly, atol=1e-5)
    for i in (0, 17, 89):
        alone = mask_split(
            model, TokenisedSplit(split.tokens[i : i + 1], split.class_ids[i : i + 1]), config, _generator(0)
        )
        assert torch.equal(masks.keep_patches[i], alone.keep_patches[0])
        assert torch.equal(masks.keep_tokens[i], alone.keep_tokens[0])
        assert torch.allclose(masks.patch_attention[i], alone.patch_attention[0], atol=1e-5)


def test_replay_keeps_what_training_on_new_classes_would_forget() -> None:
    without, new_without = _after_two_phases(replay=False)
    with_replay, new_with = _after_two_phases(replay=True)
    assert min(new_without, new_with) > 0.8
    assert with_replay > 0.8
    assert without < 0.5


def test_training_changes_only_what_it_should() -> None:
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=1, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16=CONFIG.bf16, head=CONFIG.head)
    ssf.inject(model.backbone)
    before = {name: value.clone() for name, value in model.backbone.named_parameters()}
    split = make_split([7, 3], 8)
    model.add_classes(split)
    assert model.classes_seen == [7, 3]
    train_phase(model, split, split.tokens.patch_valid, None, phase=1, config=CONFIG, generator=_generator(0))
    changed = {name for name, value in model.backbone.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.endswith(("gamma", "beta")) for name in changed)
