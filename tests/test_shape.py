"""The limits on files and imports that ``make check`` holds: each can be broken, and says what broke it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHAPE = Path(__file__).parents[1] / "scripts" / "shape.py"


def _shape(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SHAPE, *arguments], capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "client"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from client import b\n")
    (package / "b.py").write_text("def f(x):\n" + "    if x:\n        x -= 1\n" * 6 + "    return x\n")
    return tmp_path


def test_what_keeps_to_the_limits_is_told_and_passes(checkout: Path) -> None:
    done = _shape(str(checkout), "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = _shape(str(checkout)).stdout
    assert "client               3      15        0" in told
    assert "files over 400 lines: 0" in told
    assert "     7 f, client/b.py:1" in told


def test_a_file_of_more_than_400_lines_is_named(checkout: Path) -> None:
    (checkout / "client" / "long.py").write_text("x = 1\n" * 400)
    assert _shape(str(checkout), "--check").returncode == 0
    (checkout / "client" / "long.py").write_text("x = 1\n" * 401)
    done = _shape(str(checkout), "--check")
    assert done.returncode == 1
    assert "client/long.py: 401 lines, 400 at most" in done.stderr


def test_a_circle_is_named_by_its_modules(checkout: Path) -> None:
    (checkout / "client" / "b.py").write_text("def late():\n    from client import c\n    return c\n")
    (checkout / "client" / "c.py").write_text("import client.a\n")
    done = _shape(str(checkout), "--check")
    assert done.returncode == 1
    assert "a circle of imports: client.a, client.b, client.c" in done.stderr


def test_a_folder_without_the_packages_is_no_checkout(tmp_path: Path) -> None:
    done = _shape(str(tmp_path))
    assert done.returncode == 2
    assert "is no checkout" in done.stderr
