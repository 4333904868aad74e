"""Where a store lies: an index and segments that belong together, opened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memory_service.store.index import opening
from memory_service.store.index.base import Index
from memory_service.store.index.generation import Generation
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.pure.model import Options
from memory_service.store.segments.base import Segments
from memory_service.store.segments.local import SegmentFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ports:
    """A pair that a store is opened over."""

    index: Index
    segments: Segments
    trusted: bool = True
    """Whether the index is as new as the segments: otherwise nothing of them is removed."""
    ready: Callable[[], object] = lambda: None
    """Called once all that is there could be read, before the first change."""


OpenPorts = Callable[[Path, Options], Ports]


def open_local(data: Path, options: Options) -> Ports:
    """SQLite and files, in one directory.

    Raises:
        StorageError: they do not belong together, or the index cannot be used.
        OSError: the directory cannot be used.
    """
    standing = opening.look(data)
    standing.expect_usable()
    index = SqliteIndex(data / opening.INDEX)

    def ready() -> None:
        index.generation = Generation(data / opening.GENERATION, index.mark())

    try:
        segments = SegmentFiles(data / "segments", index, max_open=options.open_segments)
    except BaseException:
        index.close()
        raise
    if not standing.trusted:
        logger.info("%s does not say which index is of these files; nothing is removed", opening.GENERATION)
    return Ports(index, segments, standing.trusted, ready)
