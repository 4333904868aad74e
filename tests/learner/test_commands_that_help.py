"""``learner config``, ``methods`` and ``check-data``, and settings that the data chooses."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from client import MemoryClient
from learner.cli import _config, _parser, main
from learner.commands.settings import as_markdown, settings_of
from learner.data.settings import DataConfig
from learner.memory.settings import MemoryConfig
from learner.run.config import OWN_DATA, LearnerConfig, configured
from learner.run.loading import Budget, suggest_budget, suited_phases
from learner.run.methods import BASES, NUMBERED, PARTS
from memory_format import make_codec, make_record
from memory_service.store.keys import KeyFile
from tests.conftest import Service
from tests.learner import trees
from tests.learner.builders import make_split
from tests.learner.test_run_on_files import SETTINGS, as_options
from tests.learner.test_settings import _settings

ROOT = Path(__file__).parents[2]
OWN = ("data.num_classes", "data.train_per_class", "data.test_per_class", "data.base_classes")
SMALL = {key: value for key, value in SETTINGS.items() if key.split(".")[0] in ("backbone", "train")}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["pictures"],
        ["--set", "data.name=hub", "--set", 'data.path="a\\\\b c"', "--set", 'data.class_order=["wren", 3]'],
        ["--set", 'memory.codec={id = "em_avif", quality = {psnr_db = 35}}', "--set", "backbone.blocks=[0, 3]"],
    ],
)
def test_what_config_prints_gives_the_same_settings(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", *arguments]) == 0
    printed = capsys.readouterr().out
    given = _config(_parser().parse_args(["config", *arguments]))
    assert configured(tomllib.loads(printed)) == given
    file = tmp_path / "run.toml"
    file.write_text(printed)
    again = ["run", "--url", "http://127.0.0.1:9", "--out", "x", "--config", str(file)]
    assert _config(_parser().parse_args(again)) == given
    # And once more, to the byte.
    assert main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == printed


def test_config_comments_on_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    described = {line.split(" = ")[0] for before, line in pairwise(lines) if before.startswith("# ")}
    assert {name.rpartition(".")[2] for name, _ in _settings()} <= described
    assert max(map(len, lines)) <= 120
    settings = [f"{setting.table}.{setting.name}".strip(".") for setting in settings_of(LearnerConfig())]
    assert sorted(settings) == sorted(name for name, _ in _settings())
    assert all(len(setting.words) > 8 for setting in settings_of(LearnerConfig()))


def test_a_value_that_is_none_of_its_kind_ends_config_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["config", "--set", "data.name=photos"])
    assert stop.value.code == 2
    assert "data.name must be one of emoji, imagenet-r" in capsys.readouterr().err


def test_the_table_of_settings_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/reference/learner-settings.md is what ``learner config --markdown`` prints, below its introduction."""
    page = (ROOT / "docs/reference/learner-settings.md").read_text()
    assert main(["config", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed == as_markdown()
    assert page.endswith(f"\n{printed}"), "run: learner config --markdown, and put it below the page's introduction"
    for name, default in _settings():
        row = next(line for line in printed.splitlines() if line.startswith(f"| `{name}` |"))
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            assert f"`{json.dumps(default)}`" in row


def test_methods_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*BASES, *PARTS, *NUMBERED):
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1, name


@pytest.mark.parametrize(
    ("number", "phases"),
    [(1, [1]), (2, [1, 1]), (3, [2, 1]), (5, [2, 1, 1, 1]), (6, [2, 1, 1, 1, 1]), (18, [6, 3, 3, 3, 3])],
)
def test_phases_suit_the_number_of_classes(number: int, phases: list[int]) -> None:
    data = suited_phases(DataConfig(num_classes=0, base_classes=0, classes_per_phase=0), number)
    cut = [data.base_classes]
    while sum(cut) < number:
        cut.append(min(data.classes_per_phase, number - sum(cut)))
    assert cut == phases
    given = DataConfig(num_classes=0, base_classes=4, classes_per_phase=0)
    assert suited_phases(given, 10).base_classes == 4


def test_a_suggested_budget_is_room_for_full_samples() -> None:
    split = make_split([0, 1, 2], 40)
    memory = MemoryConfig(budget_bytes=0, codec={"id": "em_zstd"})
    budget = suggest_budget(split, memory)
    tokens, codec = split.tokens, make_codec(memory.codec)
    charges = [
        make_record(
            class_id=0,
            patches=tokens.patches[i].numpy(),
            keep_mask=np.ones((3, 3), bool),
            token_ids=tokens.token_ids[i][tokens.token_valid[i]].numpy(),
            codec=codec,
        ).charge
        for i in range(len(split))
    ]
    assert (budget.full_samples, budget.num_classes) == (5, 3)
    assert budget.full_sample_bytes == pytest.approx(np.mean(charges), rel=0.02)
    exact = budget.full_samples * budget.full_sample_bytes * 3
    assert exact <= budget.budget_bytes < 1.1 * exact
    assert len(str(budget.budget_bytes).rstrip("0")) <= 2
    # Of few samples a memory does not hold most.
    assert suggest_budget(make_split([0, 1], 8), memory).full_samples == 2
    assert Budget(1, 90, 1).budget_bytes == 90


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """Four classes in folders, six pictures of each, one of them damaged."""
    for class_id in range(4):
        for i in range(6):
            trees.picture(tmp_path / f"things/{trees.COLOURS[class_id]}/{i}.png", trees.COLOURS[class_id], seed=i)
    return tmp_path / "things"


def test_own_pictures_run_without_a_setting_for_their_number(
    things: Path,
    start_service: Callable[..., Service],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a key in the environment, which goes to the service and nowhere else."""
    _, key = KeyFile(tmp_path / "store").make("write", 0.0)
    monkeypatch.setenv("EXEMPLAR_MEMORY_KEY", key)
    service = start_service(tmp_path / "store", "--access-log")
    out = tmp_path / "out"
    sets = as_options({**SMALL, "data.image_size": 32})
    assert main(["run", str(things), "--url", service.url, "--out", str(out), "--methods", "full,masked", *sets]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [len(classes) for classes in summary["classes"]] == [2, 1, 1]
    assert summary["config"]["data"]["base_classes"] == 2
    assert summary["budget_bytes"] == summary["config"]["memory"]["budget_bytes"] > 200
    with MemoryClient(service.url) as client:
        assert client.buffer(summary["buffers"]["full"]).info().budget_bytes == summary["budget_bytes"]
    assert service.log is not None
    written = [capsys.readouterr().out.encode(), service.log.read_bytes()]
    written += [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not [text for text in written if key[12:].encode() in text]


def test_check_data_says_what_a_run_would_find(things: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = as_options({**SMALL, "data.image_size": 32})
    assert main(["check-data", str(things), *sets]) == 0
    said = capsys.readouterr().out
    assert "things: 4 classes; 20 in train, 4 in test" in said
    assert "no split: 20% of each class" in said
    assert "pictures: 24, from 24 x 24 to 24 x 24 px" in said
    assert "24 are smaller and are enlarged" in said
    assert "texts: none" in said
    assert "phases: 2 + 1 + 1 classes" in said
    assert "--set memory.budget_bytes=" in said
    assert "learner run takes this as it is" in said


def test_check_data_names_what_is_damaged_and_ends_as_a_run_would(
    things: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (things / "red/0.png").write_bytes(b"no picture")
    sets = as_options({**SMALL, "data.image_size": 32})
    assert main(["check-data", str(things), *sets]) == 1
    said = capsys.readouterr().out
    assert "missing or damaged: 1\n  red/0.png: is no picture that Pillow can read" in said
    assert "learner run would end before it trains" in said
    assert main(["check-data", str(things), *sets, "--set", "data.bad_pictures=skip"]) == 0
    assert "they are left out" in capsys.readouterr().out
    assert main(["check-data", str(things), *sets, "--set", "data.base_classes=9"]) == 1
    assert "wrong: data.base_classes is 9, but things has 4 classes" in capsys.readouterr().out
    assert not caplog.records


def test_pictures_given_as_the_folder_of_downloads_are_refused(
    things: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check-data", "--data", str(things)])
    assert stop.value.code == 2
    assert f"{things} holds pictures: to learn from them, learner check-data {things}" in capsys.readouterr().err
    assert {path.name for path in things.iterdir()} == set(trees.COLOURS[:4])


def test_data_of_ones_own_has_defaults_of_its_own() -> None:
    own = configured({"data": {"name": "folder", "path": "x"}})
    assert own.data.num_classes == own.data.train_per_class == own.memory.budget_bytes == 0
    assert configured({}) == LearnerConfig()
    assert configured({"data": {"name": "emoji"}}) == LearnerConfig()
    assert configured({"data": {"name": "folder", "num_classes": 3}}).data.num_classes == 3
    assert set(OWN) <= {f"{table}.{name}" for table, names in OWN_DATA.items() for name in names}


def test_texts_alone_run_to_their_report(service: Service, tmp_path: Path, run_texts: Callable[..., int]) -> None:
    rows = [["text", "label"], *([f"{word} thing {i}", word] for word in ("good", "bad", "odd") for i in range(6))]
    assert run_texts(trees.write_table(tmp_path / "texts.csv", rows), "--set", "data.columns.image=") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["masked+text"]["exemplars"] > 0
    assert (tmp_path / "out/report.html").exists()


@pytest.fixture
def run_texts(service: Service, tmp_path: Path) -> Callable[..., int]:
    sets = as_options({**SMALL, "data.image_size": 32})
    methods = ["--methods", "full,masked+text"]
    return lambda table, *more: main(
        ["run", str(table), "--url", service.url, "--out", str(tmp_path / "out"), *methods, *sets, *more]
    )
