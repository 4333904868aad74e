"""Results that are kept: documents that say what ran, and pages made of nothing else."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.common.document import RESULTS, add_result_options, document, read, write
from benchmarks.density.run import Run
from benchmarks.results.__main__ import REPORTS, main

ROOT = Path(__file__).parents[2]
KEPT = sorted(RESULTS.rglob("*.json"))


def _pages() -> Iterator[Path]:
    yield from (ROOT / "docs").rglob("*.md")
    yield ROOT / "benchmarks" / "README.md"


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_pages_are_what_their_document_says(path: Path, tmp_path: Path) -> None:
    kept = read(path)
    assert path.parent == RESULTS / kept.benchmark
    copy = tmp_path / path.name
    write(kept, copy)
    assert copy.read_text() == path.read_text()
    assert main([str(copy)]) == 0
    assert copy.with_suffix(".md").read_text() == path.with_suffix(".md").read_text(), "make results"
    assert copy.with_suffix(".png").stat().st_size > 0
    assert path.with_suffix(".png").exists()


def test_every_result_is_somebodys_evidence() -> None:
    said = "".join(page.read_text() for page in _pages())
    for path in KEPT:
        assert f"results/{path.parent.name}/{path.stem}.md" in said, f"{path.name} is cited by no page: delete it"
    known = {path.with_suffix(suffix) for path in KEPT for suffix in (".json", ".md", ".png")}
    assert {path for folder in REPORTS for path in (RESULTS / folder).glob("*")} == known


def test_a_document_says_what_ran_and_names_no_folder(tmp_path: Path) -> None:
    words = ["--images", str(tmp_path), f"--results={tmp_path / 'out'}", "--quick"]
    options = Namespace(images=tmp_path, results=tmp_path / "out", quick=True, data=None)
    kept = document(
        "density", Run("none"), {"a": 1.5}, options=options, arguments=words, packages=("numpy", "nothing"), seconds=2.4
    )
    assert kept.argv == ["--images", "PATH", "--results=PATH", "--quick"]
    assert list(kept.versions) == ["numpy"]
    assert (kept.seconds, kept.summary, kept.found["pictures"]) == (2, {"a": 1.5}, "none")
    if (ROOT / ".git").exists():
        assert kept.commit is not None
        assert len(kept.commit.removesuffix("-dirty")) == 40
    write(kept, tmp_path / "kept.json")
    assert read(tmp_path / "kept.json") == kept
    assert "arguments not known; commit not known" in replace(kept, argv=None, commit=None).heading("A title")


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(json.loads(KEPT[0].read_text()) | {"host": "mine"}))
    with pytest.raises(ValidationError, match="host"):
        read(wrong)


def test_names_are_no_paths(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_result_options(parser)
    assert parser.parse_args([]).name == "latest"
    with pytest.raises(SystemExit):
        parser.parse_args(["--name", "../elsewhere"])
    assert "lower-case letters, digits and dashes" in capsys.readouterr().err
