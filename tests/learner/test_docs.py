"""What docs/learner.md tells people to type is what the command takes."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from learner.cli import _config, _parser
from learner.data.load import LISTINGS

DOC = (Path(__file__).parents[2] / "docs" / "learner.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE)
COMMANDS = [
    command
    for language, block in BLOCKS
    if not language
    for command in block.replace("\\\n", " ").splitlines()
    if command.startswith("learner ")
]
TABLES = [block for language, block in BLOCKS if language == "toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet-r.toml").write_text(TABLES[0])
    arguments = _parser().parse_args(shlex.split(command)[1:])
    if arguments.command == "run":
        _config(arguments)


@pytest.mark.parametrize("table", TABLES)
def test_configurations_are_taken(table: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(table)
    config = _config(_parser().parse_args(["run", "--url", "http://x", "--out", "x", "--config", str(file)]))
    for name, values in tomllib.loads(table).items():
        for key, value in values.items():
            assert getattr(getattr(config, name), key) == value


def test_every_data_set_is_described() -> None:
    assert len(COMMANDS) >= 6
    assert len(TABLES) == 2
    for name in ("emoji", *LISTINGS):
        assert f"| `{name}` |" in DOC
