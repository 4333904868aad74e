"""The commands of a base install end in words that say what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from memory_format.command import INTERRUPTED, run_command

SCRIPTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
OF_EXTRA = {
    "memory-service": ("service", ["uvicorn", "fastapi", "sqlalchemy", "alembic", "pydantic_settings"]),
    "learner": ("learner", ["torch", "transformers", "timm", "rich", "tqdm", "matplotlib", "platformdirs", "tomlkit"]),
}


def _run(command: str, missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as its entry point runs it, where some packages cannot be imported."""
    module, function = SCRIPTS[command].split(":")
    code = (
        f"import sys; sys.argv = {[command, *arguments]!r}; sys.modules.update(dict.fromkeys({missing!r}))\n"
        f"from {module} import {function}; sys.exit({function}())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("module", ["memory_service", "learner"])
def test_a_module_that_is_run_says_it_too(module: str) -> None:
    extra, packages = OF_EXTRA[module.replace("_", "-")]
    code = (
        f"import runpy, sys; sys.argv = [{module!r}, '--help']; sys.modules.update(dict.fromkeys({packages!r}))\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f"pip install -e '.[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_library_that_is_missed_later_is_named_too() -> None:
    """Not at once: what a command needs in the end only is imported then."""
    code = (
        "import sys, types; from memory_format.command import run_command\n"
        "late = types.ModuleType('late'); exec('def main():\\n    import no_such_library', late.__dict__)\n"
        "sys.modules['late'] = late; sys.exit(run_command('late', 'late', 'learner'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("late: no_such_library is not installed")


@pytest.mark.parametrize("when", ["raise KeyboardInterrupt", "def main(): raise KeyboardInterrupt"])
def test_a_command_that_is_interrupted_ends_in_one_line(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while it is still being imported, which takes the longest of its start."""
    (tmp_path / f"cut_{len(when)}.py").write_text(when)
    monkeypatch.syspath_prepend(tmp_path)
    assert run_command("cut", f"cut_{len(when)}", "learner") == INTERRUPTED
    assert capsys.readouterr() == ("", "cut: interrupted\n")


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_of_the_base_install_says_what_to_install(command: str) -> None:
    extra, packages = OF_EXTRA[command]
    done = _run(command, packages, "--help")
    assert done.returncode == 2
    assert done.stdout == ""
    words = f"is not installed; it comes with the extra `{extra}`: in a checkout of Exemplar Memory, pip install -e"
    assert done.stderr.startswith(f"{command}: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_whole_install_has_the_command(command: str) -> None:
    done = _run(command, [], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {command}" in done.stdout
