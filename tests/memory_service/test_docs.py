"""docs/service.md says what the code does: settings, errors, routes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memory_service.app import create_app
from memory_service.problems import PROBLEMS
from memory_service.settings import Settings
from memory_service.store.eviction import EVICTION_POLICIES

DOCS = (Path(__file__).parents[2] / "docs" / "service.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """First cell -> other cells, of the table below a heading."""
    section = DOCS.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0].strip("`"): line[1:] for line in cells}


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows("Settings")
    assert set(documented) == {f"MEMORY_SERVICE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else str(field.default)
        assert documented[f"MEMORY_SERVICE_{name.upper()}"][0].strip("`") == default, name
        assert field.description


def test_every_error_is_documented_with_its_status() -> None:
    documented = {code: int(cells[0]) for code, cells in rows("Errors").items()}
    assert documented == {code: status for code, (status, _) in PROBLEMS.items()}


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_every_eviction_policy_is_documented(policy: str) -> None:
    assert policy in rows("Budget and eviction")


def test_every_route_has_a_curl(tmp_path: Path) -> None:
    shown = set()
    for line in re.findall(r"^curl .*$", DOCS, re.MULTILINE):
        method = re.search(r"-X (\w+)", line)
        match = re.search(r"\$EM(/[^ '\"?]*)", line)
        assert match is not None, line
        default = "POST" if "--data" in line or "--json" in line else "GET"
        shown.add((method.group(1) if method else default, match.group(1)))
    paths = create_app(Settings(data=tmp_path)).openapi()["paths"]
    for path, operations in paths.items():
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$")
        for method in operations:
            assert any(m == method.upper() and pattern.match(p) for m, p in shown), f"{method.upper()} {path}"
