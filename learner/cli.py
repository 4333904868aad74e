"""``learner``: run the phases against a memory service and write the report; write captions of pictures."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console

from client import MemoryClient, ServiceError
from learner.commands.caption import caption
from learner.commands.run import Order, run
from learner.config import LearnerConfig, read_settings, with_settings
from learner.data.base import DataError
from learner.data.fetch import FetchError
from learner.data.pictures import PictureError
from learner.fit import check_fit, with_backbones_patch
from learner.methods import BASES, DEFAULT, PARTS, Method, parse_method
from learner.run_mark import RunError
from learner.seeds import seed_config
from memory_format import ExemplarMemoryError

LOG_COLUMNS = 100

INTERRUPTED = 130
"""Exit status after Ctrl-C, the shells' convention for SIGINT."""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``learner`` command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # docker stop and a supervising process send SIGTERM: leave the same way as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    # Of a log, which has no width of its own, that of tables; and of prose, which is wrapped.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_COLUMNS)
    try:
        if arguments.command == "caption":
            return caption(arguments, console)
        try:
            config = _checked(arguments)
            client = MemoryClient(arguments.url)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        order = Order(arguments.out, arguments.methods, arguments.seeds, arguments.data)
        with client:
            run(config, client, order, console)
        return 0
    except KeyboardInterrupt:
        console.print("\ninterrupted; what is finished is kept: the same command goes on from there")
        return INTERRUPTED
    except (ExemplarMemoryError, ServiceError, FetchError, RunError, DataError, PictureError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train all phases with each method and compare them at equal bytes")
    running.add_argument("--url", required=True, help="the memory service, http://HOST:PORT")
    running.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and the report")
    running.add_argument(
        "--data",
        type=Path,
        default=None,
        help="folder of data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)",
    )
    running.add_argument(
        "--methods",
        type=_methods,
        default=_methods(",".join(DEFAULT)),
        help=f"BASE[+PART...] with commas between, default {','.join(DEFAULT)}; bases: {', '.join(BASES)}; "
        f"parts: {', '.join(PARTS)}, qNN (quality), keepNN (percent of the patches kept); of l2p, dualprompt and "
        "ease: addedNN and headNN (learning rates in thousandths)",
    )
    running.add_argument("--config", type=Path, help="TOML file with tables like those of the printed configuration")
    running.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in --set train.base_epochs=2",
    )
    running.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="N runs, each with the next seed and another order of classes, in OUT/seed-*; the summary and the report "
        "then have means, deviations and 95 %% intervals (default: one run, in OUT itself)",
    )
    captioning = commands.add_parser("caption", help="write a text for each picture of a folder, for MM-ImageNet-R")
    captioning.add_argument("--images", type=Path, required=True, help="folder of pictures, in folders of any depth")
    captioning.add_argument(
        "--out", type=Path, required=True, help="captions file, .csv or .jsonl; one that is there grows"
    )
    captioning.add_argument(
        "--model",
        default="Salesforce/instructblip-vicuna-7b",
        help="an image-text-to-text model of transformers, hub id or folder (default: %(default)s)",
    )
    captioning.add_argument("--prompt", default="Write a short description of the image.", help="default: %(default)s")
    captioning.add_argument("--batch-size", type=_positive, default=8, help="default: %(default)s")
    captioning.add_argument(
        "--max-new-tokens", type=_positive, default=40, help="longest caption (default: %(default)s)"
    )
    captioning.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)"
    )
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
    if arguments.seeds is not None:
        seed_config(config, arguments.seeds - 1)
    return config


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
