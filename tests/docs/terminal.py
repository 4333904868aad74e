"""A terminal as a reader has one: an interactive shell on a pseudo-terminal, into which blocks are pasted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pexpect
from pexpect.replwrap import REPLWrapper

_FIRST, _NEXT = "[paste]>", "[paste]+"
# A prompt that is printed differs from the one that is typed, or the echo of setting it would count as a prompt.
_SHELLS = {"bash": (["--norc", "--noprofile"], r"\[\]"), "zsh": (["--no-rcs", "-V", "+Z"], "%(!..)")}


class Terminal:
    """``paste`` types a block's commands one by one; each has to succeed."""

    def __init__(self, shell: str, folder: Path, environment: dict[str, str], *, seconds: int) -> None:
        arguments, nothing = _SHELLS[shell]
        self._seconds = seconds
        self._shell = shell
        self._child = pexpect.spawn(
            shell,
            arguments,
            cwd=str(folder),
            env=environment | {"TERM": "dumb"},
            encoding="utf-8",
            echo=False,
            dimensions=(50, 500),
            timeout=seconds,
        )
        self._child.delaybeforesend = None
        first, following = (prompt.replace("]", f"{nothing}]") for prompt in (_FIRST, _NEXT))
        change = f"PS1='{first}' PS2='{following}' PROMPT_COMMAND=''"
        self._repl = REPLWrapper(self._child, re.compile(r"[#$%] "), change, _FIRST, _NEXT)

    def paste(self, block: str) -> str:
        """What the commands printed.

        Raises:
            AssertionError: one of them failed; with what it printed.
        """
        printed = []
        for command in _commands(block):
            said = self._repl.run_command(command, timeout=self._seconds).replace("\r\n", "\n")
            status = self._repl.run_command("echo $?", timeout=self._seconds).strip()
            assert status == "0", f"{self._shell}: status {status} of\n{command}\n{said}"
            printed.append(said)
        return "".join(printed)

    def close(self) -> None:
        self._child.close(force=True)


def _commands(block: str) -> list[str]:
    """Commands of a block, whole: a line that goes on, or a loop, is one."""
    commands, lines = [], []
    for line in block.splitlines():
        lines.append(line)
        whole = "\n".join(lines)
        if line.endswith("\\") or subprocess.run(["bash", "-n", "-c", whole], capture_output=True).returncode:
            continue
        if whole.strip():
            commands.append(whole.replace("\\\n", " "))
        lines = []
    assert not lines, f"a command without an end: {lines}"
    return commands
