"""docs/service.md says what the code does: settings, errors, routes."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from memory_format.api import answers, requests, runs, updates
from memory_format.api.terms import EVICTION_POLICIES, STRATEGIES
from memory_service.cli import main
from memory_service.http.app import create_app
from memory_service.http.errors import PROBLEMS
from memory_service.settings import Settings
from memory_service.store.pure.model import SMALLEST_HEADROOM

DOCS = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
KEYS = (Path(__file__).parents[2] / "docs" / "howto" / "keys.md").read_text()


def section(heading: str) -> str:
    return DOCS.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(heading: str) -> dict[str, list[str]]:
    """First cell -> other cells, of the table below a heading."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0].strip("`"): line[1:] for line in cells}


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows("Settings")
    assert set(documented) == {f"MEMORY_SERVICE_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else str(field.default)
        default = ",".join(field.default) if isinstance(field.default, tuple) else default
        assert documented[f"MEMORY_SERVICE_{name.upper()}"][0].strip("`") == default, name
        assert field.description


def test_every_error_is_documented_with_its_status() -> None:
    documented = {code: int(cells[0]) for code, cells in rows("Errors").items()}
    assert documented == {code: status for code, (status, _) in PROBLEMS.items()}


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_every_eviction_policy_is_documented(policy: str) -> None:
    assert policy in rows("Budget and eviction")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_documented(strategy: str) -> None:
    assert f"`{strategy}`:" in rows("Routes")["strategy"][1]


def test_every_figure_of_the_stats_has_its_row() -> None:
    shown = section("Routes").split("**Stats**", 1)[1].split("**The service**", 1)[0]
    named = {
        name
        for line in shown.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == {figure.name for figure in fields(answers.BufferStats)}


@pytest.mark.parametrize(
    "model",
    [
        requests.BufferRequest,
        requests.BufferChange,
        answers.PushResponse,
        updates.ExemplarUpdate,
        answers.UpdateResponse,
        requests.DeleteQuery,
        requests.SampleBody,
        requests.ExemplarQuery,
        requests.ForkRequest,
        answers.SnapshotInfo,
        runs.RunReport,
    ],
)
def test_every_field_is_named(model: type[object]) -> None:
    for name in TypeAdapter(model).json_schema()["properties"]:
        assert f"`{name}`" in DOCS or f'"{name}"' in DOCS, name


def test_every_parameter_of_a_route_is_named(tmp_path: Path) -> None:
    for path, operations in create_app(Settings(data=tmp_path)).openapi()["paths"].items():
        parameters = [given for operation in operations.values() for given in operation.get("parameters", ())]
        for name in {given["name"] for given in parameters if given["in"] != "path"}:
            assert re.search(rf"[`?&]{name}[`=:]", DOCS, re.IGNORECASE), f"{path}: {name}"


def test_bounds_are_words_of_json_schema(tmp_path: Path) -> None:
    """pydantic 2.14.4 writes ``ge`` for a bound behind a validator (findings/pydantic_bound_behind_validator.sh)."""
    document = json.dumps(create_app(Settings(data=tmp_path)).openapi())
    assert '"minimum": 1' in document
    assert re.findall(r'"(?:ge|gt|le|lt|multiple_of)":', document) == []


def test_names_that_have_a_pattern_are_all_there_are(tmp_path: Path) -> None:
    """A run's facts, and the fields of a draw."""
    found = []

    def look(schema: object) -> None:
        if isinstance(schema, dict):
            found.extend([schema] if "patternProperties" in schema else [])
        for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            look(part)

    look(create_app(Settings(data=tmp_path)).openapi())
    assert len(found) >= 3
    assert all(schema["additionalProperties"] is False for schema in found)


def test_every_command_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    (commands,) = re.findall(r"\{([\w,]+)\}", capsys.readouterr().out)[:1]
    shown = DOCS + (Path(__file__).parents[2] / "docs" / "howto" / "migrate.md").read_text()
    for command in commands.split(","):
        assert re.search(rf"^memory-service {command} ", shown, re.MULTILINE), command


def test_the_default_disk_limit_is_the_codes() -> None:
    assert f"{SMALLEST_HEADROOM // 1024} KiB more than it" in " ".join(section("The disk limit").split())


def test_every_route_has_a_curl(tmp_path: Path) -> None:
    shown = set()
    for line in re.findall(r"^curl .*$", DOCS + KEYS, re.MULTILINE):
        method = re.search(r"-X (\w+)", line)
        match = re.search(r"(?:\$EM|http://127.0.0.1:8765)(/[^ '\"?]*)", line)
        assert match is not None, line
        default = "POST" if "--data" in line or "--json" in line else "GET"
        shown.add((method.group(1) if method else default, match.group(1)))
    paths = create_app(Settings(data=tmp_path)).openapi()["paths"]
    for path, operations in paths.items():
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$")
        for method in operations:
            assert any(m == method.upper() and pattern.match(p) for m, p in shown), f"{method.upper()} {path}"


@pytest.mark.parametrize("package", ["memory_service", "learner"])
def test_images_do_not_run_as_root(package: str) -> None:
    image = (Path(__file__).parents[2] / package / "Dockerfile").read_text()
    user = re.findall(r"^USER (\w+)$", image, re.MULTILINE)[-1]
    made = re.search(rf"useradd [^&]*--uid 1000 {user}\b.*chown {user} (.*)$", image, re.MULTILINE)
    assert made is not None
    volumes = re.findall(r"^VOLUME (\S+)$", image, re.MULTILINE)
    assert volumes
    assert set(volumes) <= set(made[1].split())
