"""A bar on a terminal, lines in a log."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

import learner
from learner.training.loop import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _watched(stream: io.StringIO, what: str = "base phase", seconds_a_step: float = 25.0) -> str:
    now = 0.0
    with Progress(10, what, stream=stream, clock=lambda: now) as shown:
        for step in range(10):
            now += seconds_a_step
            shown.step(loss=step / 3)
    return stream.getvalue()


def test_a_log_gets_a_line_a_minute_and_no_bar() -> None:
    assert _watched(io.StringIO()).splitlines() == [
        "base phase: step 3 of 10, loss 0.667",
        "base phase: step 6 of 10, loss 1.667",
        "base phase: step 9 of 10, loss 2.667",
    ]


def test_what_is_done_within_a_minute_says_nothing_in_a_log() -> None:
    assert _watched(io.StringIO(), seconds_a_step=1.0) == ""


def test_a_terminal_gets_a_bar() -> None:
    assert "\rbase phase" in _watched(Terminal())


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_work_without_a_name_is_done_in_silence(stream: type[io.StringIO]) -> None:
    assert _watched(stream(), what="") == ""


def test_every_bar_looks_whether_it_is_on_a_terminal() -> None:
    """``tqdm`` draws into logs unless it is told not to."""
    package = Path(learner.__file__).parent
    sources = {path: re.sub("#.*", "", path.read_text()) for path in package.rglob("*.py")}
    drawing = {path for path, text in sources.items() if "tqdm(" in text}
    assert drawing
    for path in drawing:
        assert sources[path].count("tqdm(") == sources[path].count("disable="), path
