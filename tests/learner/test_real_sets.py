"""``learner run`` and ``check-data`` on look-alikes of ImageNet-R and UPMC Food-101 with the quirks of the real ones,
by the settings that come with the project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from client import MemoryClient
from learner.cli import main
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.operations import Encoder
from learner.run.config import LearnerConfig
from learner.run.cost import Load, estimate
from learner.training.settings import TrainConfig
from tests.conftest import Service
from tests.learner import trees
from tests.learner.builders import make_split
from tests.learner.test_run_on_files import SMALL, as_options

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def learner(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command with a file of settings, everything small; the exit status and what it printed, in one line."""

    def learner(command: str, pictures: Path, file: str, **changes: object) -> tuple[int, str]:
        settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
        options = as_options(settings)
        if command == "run":
            options += ["--url", service.url, "--out", str(tmp_path / "out"), "--methods", "full,masked"]
        status = main([command, str(pictures), "--config", str(SCRIPTS / file), *options])
        return status, " ".join(capsys.readouterr().out.split())

    return learner


def test_imagenet_r_with_the_quirks_of_the_real_one(
    learner: Callable[..., tuple[int, str]], service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = trees.real_imagenet_r(tmp_path)
    captions = {"data__captions": base / "captions.json"}
    status, said = learner("run", tmp_path, "imagenet-r.toml", **captions)
    assert status == 1
    assert "3 of 36 pictures have no text in" in said
    assert "such as n01443537/art_0.jpg" in said
    assert "data.missing_texts=skip leaves them out" in said
    assert "learner caption" not in said  # which appends to no JSON object
    assert not (tmp_path / "out").exists()
    status, said = learner("check-data", tmp_path, "imagenet-r.toml", data__missing_texts="skip", **captions)
    assert status == 0
    assert "they are left out (data.missing_texts)" in said
    assert "1 rows of captions.json name no picture that is there (such as n01443537/gone_77.jpg)" in said
    # Another one has no caption either, which `learner caption` could not give it.
    assert "missing or damaged: 7" in said
    assert "n01443537/graphic_5.jpg: is damaged" in said
    assert "n01443537/misc_6.jpg: is no picture that Pillow can read" in said
    assert "they are left out (data.bad_pictures=skip)" in said
    assert "cost of a method that stores whole pictures, counted and not measured: " in said
    status, said = learner(
        "run", tmp_path, "imagenet-r.toml", data__missing_texts="empty", memory__budget_bytes=20_000, **captions
    )
    assert status == 0
    assert "8 of 36 pictures cannot be used" in caplog.text
    assert "of 36 samples have no text" in said
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert sorted(name for phase in summary["classes"] for name in phase) == sorted(trees.IMAGENET_R.values())
    with MemoryClient(service.url) as client:
        records = list(client.buffer(summary["buffers"]["full"]).records())
    assert {record.class_id for record in records} == {0, 1, 2, 3}
    assert len({record.keep_mask.shape for record in records}) > 1


def test_food101_with_the_quirks_of_the_real_one(
    learner: Callable[..., tuple[int, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = trees.real_food101(tmp_path / "food")
    status, said = learner("check-data", root, "food101.toml")
    assert status == 0
    # Two of a class and split are broken, and of ramen one more is missing.
    assert "missing or damaged: 14" in said
    assert "train_titles.csv line 23: train/ramen/ramen_0.jpg: there is no such file" in said
    assert "test/apple_pie/apple_pie_5.jpg: is damaged" in said
    assert "2 pictures are in no title file and are left out (such as test/ramen/ramen, hot 99.jpg)" in said
    assert "of 51 samples have no text, and are known by their pictures alone" in said
    status, said = learner("run", root, "food101.toml")
    assert status == 0
    assert "14 of 51 pictures cannot be used" in caplog.text
    assert "20 samples to train on, 17 to test on" in said
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["masked"]["exemplars"] > 0
    status, said = learner("run", root, "food101.toml", data__bad_pictures="error")
    assert status == 1
    assert "14 of 51 pictures cannot be used" in said


@pytest.mark.parametrize("tuned", [1, 3])
def test_operations_are_those_that_torch_counts(tuned: int) -> None:
    torch.manual_seed(0)
    backbone = small_vilt(image_size=24, patch_px=8, hidden_size=64, num_layers=3, num_heads=1, vocab_size=200)
    model = Classifier(backbone, torch.device("cpu"), bf16="off")
    model.tune_by_ssf(tuned)
    split = make_split([0, 1], 8)
    model.add_classes(split)
    tokens = float((split.tokens.patch_valid.sum(1) + split.tokens.token_valid.sum(1)).float().mean()) + 1
    encoder = Encoder(3, 64, 256)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.logits(split.tokens)
    with FlopCounterMode(display=False) as both:
        model.logits(split.tokens).sum().backward()
    counted = forward.get_total_flops() / 16
    # The last layer computes one row of each sample, which the estimate passes by.
    assert 0.6 < counted / encoder.forward(tokens) < 1.05
    estimated = encoder.forward(tokens) + encoder.backward(tokens, tuned, weights=False)
    assert 0.5 < both.get_total_flops() / 16 / estimated < 1.05


def test_a_cost_counts_steps_and_samples() -> None:
    config = LearnerConfig(train=TrainConfig(base_epochs=2, ssf_epochs=3, batch_size=8))
    cost = estimate(config, Load(new=[20, 9], tests=[5, 10], tokens=50, exemplars=7), None)
    assert cost.steps == 2 * 3 + 3 * 2
    assert cost.trained == 2 * 20 + 3 * 9 * 2
    assert cost.passed == 4 * 29 + 2 * 7 + 15
    assert cost.operations is None
    assert cost.picture_bytes == 20 * 50 * 3 * 16 * 16
    known = estimate(config, Load(new=[20, 9], tests=[5, 10], tokens=50, exemplars=7), Encoder(12, 384, 1536))
    assert known.operations is not None
    assert str(known).startswith(f"12 steps, 94 samples trained on, 145 passed, {known.operations / 1e9:.3g} GFLOP")
