"""``learner``: run the phases against a memory service and write the report; write captions of pictures."""

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
from learner.config import LearnerConfig, read_settings, with_settings
from learner.data.base import DataError
from learner.data.fetch import FetchError
from learner.data.pictures import PictureError
from learner.files import write_atomically
from learner.fit import check_fit, with_backbones_patch
from learner.methods import BASES, DEFAULT, PARTS, Method, parse_method
from learner.metrics import PhaseMetrics
from learner.phases import Run
from learner.problem import load_problem
from learner.run_mark import RunError
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
    console = Console(soft_wrap=True)
    try:
        if arguments.command == "caption":
            return _caption(arguments, console)
        try:
            config = _checked(arguments)
            client = MemoryClient(arguments.url)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return _run(config, client, arguments, console)
    except KeyboardInterrupt:
        console.print("\ninterrupted; what is finished is kept: the same command goes on from there")
        return INTERRUPTED
    except (ExemplarMemoryError, ServiceError, FetchError, RunError, DataError, PictureError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


def _run(config: LearnerConfig, client: MemoryClient, arguments: argparse.Namespace, console: Console) -> int:
    with client:
        # Asked first: better to hear of a wrong address now than after minutes of training.
        client.info()
        data = config.data
        console.print(
            f"data: {data.title}, {data.num_classes or 'all'} classes at {data.image_size} px ...", markup=False
        )
        problem = load_problem(config, arguments.data)
        phases = " + ".join(str(len(classes)) for classes in problem.phases)
        console.print(
            f"{len(problem.train)} samples to train on, {sum(map(len, problem.tests.values()))} to test on "
            f"(unseen: {', '.join(problem.tests)}); phases of {phases} classes; "
            f"budget {budget_words(config.memory)}"
        )

        def report(metrics: PhaseMetrics) -> None:
            console.print(phase_line(metrics, len(problem.phases)), markup=False, highlight=False)

        run = Run(config, problem, client, arguments.out, directory=arguments.data, report=report)
        run.prepare(arguments.methods)
        buffers = {method.name: run.buffer_name(method) for method in arguments.methods if method.stores != "nothing"}
        if buffers:
            console.print(f"buffers: {', '.join(buffers.values())}", markup=False, highlight=False)
        results = {method.name: run.run(method) for method in arguments.methods}
    console.print()
    console.print(final_table(config, results))
    console.print(verdict(results), highlight=False)
    # Imported here: drawing is not needed to train.
    from learner.report import write_report

    summary = summary_json(config, results, seconds_spent(results), buffers=buffers, classes=problem.named_phases)
    write_atomically(arguments.out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    write_report(
        arguments.out, config, results, problem.class_names, classes=problem.named_phases, directory=arguments.data
    )
    console.print(f"wrote {arguments.out / 'summary.json'} and {arguments.out / 'report.html'}")
    return 0


def _caption(arguments: argparse.Namespace, console: Console) -> int:
    from learner.captioning import Captioner, caption_folder

    def model() -> Captioner:
        console.print(f"loading {arguments.model} ...", markup=False)
        return Captioner(
            arguments.model,
            prompt=arguments.prompt,
            max_new_tokens=arguments.max_new_tokens,
            device=arguments.device,
        )

    found, written, bad = caption_folder(arguments.images, arguments.out, model, batch_size=arguments.batch_size)
    console.print(f"{arguments.out}: {written} captions written, {found} were there", markup=False)
    for reason in bad:
        console.print(f"no caption: {reason}", markup=False)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train all phases with each method and compare them at equal bytes")
    run.add_argument("--url", required=True, help="the memory service, http://HOST:PORT")
    run.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and the report")
    run.add_argument(
        "--data",
        type=Path,
        default=None,
        help="folder of data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)",
    )
    run.add_argument(
        "--methods",
        type=_methods,
        default=_methods(",".join(DEFAULT)),
        help=f"BASE[+PART...] with commas between, default {','.join(DEFAULT)}; bases: {', '.join(BASES)}; "
        f"parts: {', '.join(PARTS)}, qNN (quality), keepNN (percent of the patches kept); of l2p, dualprompt and "
        "ease: addedNN and headNN (learning rates in thousandths)",
    )
    run.add_argument("--config", type=Path, help="TOML file with tables like those of the printed configuration")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in --set train.base_epochs=2",
    )
    caption = commands.add_parser("caption", help="write a text for each picture of a folder, for MM-ImageNet-R")
    caption.add_argument("--images", type=Path, required=True, help="folder of pictures, in folders of any depth")
    caption.add_argument(
        "--out", type=Path, required=True, help="captions file, .csv or .jsonl; one that is there grows"
    )
    caption.add_argument(
        "--model",
        default="Salesforce/instructblip-vicuna-7b",
        help="an image-text-to-text model of transformers, hub id or folder (default: %(default)s)",
    )
    caption.add_argument("--prompt", default="Write a short description of the image.", help="default: %(default)s")
    caption.add_argument("--batch-size", type=_positive, default=8, help="default: %(default)s")
    caption.add_argument("--max-new-tokens", type=_positive, default=40, help="longest caption (default: %(default)s)")
    caption.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return number


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
    return with_settings(LearnerConfig(), _settings(arguments))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, by table and field.

    Raises:
        ValueError: it is no TOML, or a ``--set`` cannot be read.
    """
    given = tomllib.loads(arguments.config.read_text()) if arguments.config else {}
    return read_settings(arguments.set, given)


def _checked(arguments: argparse.Namespace) -> LearnerConfig:
    """The configuration, if each method can have it: what does not go together is said before anything starts.

    Raises:
        ValueError: a setting is wrong, or does not go with another one or with the backbone.
    """
    config = _config(arguments)
    if "patch_px" not in _settings(arguments).get("backbone", {}):
        config = with_backbones_patch(config)
    for method in arguments.methods:
        check_fit(method.configure(config))
    return config


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
