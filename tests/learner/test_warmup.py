"""The vision-language warm-up: what it masks and swaps, that it learns both objectives, and that a run keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import ViltModel

from client import MemoryClient
from learner.model.backbones.vilt import ViltBackbone, small_vilt
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.run.config import LearnerConfig
from learner.run.evaluate import MODALITIES
from learner.run.methods import parse_method
from learner.run.run import Run
from learner.training.settings import WarmupConfig
from learner.training.warmup import IGNORED, WarmupHeads, _loss, mask_words, swap_texts, warm_up
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, make_split, make_tokens, make_vilt_config
from tests.learner.test_phases import CONFIG, PROBLEM


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model() -> Classifier:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=2, num_heads=1, vocab_size=200)
    return Classifier(backbone, torch.device("cpu"), bf16="off")


def test_masked_words_are_asked_for_and_cls_and_sep_are_not() -> None:
    tokens = make_tokens(num=60)
    masked, targets = mask_words(tokens, 0.4, 103, _generator())
    asked = targets != IGNORED
    assert torch.equal(targets[asked], tokens.token_ids[asked])
    assert (masked.token_ids[asked] == 103).all()
    assert torch.equal(masked.token_ids[~asked], tokens.token_ids[~asked])
    last = tokens.token_valid.sum(1) - 1
    assert not asked[:, 0].any()
    assert not asked[torch.arange(60), last].any()
    assert not (asked & ~tokens.token_valid).any()
    words = int(tokens.token_valid.sum()) - 2 * 60
    assert 0.3 < int(asked.sum()) / words < 0.5


def test_a_swapped_text_is_the_whole_text_of_another_sample() -> None:
    tokens = make_tokens(num=5)
    chosen = torch.tensor([True, False, True, False, False])
    swapped = swap_texts(tokens, chosen)
    for row, donor in enumerate([4, 1, 1, 3, 4]):
        assert torch.equal(swapped.token_ids[row], tokens.token_ids[donor])
        assert torch.equal(swapped.token_valid[row], tokens.token_valid[donor])
    assert torch.equal(swapped.patches, tokens.patches)


def test_it_learns_words_from_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """In these samples the colour tells the first word: on pairs never seen too, it is named with the word masked."""
    model, split = _model(), make_split([0, 3, 7, 10], 60)
    config = WarmupConfig(epochs=12, lr=1e-3, head_lr=3e-3, text_lr_factor=1.0, batch_size=16, modality_drop=0.0)
    kept: list[WarmupHeads] = []
    original = WarmupHeads.__init__

    def remember(self: WarmupHeads, dim: int) -> None:
        original(self, dim)
        kept.append(self)

    monkeypatch.setattr(WarmupHeads, "__init__", remember)
    warm_up(model, split, config, _generator())
    model.eval()
    held_out = make_split([0, 3, 7, 10], 8, seed=9)
    with torch.no_grad():
        hidden = model.backbone.hidden(replace(held_out.tokens, token_ids=_masked_first(held_out)))
        logits = kept[0].words(hidden[:, 1], model.backbone.embeddings.text_embeddings.word_embeddings.weight)
    named = logits[:, 100:111].argmax(1) + 100
    assert float((named == held_out.tokens.token_ids[:, 1]).float().mean()) > 0.8


def test_pairs_whose_text_was_swapped_are_no_match_and_samples_without_a_modality_are_not_asked() -> None:
    model, tokens = _model(), make_tokens(num=40)
    heads = WarmupHeads(64)
    torch.nn.init.zeros_(heads.match.weight)
    heads.match.bias.data = torch.tensor([0.0, 2.0])  # "they match", to everything
    swapped = int((torch.rand(40, generator=_generator(3)) < 0.5).sum())
    config = WarmupConfig(word_mask=1e-9, modality_drop=0.0)
    loss = _loss(model, heads, tokens, config, _generator(3)).item()
    wrong, right = torch.tensor([2.0, -2.0]).exp().log1p().tolist()
    assert 0 < swapped < 40
    assert loss == pytest.approx((swapped * wrong + (40 - swapped) * right) / 40, rel=1e-5)
    # Every sample has lost its picture or its words: nothing can match.
    assert _loss(model, heads, tokens, replace(config, modality_drop=0.5), _generator(3)).item() < 1e-6


def _masked_first(split: TokenisedSplit) -> torch.Tensor:
    ids = split.tokens.token_ids.clone()
    ids[:, 1] = 103
    return ids


def test_a_projection_starts_as_the_identity_and_is_among_the_texts_parameters() -> None:
    torch.manual_seed(0)
    model = ViltModel(make_vilt_config(num_layers=2), add_pooling_layer=False).eval()
    plain, projected = ViltBackbone(model), ViltBackbone(model, project_text=True)
    tokens = make_tokens()
    assert torch.equal(projected(tokens), plain(tokens))
    assert len(list(projected.text_parameters())) == len(list(plain.text_parameters())) + 2
    assert torch.allclose(projected.hidden(tokens)[:, 0], plain(tokens), atol=1e-6)


def test_batches_of_one_modality_dropout_and_single_samples() -> None:
    model, split = _model(), make_split([0, 1], 2)
    config = WarmupConfig(epochs=1, batch_size=3, modality_drop=0.5)  # a last batch of one; nobody keeps both
    warm_up(model, split, config, _generator())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    for show in MODALITIES.values():
        assert bool(model.features(show(split.tokens)).isfinite().all())
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="two samples"):
        warm_up(model, TokenisedSplit(split.tokens[one], split.class_ids[:1]), config, _generator())
    with pytest.raises(ValueError, match="word_mask"):
        WarmupConfig(word_mask=1.0)


@pytest.mark.parametrize("base_tunes", ["ssf", "backbone"])
def test_a_warmed_up_base_is_kept_and_not_trained_again(
    base_tunes: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(CONFIG.train, base_epochs=1, ssf_epochs=1, base_tunes=base_tunes)  # type: ignore[arg-type]
    config = replace(CONFIG, warmup=WarmupConfig(epochs=1), train=train)
    with MemoryClient(service.url) as client:
        run = Run(config, PROBLEM, client, tmp_path / f"warm-{base_tunes}")
        first, _ = run.base()
        monkeypatch.setattr("learner.run.run.warm_up", None)
        monkeypatch.setattr("learner.run.run.train_phase", None)
        second, _ = run.base()
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name
        cold, _ = _cold(config, client, tmp_path / f"cold-{base_tunes}", monkeypatch)
        tokens = PROBLEM.train.load().tokens
        assert not torch.allclose(cold.features(tokens), first.features(tokens))
        lines = run.run(parse_method("masked"))
    assert len(lines) == 3


def _cold(
    config: LearnerConfig, client: MemoryClient, out: Path, patch: pytest.MonkeyPatch
) -> tuple[Classifier, float]:
    patch.undo()
    return Run(replace(config, warmup=WarmupConfig()), PROBLEM, client, out).base()
