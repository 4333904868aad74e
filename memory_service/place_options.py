"""``--index`` and ``--segments`` of commands on a store: where it has what does not lie in its directory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from memory_service.store.directory import Places
from memory_service.store.index import opening


def some_path(given: str) -> Path:
    """An argument that is a path. Raises ``ArgumentTypeError``: it is empty, which would be the working directory."""
    if not given:
        raise argparse.ArgumentTypeError("it is empty, and a path is needed")
    return Path(given)


def add_place_options(command: argparse.ArgumentParser) -> None:
    """Both, by default the environment's; for :func:`places_of`."""
    command.add_argument(
        "--index",
        metavar="URL",
        help="database of its index, as of serve; default the environment's MEMORY_SERVICE_INDEX, unless its index is "
        "in the directory",
    )
    command.add_argument(
        "--segments",
        metavar="URL",
        help="object store of its segments, as of serve; default the environment's MEMORY_SERVICE_SEGMENTS, unless its "
        "segments are in the directory",
    )


def places_of(data: Path, index: str | None, segments: str | None) -> Places:
    """Where a store has what does not lie in its directory.

    What the environment says is of the store that is served here. A directory that has all in it, as a backup, is
    another one's.
    """
    has_index = (data / opening.INDEX).exists()
    if index is None and not has_index:
        index = os.environ.get("MEMORY_SERVICE_INDEX")
    known = has_index or (data / opening.ELSEWHERE).exists()
    if segments is None and ((data / opening.SEGMENTS_ELSEWHERE).exists() or not known):
        segments = os.environ.get("MEMORY_SERVICE_SEGMENTS")
    return Places(index, segments)
