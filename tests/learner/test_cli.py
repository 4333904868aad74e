from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm

from learner.cli import _config, _parser, main


def _arguments(*extra: str) -> list[str]:
    return ["run", "--url", "http://127.0.0.1:9", "--out", "nowhere", *extra]


def test_settings_come_from_a_file_and_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 3\n[train]\nbase_epochs = 2\nbase_lr = 1\n[memory.codec]\nid = "em_zstd"\n')
    arguments = _arguments("--config", str(file), "--set", "train.base_epochs=5", "--set", "mask.heads=max")
    config = _config(_parser().parse_args([*arguments, "--set", "backbone.blocks=[0, 3]"]))
    assert (config.seed, config.train.base_epochs, config.train.base_lr) == (3, 5, 1.0)
    assert (config.mask.heads, config.backbone.blocks, config.memory.codec) == (
        "max",
        (0, 3),
        {"id": "em_zstd"},
    )


def test_one_option_of_the_codec_can_be_set() -> None:
    config = _config(_parser().parse_args(_arguments("--set", "memory.codec.quality=71")))
    assert config.memory.codec == {"id": "em_webp", "quality": 71}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epochs=3", "unknown setting train.epochs"),
        ("train.epochs=3", "Did you mean train.ssf_epochs?"),
        ("train.image_size=64", "Did you mean data.image_size"),
        ("data.columns.img=3", "known: image, text, label, split. Did you mean data.columns.image?"),
        ("train.base_epochs=many", "train.base_epochs must be int"),
        ("backbone.blocks=[0, true]", "backbone.blocks holds True: Input should be a valid integer"),
        ("seed=2026-11-30", "seed must be int, got"),
        ("mask.image_amount=0", "image_amount must lie in"),
        ("seed", "KEY=VALUE"),
        ("data.base_classes=-1", "base_classes"),
        ("train.head=conical", "train.head must be one of"),
        ("memory.buffer=Birds!", "buffer is 1..22 of a-z 0-9 . _ -"),
        ("train=5", "train is a table of settings"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(_arguments("--set", setting))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_setting_within_a_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(_arguments("--set", "train=5", "--set", "train.head=cosine"))
    assert stop.value.code == 2
    assert "train is set to 5, so train.head cannot be set" in capsys.readouterr().err


def test_wrong_methods_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(_arguments("--methods", "masked,magic"))
    assert "methods are none, full, masked" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(_arguments("--methods", "masked+magic"))
    assert "parts are lossless, text" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(_arguments("--methods", "masked,full,masked"))
    assert "twice" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(_arguments("--methods", "masked+q300"))
    assert "codec: quality is a whole number in" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments()) == 1
    said = capsys.readouterr().out
    assert "no memory service answers there (GET http://127.0.0.1:9/" in said
    assert "memory-service serve --data" in said


def test_a_backbone_is_looked_at_once_for_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    create = timm.create_model

    def count(name: str, **options: Any) -> Any:
        made.append(name)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", count)
    backbone = ["--set", "backbone.kind=timm", "--set", "backbone.name=test_vit", "--set", "mask.last_layers=1"]
    assert main(_arguments(*backbone, "--methods", "full,random,joint")) == 1, "no service answers there"
    assert made == ["test_vit"]


def test_what_is_read_once_is_set_before_torch_is_loaded() -> None:
    code = """
import os, sys
names = sys.argv[1:]
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("as torch is loaded:", *map(os.environ.get, names))
sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["methods"]
from learner.__main__ import main
main()
import torch
"""
    names = ("OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    env = {name: value for name, value in os.environ.items() if name not in names}
    for given, wanted in ((env, "PASSIVE 32 8"), (env | dict.fromkeys(names, "7"), "7 7 7")):
        done = subprocess.run(
            [sys.executable, "-c", code, *names], capture_output=True, text=True, env=given, check=True
        )
        assert f"as torch is loaded: {wanted}" in done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
@pytest.mark.parametrize(("given", "arenas"), [({}, 1), ({"MALLOC_ARENA_MAX": "2"}, 2)])
def test_threads_share_what_they_free(given: dict[str, str], arenas: int) -> None:
    code = """
import ctypes, threading
from learner.before_torch import prepare
prepare()
thread = threading.Thread(target=bytearray, args=(10_000,))
thread.start()
thread.join()
ctypes.CDLL(None).malloc_stats()
"""
    env = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stderr.count("Arena ") == arenas
