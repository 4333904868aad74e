"""``learner run`` with each kind of backbone that sees pictures alone: what ends, what goes on after a cut, and what is
refused before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPConfig, CLIPModel, SiglipVisionConfig, SiglipVisionModel

from client import MemoryClient
from learner.cli import main
from learner.run.method_run import MethodRun
from tests.conftest import Service
from tests.learner import trees
from tests.learner.test_run_on_files import SETTINGS, as_options

Options = dict[str, object]

_VISION: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_WORDS = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 50,
}


def _clip(folder: Path) -> Options:
    """All of CLIP, as its checkpoints are: the words' half is left alone."""
    CLIPModel(CLIPConfig(vision_config=_VISION, text_config=_WORDS)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    return {"backbone.kind": "pretrained", "backbone.name": folder}


def _siglip(folder: Path) -> Options:
    SiglipVisionModel(SiglipVisionConfig(**_VISION)).save_pretrained(folder)
    return {"backbone.kind": "pretrained", "backbone.name": folder}


KINDS: dict[str, Callable[[Path], Options]] = {
    "timm": lambda _: {"backbone.name": "test_vit", "backbone.weights": "random"},
    "CLIP": _clip,
    "SigLIP": _siglip,
    "callable": lambda _: {"backbone.name": "tests.learner.own_model:make", "backbone.patch_px": 8},
}


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Callable[..., int]:
    """``learner run`` on four small classes in two phases, with no setting of a backbone but those given."""
    table = trees.folder_set(tmp_path / "things", classes=4, per_class=6)
    common = {key: value for key, value in SETTINGS.items() if not key.startswith("backbone.")}

    def run(name: str, methods: str, **options: object) -> int:
        settings = {**common, "data.path": table, **options}
        sets = as_options(settings)
        return main(["run", "--url", service.url, "--out", str(tmp_path / name), "--methods", methods, *sets])

    return run


def cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run is cut behind the training of phase 1, before anything of it is stored."""
    store = MethodRun._store

    def cut(self: Any, model: Any, buffer: Any, phase: int, new: Any) -> Any:
        if phase:
            monkeypatch.setattr(MethodRun, "_store", store)
            raise KeyboardInterrupt
        return store(self, model, buffer, phase, new)

    monkeypatch.setattr(MethodRun, "_store", cut)


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "masked" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in lines]


@pytest.mark.parametrize("kind", list(KINDS))
def test_two_phases_end_and_go_on_after_a_cut(
    kind: str, run: Callable[..., int], service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Options = {"backbone.kind": kind, **KINDS[kind](tmp_path / "model")}
    cut_once(monkeypatch)
    assert run("cut", "masked", **options) == 130
    assert len(figures(tmp_path / "cut")) == 1
    assert run("cut", "masked", **options) == 0
    found = figures(tmp_path / "cut")
    assert [line["phase"] for line in found] == [0, 1]
    assert 0 < found[1]["keep_ratio"] < 1
    if kind == "timm":  # the others' pieces are the same
        assert run("whole", "masked", **options) == 0
        assert found == figures(tmp_path / "whole")
    summary = json.loads((tmp_path / "cut" / "summary.json").read_text())
    with MemoryClient(service.url) as client:
        records = list(client.buffer(summary["buffers"]["masked"]).records())
    assert {record.patch_px for record in records} == {16 if kind == "timm" else 8}
    assert any(record.keep_mask.any() and not record.keep_mask.all() for record in records)


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        ("masked", {"data.image_size": 40}, "40 px are no multiple of 16 px: take 32 or 48"),
        ("masked", {"backbone.patch_px": 8}, "backbone.patch_px is 8, but test_vit has patches of 16 px"),
        ("masked+text", {}, "mask.text is on, but test_vit sees pictures alone and has no attention to words"),
        (
            "masked,l2p",
            {},
            "l2p looks into the layers of a ViLT: backbone.kind must be parts, small, or pretrained with",
        ),
        ("cim", {}, "cim looks into the layers of a ViLT"),
        ("masked", {"train.ssf_layers": 7}, "train.ssf_layers is 7, but the backbone has 6 layers"),
        (
            "masked+mean4",
            {"backbone.name": "test_vit3"},
            "the backbone has 9 layers, and its attention for masks is that of its pooling alone",
        ),
        ("masked", {"backbone.name": "vit_nowhere"}, "backbone.name: "),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_words(
    methods: str,
    options: Options,
    words: str,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    chosen = {"backbone.kind": "timm", "backbone.name": "test_vit", "backbone.weights": "random", **options}
    with pytest.raises(SystemExit):
        run("refused", methods, **chosen)
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "refused").exists()
