"""``memory-service migrate``: a store moves into a database and an object store, or out of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from memory_service.place_options import some_path
from memory_service.progress import bar
from memory_service.store.admin.migrate import migrate
from memory_service.store.directory import Places

EXIT_UNFINISHED: Final = 1
"""Exit status where all was put, and the new store is not made yet, as the old one is served."""


def add_migrate_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``migrate``."""
    command = commands.add_parser(
        "migrate",
        help="move a store to another directory, a database or an object store; run again, it goes on",
        epilog="Each address can be given in the environment: MEMORY_SERVICE_FROM_INDEX, MEMORY_SERVICE_FROM_SEGMENTS, "
        "MEMORY_SERVICE_TO_INDEX, MEMORY_SERVICE_TO_SEGMENTS.",
    )
    command.add_argument("source", type=some_path, metavar="FROM", help="directory of the store; it stays as it is")
    command.add_argument(
        "target", type=some_path, metavar="TO", help="directory of the new one; must be empty or not exist"
    )
    for side, whose in (("from", "the store"), ("to", "the new one")):
        for what, words in (
            ("index", f"database of the index of {whose}, as of serve; without it, a file in its directory"),
            ("segments", f"object store of the segments of {whose}, as of serve; without it, files in its directory"),
        ):
            default = os.environ.get(f"MEMORY_SERVICE_{side}_{what}".upper())
            command.add_argument(f"--{side}-{what}", metavar="URL", default=default, help=words)
    command.add_argument(
        "--while-served",
        action="store_true",
        help="end although a service has the store: what it is told meanwhile may not be in the new one",
    )


def run_migrate(
    source: Path,
    target: Path,
    from_index: str | None,
    from_segments: str | None,
    to_index: str | None,
    to_segments: str | None,
    while_served: bool,
) -> int:
    """Move a store; returns the exit status. Raises as :func:`~memory_service.store.admin.migrate.migrate`."""
    done = migrate(
        source,
        Places(from_index, from_segments),
        target,
        Places(to_index, to_segments),
        while_served=while_served,
        stage=bar,
    )
    if done.already:
        print(f"{target}: all of it is there already")
        return 0
    print(f"{target}: {done.segments} segments, {done.num_bytes} bytes, as of change {done.changes}")
    if done.complete:
        return 0
    print(
        f"A service has {source} still, so {target} cannot be served yet. Stop it and run this again, which takes what "
        "has changed since; or end now with --while-served."
    )
    return EXIT_UNFINISHED
