"""``learner``: run the phases against a memory service and write the report."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console

from client import MemoryClient, ServiceError
from learner.checkpoint import write_atomically
from learner.config import LearnerConfig, with_settings
from learner.data.emoji import load_emoji
from learner.data.fetch import FetchError
from learner.data.tokenised import tokenise
from learner.method_run import RunError
from learner.methods import BASES, DEFAULT, PARTS, Method, parse_method
from learner.metrics import PhaseMetrics
from learner.phases import Problem, Run, class_phases
from learner.summary import budget_words, final_table, phase_line, seconds_spent, summary_json, verdict
from memory_format import ExemplarMemoryError

INTERRUPTED = 130
"""Exit status after Ctrl-C, the shells' convention for SIGINT."""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``learner`` command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # docker stop and a supervising process send SIGTERM: leave the same way as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        config = _config(arguments)
        for method in arguments.methods:
            method.configure(config)  # parts that do not go with the settings are said before anything starts
    except (ValueError, OSError) as error:
        parser.error(str(error))
    console = Console(soft_wrap=True)
    try:
        return _run(config, arguments, console)
    except KeyboardInterrupt:
        console.print("\ninterrupted; finished phases are kept: the same command goes on from there")
        return INTERRUPTED
    except (ExemplarMemoryError, ServiceError, FetchError, RunError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


def _run(config: LearnerConfig, arguments: argparse.Namespace, console: Console) -> int:
    # Asked first: better to hear of a wrong address now than after minutes of training.
    client = MemoryClient(arguments.url)
    with client:
        client.info()
        console.print(f"data: MM-Emoji-R, {config.data.num_classes} classes at {config.data.image_size} px ...")
        problem, class_names = load_problem(config, arguments.data)
        phases = " + ".join(str(len(classes)) for classes in problem.phases)
        console.print(
            f"{len(problem.train)} samples to train on, {sum(map(len, problem.tests.values()))} to test on "
            f"(unseen: {', '.join(problem.tests)}); phases of {phases} classes; "
            f"budget {budget_words(config.memory)}"
        )

        def report(metrics: PhaseMetrics) -> None:
            console.print(phase_line(metrics, len(problem.phases)), markup=False, highlight=False)

        run = Run(config, problem, client, arguments.out, directory=arguments.data, report=report)
        results = {method.name: run.run(method) for method in arguments.methods}
    console.print()
    console.print(final_table(config, results))
    console.print(verdict(results), highlight=False)
    # Imported here: drawing is not needed to train.
    from learner.report import write_report

    summary = summary_json(config, results, seconds_spent(results))
    write_atomically(arguments.out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    write_report(arguments.out, config, results, class_names, directory=arguments.data)
    console.print(f"wrote {arguments.out / 'summary.json'} and {arguments.out / 'report.html'}")
    return 0


def load_problem(config: LearnerConfig, directory: Path | None) -> tuple[Problem, list[str]]:
    """The data of a configuration, tokenised and cut into phases, and the names of its classes."""
    from learner.backbones.weights import wordpiece_tokenizer

    data = load_emoji(
        size=config.data.image_size,
        num_classes=config.data.num_classes,
        train_per_class=config.data.train_per_class,
        test_per_class=config.data.test_per_class,
        directory=directory,
    )
    tokenizer = wordpiece_tokenizer(directory)
    settings = {"patch_px": config.backbone.patch_px, "max_text_tokens": config.data.max_text_tokens}
    problem = Problem(
        train=tokenise(data.train, tokenizer, **settings),
        tests={name: tokenise(split, tokenizer, **settings) for name, split in data.test.items()},
        phases=class_phases(
            data.num_classes,
            config.data.base_classes,
            config.data.classes_per_phase,
            config.data.class_order_seed,
        ),
    )
    return problem, data.class_names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train all phases with each method and compare them at equal bytes")
    run.add_argument("--url", required=True, help="the memory service, http://HOST:PORT")
    run.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and the report")
    run.add_argument("--data", type=Path, default=None, help="folder of data and weights (default: ./data)")
    run.add_argument(
        "--methods",
        type=_methods,
        default=_methods(",".join(DEFAULT)),
        help=f"BASE[+PART...] with commas between, default {','.join(DEFAULT)}; bases: {', '.join(BASES)}; "
        f"parts: {', '.join(PARTS)}, qNN (quality), keepNN (percent of the patches kept)",
    )
    run.add_argument("--config", type=Path, help="TOML file with tables like those of the printed configuration")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in --set train.base_epochs=2",
    )
    return parser


def _methods(text: str) -> list[Method]:
    try:
        methods = [parse_method(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if len({method.name for method in methods}) != len(methods):
        raise argparse.ArgumentTypeError(f"a method comes twice in {text!r}")
    return methods


def _config(arguments: argparse.Namespace) -> LearnerConfig:
    """Defaults, then the file, then each ``--set``.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    settings: dict[str, Any] = {}
    if arguments.config:
        settings = tomllib.loads(arguments.config.read_text())
    for item in arguments.set:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE, got {item!r}")
        table = settings
        *path, name = key.split(".")
        for part in path:
            table = table.setdefault(part, {})
        table[name] = _value(value)
    return with_settings(LearnerConfig(), settings)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
