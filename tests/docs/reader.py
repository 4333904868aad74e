"""A reader of one page: pastes its blocks in order, into one shell and one Python, in an empty folder."""

from __future__ import annotations

import argparse
import code
import contextlib
import csv
import io
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from client import MemoryClient
from learner.cli import _config, _parser
from tests.conftest import Service
from tests.docs import exceptions
from tests.docs.pages import LANGUAGES, ROOT, Block
from tests.docs.terminal import Terminal

ADDRESS = "127.0.0.1:8765"
SECONDS = 120
# `make serve` first makes .venv, which a test has already.
_MAKE_SERVE = "memory-service serve --data runs/serve"


class Reader:
    """The folder looks like a checkout: what is made in it stays in it."""

    def __init__(self, shell: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        for path in ROOT.iterdir():
            if path.name not in ("runs", "data", ".git", ".venv", "build", "dist"):
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        monkeypatch.chdir(folder)
        self._console = _Console({"__name__": "__main__"})
        # An answer that is an error ends the test, and not the reader's work.
        curl = folder / "curl"
        curl.mkdir()
        (curl / ".curlrc").write_text("fail-with-body\nno-progress-meter\n")
        self._shell = shell
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CURL_HOME": str(curl),
            # The terminal knows the prompt by its words.
            "VIRTUAL_ENV_DISABLE_PROMPT": "1",
        }
        self._terminal: Terminal | None = None
        self._service: Service | None = None
        self._port: str | None = None
        self._printed: str | None = None
        self._left_out = False
        """The block before was not run, so that there is nothing to compare."""
        self._section = 0
        self._said = ""
        """By a service that a block has started."""

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
        for value in list(self._console.locals.values()):
            # As the end of the reader's Python does.
            if isinstance(value, MemoryClient):
                value.close()
        self._stop()

    def read(self, block: Block) -> None:
        """Do what the block says; an ``AssertionError`` says what went otherwise."""
        assert block.language in LANGUAGES, f"{block.at}: say what the block is: one of {sorted(LANGUAGES)}"
        if block.name in exceptions.STOPPED_BEFORE:
            self._stop()
        if block.file is not None:
            (self._folder / block.file).write_text(block.text)
        if block.section != self._section:
            # What a section shows is not what the one before printed.
            self._section, self._printed, self._left_out = block.section, None, False
        getattr(self, f"_{block.language}")(block)

    def _sh(self, block: Block) -> None:
        self._printed, self._left_out = None, block.name in exceptions.NOT_RUN
        if block.page in exceptions.JUDGED:
            _judge(block.text)
        elif not self._left_out:
            text = block.text
            for line in text.splitlines():
                if starts_a_service(line):
                    self._serve(line)
                    text = text.replace(f"{line}\n", "")
            more = exceptions.SMALLER.get(block.page, "")
            if more and self._shell != "bash" and "learner run " in text:
                more, self._left_out = "--help", True
            text = re.sub(r"^(learner run (?:.*\\\n)*.*)$", rf"\1 {more}", text, flags=re.MULTILINE) if more else text
            self._printed = self._said + self._from_here(self._paste(self._to_here(text)))
            self._said = ""

    def _paste(self, commands: str) -> str:
        if commands.strip() and self._terminal is None:
            self._terminal = Terminal(self._shell, self._folder, self._environment, seconds=SECONDS)
        return self._terminal.paste(commands) if self._terminal is not None else ""

    def _python(self, block: Block) -> None:
        self._printed, self._left_out = None, block.name in exceptions.NOT_RUN
        if not self._left_out:
            self._printed = self._from_here(self._console.paste(self._to_here(block.text), block.at))

    def _text(self, block: Block) -> None:
        if self._left_out or block.name in exceptions.NOT_COMPARED:
            return
        assert self._printed is not None, f"{block.at}: what is printed, but nothing ran before it"
        # Columns are as wide as what they hold, so that spaces count once.
        shown, printed = (re.sub(r" +", " ", text) for text in (block.text, self._printed))
        lines = (".*".join(map(re.escape, line.rstrip().split("..."))) for line in shown.splitlines())
        expected = r"[^\n]*\n(?:.*\n)?".join(lines)
        assert re.search(expected, printed, re.DOTALL), f"{block.at}: printed was\n{self._printed}"
        self._printed = None

    def _json(self, block: Block) -> None:
        shown = json.loads(block.text)
        if self._printed is None:
            return
        assert any(_alike(shown, answer) for answer in _answers(self._printed)), (
            f"{block.at}: printed was\n{self._printed}"
        )
        self._printed = None

    def _toml(self, block: Block) -> None:
        assert tomllib.loads(block.text)
        if block.page in exceptions.JUDGED:
            file = self._folder / "judged.toml"
            file.write_text(block.text)
            _judge(f"learner run --url http://{ADDRESS} --out runs/judged --config {file}")

    def _csv(self, block: Block) -> None:
        rows = list(csv.reader(io.StringIO(block.text)))
        assert len({len(row) for row in rows}) == 1, f"{block.at}: rows of different lengths"

    def _serve(self, line: str) -> None:
        assert self._service is None, f"{line}: a service runs already"
        words = shlex.split(_MAKE_SERVE if line == "make serve" else line)
        read = argparse.ArgumentParser()
        read.add_argument("--data", type=Path, required=True)
        read.add_argument("--port")
        given, options = read.parse_known_args(words[2:])
        if self._port is not None:
            # The shell knows it already.
            options += ["--port", self._port]
        data = self._folder / given.data
        self._service = Service(data, *options)
        self._port = self._service.url.rsplit(":", 1)[1]
        self._said = f"memory-service listening on http://{ADDRESS} (data: {data.relative_to(self._folder)})\n"

    def _stop(self) -> None:
        if self._service is not None:
            self._service.stop()
            self._service = None

    def _to_here(self, text: str) -> str:
        """With the address of the service that runs, on a port of its own."""
        if ADDRESS in text and self._service is None:
            self._serve(_MAKE_SERVE)
        for words, (others, _) in exceptions.INSTEAD.items():
            text = text.replace(words, others)
        return text.replace(ADDRESS, self._service.url.removeprefix("http://")) if self._service else text

    def _from_here(self, text: str) -> str:
        return text.replace(self._service.url.removeprefix("http://"), ADDRESS) if self._service else text


