"""The README is short, and sentences everywhere are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

SCRIPT = ROOT / "scripts" / "prose.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_the_readme_has_at_most_1000_words() -> None:
    done = run("--most-words", "1000", "--most-median", "18", ROOT / "README.md")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("folder", ["docs", "docs/howto", "docs/explanation"])
def test_sentences_of_the_pages_are_short(folder: str) -> None:
    done = run("--most-median", "18", *sorted((ROOT / folder).glob("*.md")))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_what_is_counted(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading\n\nOne two `three four` [five](six.md). Seven, e.g. eight; nine! `ten` eleven\n\n"
        "| a | table |\n|---|---|\n\n```sh\nnot this\n```\n\n- A list\n  goes on.\n"
    )
    done = run("--longest", "4", "--most-words", "10", "--most-median", "3", page)
    words, sentences, median, longest = re.findall(r"[\d.]+", done.stdout.splitlines()[1].removeprefix(str(page)))
    # As `wc -w` counts, outside code blocks and tables; "three four" is one word of its sentence.
    assert (words, sentences, median, longest) == ("19", "4", "4", "4")
    assert done.stdout.splitlines()[2:] == [
        "    4: One two `three_four` five.",
        "    4: Seven, e.g eight; nine!",
        "    4: A list goes on.",
        "    2: `ten` eleven",
    ]
    assert done.returncode == 1
    assert "19 words; 10 at most" in done.stderr
    assert "4 words a sentence in the median; 3 at most" in done.stderr
