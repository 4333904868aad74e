"""``learner``: run the phases against a memory service and write the report; and what helps to get there."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console

from client import MemoryClient, ServiceError
from learner import world
from learner.commands.check_data import check_data
from learner.commands.run import Order, run
from learner.commands.settings import as_markdown, as_toml, methods
from learner.data.base import DataError
from learner.data.fetch import FetchError
from learner.data.pictures import PictureError, pictures_below
from learner.model.backbones.choose import backbone_facts
from learner.run.config import LearnerConfig, configured, read_settings
from learner.run.methods import DEFAULT, Method, parse_method
from learner.run.run_mark import RunError
from learner.run.seeds import seed_config
from learner.run.settings_check import check_fit, check_method, with_backbones_patch
from memory_format import ExemplarMemoryError
from memory_format.command import INTERRUPTED

LOG_COLUMNS = 100


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``learner`` command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # docker stop and a supervising process send SIGTERM: leave the same way as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    # Of a log, which has no width of its own, that of tables; and of prose, which is wrapped.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else LOG_COLUMNS
    # Of several ranks, the first one speaks.
    console = Console(quiet=world.started_as()[0] > 0, soft_wrap=True, width=width)
    try:
        if arguments.command == "caption":
            return _caption(arguments, console)
        if arguments.command == "methods":
            methods(console)
            return 0
        try:
            if arguments.command == "config":
                sys.stdout.write(as_markdown() if arguments.markdown else as_toml(_config(arguments)))
                return 0
            config = _checked(arguments)
            if arguments.command == "check-data":
                return check_data(config, arguments.data, console)
            client = MemoryClient(arguments.url)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        order = Order(
            arguments.out,
            arguments.methods,
            arguments.seeds,
            arguments.data,
            arguments.threads,
            arguments.overwrite,
            arguments.upload,
        )
        with client, world.joined():
            run(config, client, order, console)
        return 0
    except KeyboardInterrupt:
        console.print("\ninterrupted; what is finished is kept: the same command goes on from there")
        return INTERRUPTED
    except world.RankError as error:
        console.print(f"error: {error}; the same command goes on from what is finished", style="red", markup=False)
        return 1
    except (ExemplarMemoryError, ServiceError, FetchError, RunError, DataError, PictureError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False)
        if console.quiet:
            # What one rank alone has met, nobody else can say.
            sys.stderr.write(f"rank {world.started_as()[0]}: error: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="learner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train all phases with each method and compare them at equal bytes")
    running.add_argument(
        "--url", required=True, help="the memory service, http://HOST:PORT, or several of its replicas"
    )
    running.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and the report")
    _add_data(running)
    running.add_argument(
        "--methods",
        type=_methods,
        default=_methods(",".join(DEFAULT)),
        help=f"BASE[+PART...] with commas between, default {','.join(DEFAULT)}; `learner methods` lists them",
    )
    _add_settings(running)
    running.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="N runs, each with the next seed and another order of classes, in OUT/seed-*; the summary and the report "
        "then have means, deviations and 95 %% intervals (default: one run, in OUT itself)",
    )
    running.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads to compute with (default: as many as there are cores free when the run begins; a run that goes "
        "on keeps its number)",
    )
    running.add_argument(
        "--buffer",
        metavar="NAME",
        help="join this buffer, which learners share, with one method; short for --set memory.join=NAME",
    )
    running.add_argument(
        "--classes",
        metavar="A,B,...",
        help='learn these classes of the data; short for --set \'data.classes=["A", "B"]\'',
    )
    running.add_argument(
        "--overwrite",
        action="store_true",
        help="delete buffers of other runs that have the names this one wants (default: refuse to run)",
    )
    running.add_argument(
        "--no-upload",
        dest="upload",
        action="store_false",
        help="keep the report here (default: the service gets its figures, and shows the run on its pages)",
    )
    checking = commands.add_parser(
        "check-data",
        help="say what a run would find in its data: classes, sizes, texts, what is damaged, a budget",
    )
    _add_data(checking)
    _add_settings(checking)
    configuring = commands.add_parser("config", help="print every setting as TOML, with a comment on each")
    _add_settings(configuring)
    configuring.add_argument(
        "--markdown", action="store_true", help="print the table of defaults for the documentation"
    )
    commands.add_parser("methods", help="print what --methods takes, a line each")
    captioning = commands.add_parser("caption", help="write a text for each picture of a folder")
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


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=None,
        help="folder of what is downloaded: data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures",
        nargs="?",
        metavar="PICTURES",
        help="data of one's own: a folder with a folder of pictures for each class, or a table of them; short for "
        "--set data.name=folder --set data.path=PICTURES (default: the demo's data)",
    )
    parser.add_argument("--config", type=Path, help="TOML file of settings, such as `learner config` prints")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in --set train.base_epochs=2; wins over --config",
    )


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
    """Defaults, then the file, then the pictures, then each ``--set``.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    return configured(_settings(arguments))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, by table and field.

    Raises:
        ValueError: it is no TOML, or a ``--set`` cannot be read.
    """
    given = tomllib.loads(arguments.config.read_text()) if arguments.config else {}
    own = []
    if arguments.pictures is not None:
        own = [f"data.path={json.dumps(arguments.pictures)}"]
        # Of a data set in a folder of its own, such as imagenet-r, the name is in the file.
        own += [] if "name" in given.get("data", {}) else ["data.name=folder"]
    if getattr(arguments, "buffer", None):
        own.append(f"memory.join={json.dumps(arguments.buffer)}")
    if getattr(arguments, "classes", None):
        own.append(f"data.classes={json.dumps(arguments.classes.split(','))}")
    return read_settings([*own, *arguments.set], given)


def _checked(arguments: argparse.Namespace) -> LearnerConfig:
    """The configuration, if each method can have it: what does not go together is said before anything starts.

    Raises:
        ValueError: a setting is wrong, or does not go with another one or with the backbone.
    """
    config = _config(arguments)
    _refuse_pictures_as_data(arguments)
    # Once: of some kinds a model is made for it, or a hub is asked.
    facts = backbone_facts(config.backbone)
    if "patch_px" not in _settings(arguments).get("backbone", {}):
        config = with_backbones_patch(config, facts)
    if arguments.command == "check-data":
        check_fit(config, facts)
        return config
    if config.memory.join and (arguments.seeds is not None or len(_storing(arguments.methods)) != 1):
        raise ValueError("one run with one method that stores joins a shared buffer: --methods masked, no --seeds")
    for method in arguments.methods:
        check_method(method, config, facts)
    ranks = world.started_as()[1]
    for method in arguments.methods:
        train = method.configure(config).train
        for name, number in (("train.batch_size", train.batch_size), ("train.replay of it", train.replayed)):
            if number % ranks:
                raise ValueError(f"{name} is {number}, which {ranks} ranks cannot share out evenly")
    if arguments.seeds is not None:
        seed_config(config, arguments.seeds - 1)
    return config


def _storing(methods: list[Method]) -> list[Method]:
    return [method for method in methods if method.stores != "nothing"]


def _refuse_pictures_as_data(arguments: argparse.Namespace) -> None:
    """``--data pictures`` is what people try for their own pictures, and would download the demo's data into them.

    Raises:
        ValueError: the folder holds pictures, and nothing that was downloaded.
    """
    folder = arguments.data
    if folder is None or not folder.is_dir() or any((folder / name).is_dir() for name in ("packages", "built")):
        return
    if pictures_below(folder):
        raise ValueError(
            f"--data says where downloads are kept, and {folder} holds pictures: to learn from them, "
            f"learner {arguments.command} {folder} ..."
        )


def _caption(arguments: argparse.Namespace, console: Console) -> int:
    """Write what is missing; the exit status is 1 where a picture cannot be read."""
    from learner.model.captioner import Captioner, caption_folder  # what no other command needs

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


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
