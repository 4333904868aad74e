"""A run of a benchmark as it is kept: one JSON document, from which its Markdown and its picture are made.

``benchmarks/results/<benchmark>/<name>.json`` holds it; ``python -m benchmarks.results`` makes the other two again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from benchmarks.common.machine import machine, versions
from benchmarks.common.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results"
LATEST = "latest"
"""The name of a benchmark's result that is printed everywhere: a later run takes its place."""

_DIGITS = 6


@dataclass(frozen=True)
class Document:
    """What a run found, and what is known of how.

    Attributes:
        benchmark: its room: ``python -m benchmarks.<benchmark>`` ran it.
        argv: the arguments, in which ``PATH`` stands for anybody's folders; None where they are not known.
        commit: the code that ran, with ``-dirty`` behind it where files were changed; None outside a checkout.
        date: day of the run in UTC, ISO 8601.
        versions: of the packages that matter.
        seconds: how long this call took; one that went on from an earlier one had less to do.
        summary: the figures of the last line that the command prints.
        found: everything, in the form that the benchmark's report reads.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    benchmark: str
    argv: list[str] | None
    commit: str | None
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: int
    summary: dict[str, Any]
    found: dict[str, Any]

    def heading(self, title: str) -> str:
        """The head of a page: what ran, where, and of which code."""
        command = f"python -m benchmarks.{self.benchmark} {shlex.join(self.argv or [])}".rstrip()
        where = self.machine
        told = [
            "arguments not known" if self.argv is None else f"`{command}`",
            "commit not known" if self.commit is None else f"commit {_short(self.commit)}",
            f"{where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB",
            str(where["system"]),
            f"Python {where['python']}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return f"# {title}, {self.date}\n\n{'; '.join(told)}. {self.seconds:,} s."


Markdown = Callable[[Document], str]
Chart = Callable[[Document, Path], None]

_ADAPTER = TypeAdapter(Document)


def document(
    benchmark: str,
    found: object,
    summary: dict[str, Any],
    *,
    options: argparse.Namespace,
    arguments: Sequence[str] | None,
    packages: Iterable[str],
    seconds: float,
) -> Document:
    """The document of a run that has just ended.

    Args:
        found: a dataclass, as the benchmark's report reads it back.
        options, arguments: of the command line, parsed and as given; None = this process's own.
        packages: whose versions matter.
    """
    return Document(
        benchmark=benchmark,
        argv=_without_paths(sys.argv[1:] if arguments is None else arguments, options),
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine(),
        versions=versions(packages),
        seconds=round(seconds),
        summary=summary,
        found=_rounded(TypeAdapter(type(found)).dump_python(found, mode="json")),
    )


def read(path: Path) -> Document:
    """A document from its file.

    Raises:
        pydantic.ValidationError: the file holds something else.
    """
    return _ADAPTER.validate_json(path.read_bytes())


def write(kept: Document, path: Path) -> None:
    """Put a document into its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_ADAPTER.dump_python(kept, mode="json"), indent=1) + "\n")


def add_result_options(
    parser: argparse.ArgumentParser, default: str | None = LATEST, where: str = "benchmarks/results"
) -> None:
    """``--results`` and ``--name``: where a result is kept."""
    parser.add_argument("--results", type=Path, metavar="DIR", help=f"where the result is kept (default: {where})")
    parser.add_argument("--name", type=_name, default=default, help=f"what the result is called (default: {LATEST})")


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark's command says of all its runs."""

    name: str
    """Its room: ``python -m benchmarks.<name>``."""
    packages: tuple[str, ...]
    """Whose versions matter."""
    markdown: Markdown
    chart: Chart

    def publish(
        self,
        found: object,
        summary: dict[str, Any],
        options: argparse.Namespace,
        arguments: Sequence[str] | None,
        started: float,
        results: Path | None,
    ) -> None:
        """Print a run's tables to stderr, keep it if it is to be kept, and print its summary as one line.

        Args:
            found, summary, options, arguments: as in :func:`document`.
            started: when the command was, by ``time.monotonic()``.
            results: where it is kept unless ``--results`` says another place; None = nowhere.
        """
        kept = document(
            self.name,
            found,
            summary,
            options=options,
            arguments=arguments,
            packages=self.packages,
            seconds=time.monotonic() - started,
        )
        print(self.markdown(kept), file=sys.stderr)
        folder = options.results or results
        if folder is not None:
            path = folder / self.name / f"{options.name or LATEST}.json"
            write(kept, path)
            render(kept, path, self.markdown, self.chart)
            print(f"written: {path}, .md, .png", file=sys.stderr)
        print(json.dumps(summary), flush=True)


def render(kept: Document, path: Path, markdown: Markdown, chart: Chart) -> None:
    """Make the Markdown and the picture beside the file of a document."""
    path.with_suffix(".md").write_text(f"{markdown(kept).rstrip()}\n\n![The figures as a chart]({path.stem}.png)\n")
    chart(kept, path.with_suffix(".png"))


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", text):
        raise argparse.ArgumentTypeError(f"a name has lower-case letters, digits and dashes, got {text!r}")
    return text


def _without_paths(arguments: Sequence[str], options: argparse.Namespace) -> list[str]:
    paths = {value for value in vars(options).values() if isinstance(value, Path)}
    shown = []
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        shown.append(f"{name}{equals}PATH" if value and Path(value) in paths else argument)
    return shown


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _short(commit: str) -> str:
    name, dash, dirty = commit.partition("-")
    return f"{name[:10]}{dash}{dirty}"


def _rounded(value: Any) -> Any:
    """Floats with as many digits as anybody could have measured."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