class _Console(code.InteractiveConsole):
    """Python's own prompt: a block that has to be pasted into a file first fails."""

    def paste(self, text: str, at: str) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for line in [*text.splitlines(), ""]:
                self._at = f"{at}: {line}"
                self.push(line)
        assert not self.buffer, f"{at}: Python waits for more"
        return printed.getvalue()

    def showtraceback(self) -> None:
        raise AssertionError(self._at) from sys.exc_info()[1]

    def showsyntaxerror(self, filename: str | None = None, **more: Any) -> None:
        raise AssertionError(f"{self._at} (as pasted at Python's prompt)") from sys.exc_info()[1]


def starts_a_service(line: str) -> bool:
    return line == "make serve" or line.startswith("memory-service serve ")


def _judge(text: str) -> None:
    for command in text.replace("\\\n", " ").splitlines():
        words = shlex.split(command)
        if words[0] == "torchrun":
            words = words[words.index("learner") :]
        assert words[0] == "learner", f"only the learner's commands are judged: {command}"
        arguments = _parser().parse_args(words[1:])
        if arguments.command in ("run", "check-data", "config"):
            _config(arguments)


def _answers(printed: str) -> list[Any]:
    """JSON objects in what was printed, which curl ends with no line."""
    decoder, found, place = json.JSONDecoder(), [], printed.find("{")
    while place >= 0:
        answer, length = decoder.raw_decode(printed[place:])
        found.append(answer)
        place = printed.find("{", place + length)
    return found


def _alike(shown: Any, printed: Any) -> bool:
    """The same names and kinds; numbers and texts may differ, and an empty list is like any."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        return shown.keys() == printed.keys() and all(_alike(shown[name], printed[name]) for name in shown)
    if isinstance(shown, list) and isinstance(printed, list):
        return not shown or not printed or _alike(shown[0], printed[0])
    return type(shown) is type(printed)
