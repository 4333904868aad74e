"""The whole configuration is judged before anything starts: wrong values end with words, status 2 and nothing done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import ViltConfig, ViltModel

from learner.cli import _checked, _parser, main
from learner.run.config import LearnerConfig
from memory_format import BudgetError, FormatError
from tests.conftest import Service
from tests.learner.test_run_mark import SHORT, _run

SMALL = ["backbone.kind=small", "backbone.patch_px=8", "backbone.num_layers=2", "data.image_size=32"]


def _settings(config: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by name, with its default."""
    config = LearnerConfig() if config is None else config
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value


NUMBERS = [name for name, value in _settings() if type(value) in (int, float)]
FROM_ONE = {"data.image_size", "data.max_text_tokens"}
FROM_ONE |= {"backbone.patch_px", "backbone.hidden_size", "backbone.num_layers", "mask.last_layers", "train.clip_norm"}
FROM_ONE |= {"train.batch_size", "mask.image_amount", "mask.text_amount"}
FROM_ONE |= {"data.test_share"}
WRONG: list[tuple[str, object]] = [
    *((name, value) for name in NUMBERS for value in (-1, 2**64, "nan", "inf", "-inf", '"many"', "true", 10**400)),
    *((name, 0) for name in NUMBERS if name in FROM_ONE),
    *((name, '"a\\u0000b"') for name, value in _settings() if isinstance(value, str)),
    *((name, 5) for name, value in _settings() if not isinstance(value, int | float)),
    *((name, "[]") for name, value in _settings() if not isinstance(value, list | tuple)),
    ("backbone.blocks", "[12]"),
    ("backbone.blocks", "[-1]"),
    ("backbone.blocks", '["a"]'),
    ("backbone.blocks", "[true]"),
    ("backbone.hidden_size", 200),
    ("data.max_text_tokens", 1),
    ("data.test_share", 1),
    ("memory.codec.quality", 300),
    ("memory.codec.quality", -1),
    ("memory.codec.quality", 1.5),
    ("memory.codec.quality", '"high"'),
    ("memory.codec.quality", "{psnr_db = 1e9}"),
    ("memory.codec.quality", "{record_bytes = 0}"),
    ("memory.codec.speed", 3),
    ("memory.codec", '{id = "em_webpp"}'),
    ("memory.codec", "{id = 3}"),
    ("memory.budget_bytes", 10),
    ("memory.full_samples_per_class", 3),
    ("memory.buffer", '"Ümlaut"'),
    ("train.ssf_layers", 3),
    ("train.decode_on_device", "true"),
    ("data.image_size", 20),
    ("data.num_classes", 3),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={str(value)[:24]}" for name, value in WRONG])
def test_a_value_out_of_range_is_said_before_anything_starts(
    name: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for setting in (*SMALL, f"{name}={value}") for part in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        main(["run", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out"), *sets])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert name.split(".")[-1] in said or name.split(".")[-2] in said
    assert not (tmp_path / "out").exists()


def test_every_number_has_a_range() -> None:
    """The list above is of all settings; these are they that must not be 0."""
    assert set(NUMBERS) >= FROM_ONE
    assert len(NUMBERS) > 35


@pytest.mark.parametrize(
    ("methods", "sets", "words"),
    [
        ("masked+q300", [], "codec: quality is a whole number in"),
        ("none,masked+mean4", [], "mask.last_layers is 4, but the backbone has 2 layers"),
        ("masked+lossless", ["memory.codec.id=em_jpeg", "train.decode_on_device=true"], "needs JPEG exemplars"),
        ("masked", ["backbone.kind=pretrained", "backbone.name=./none"], "no model at './none'"),
        ("masked", ["mask.layers=mean", "mask.last_layers=20"], "mask.last_layers is 20"),
        ("masked", ["memory.full_samples_per_class=2", f"memory.full_sample_bytes={2**50}"], "1 PiB"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(
    methods: str, sets: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [part for setting in (*SMALL, *sets) for part in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        main(["run", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out"), "--methods", methods, *options])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_an_address_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--url", "ftp://127.0.0.1", "--out", "out"])
    assert stop.value.code == 2
    assert "ftp://127.0.0.1" in capsys.readouterr().err


def _vilt(folder: Path, **changes: Any) -> Path:
    settings = {"image_size": 64, "patch_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    config = ViltConfig(**{**settings, "num_attention_heads": 4, "max_position_embeddings": 40, **changes})
    ViltModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def _checked_with(*sets: str) -> LearnerConfig:
    options = [part for setting in sets for part in ("--set", setting)]
    return _checked(_parser().parse_args(["run", "--url", "http://127.0.0.1:9", "--out", "out", *options]))


def test_patches_are_those_of_a_pretrained_backbone(tmp_path: Path) -> None:
    folder = _vilt(tmp_path / "vilt")
    sets = ["backbone.kind=pretrained", f"backbone.name={folder}", "data.image_size=64"]
    assert _checked_with(*sets).backbone.patch_px == 32
    assert _checked_with(*sets, "backbone.patch_px=32").backbone.patch_px == 32
    with pytest.raises(ValueError, match=r"backbone.patch_px is 16, but .*vilt has patches of 32 px"):
        _checked_with(*sets, "backbone.patch_px=16")
    with pytest.raises(ValueError, match="112 px are no multiple of 32 px"):
        _checked_with(*sets[:2])
    with pytest.raises(ValueError, match=r"train.ssf_layers is 3, but the backbone has 2 layers"):
        _checked_with(*sets, "train.ssf_layers=3")


def test_a_backbone_that_cannot_be_used_is_said_before_data_are_read(tmp_path: Path) -> None:
    few = _vilt(tmp_path / "few", vocab_size=1124)
    with pytest.raises(ValueError, match="has a vocabulary of 1,124 words, the tokenizer 30,522"):
        _checked_with("backbone.kind=pretrained", f"backbone.name={few}", "data.image_size=64")
    other = tmp_path / "other"
    other.mkdir()
    for content, words in (
        (json.dumps({"model_type": "bert"}), "is of type bert, and none of ViLT, CLIP and SigLIP"),
        ("{", "no model at"),
    ):
        (other / "config.json").write_text(content)
        with pytest.raises(ValueError, match=words):
            _checked_with("backbone.kind=pretrained", f"backbone.name={other}")


def test_every_default_and_everything_at_its_ends_is_taken() -> None:
    for setting in ("seed=0", f"seed={2**63 - 1}", "train.base_epochs=0", "train.fill=1", "mask.image_amount=1"):
        _checked_with(*SMALL, setting)
    _checked_with()


def test_a_memory_that_the_service_does_not_give_is_said_before_anything_is_trained(
    service: Service, tmp_path: Path
) -> None:
    huge = replace(SHORT, memory=replace(SHORT.memory, budget_bytes=2**50))  # room for the snapshots of two phases
    with pytest.raises(FormatError, match="disk_limit_bytes"):
        _run(tmp_path / "huge", service, huge)
    assert not (tmp_path / "huge/base.pt").exists()


def test_an_exemplar_that_no_memory_holds_is_said(service: Service, tmp_path: Path) -> None:
    tiny = replace(SHORT, memory=replace(SHORT.memory, budget_bytes=130))
    with pytest.raises(BudgetError, match=r"record \d+ takes \d+ bytes, the whole budget is 130"):
        _run(tmp_path / "tiny", service, tiny)
