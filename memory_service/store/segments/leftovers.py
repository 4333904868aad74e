"""What a start finds in ``segments/`` that is not as the index says, and what it does about it.

A crash leaves files that were to be made or to go, which the index names
(:mod:`memory_service.store.index.sql`), bytes behind the end of an open segment, and seals that were not committed.
Those go. Everything else is data that the index does not know: it goes to ``quarantine/``, and nowhere else. Nothing
ever leaves that by itself.

Only for the holder of the store's lock: to anybody else a file in flight looks like a leftover.
"""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import numpy as np

from memory_format import StorageError
from memory_format.header import HEADER_DTYPE
from memory_service.store.pure.columns import rows_of_headers
from memory_service.store.pure.erasing import Targets, same_bodies
from memory_service.store.segments import files
from memory_service.store.segments.base import KnownFiles
from memory_service.store.segments.files import OPEN, OWN_NAME, SEALED
from memory_service.store.segments.layout import SegmentContents, read_contents

logger = logging.getLogger(__name__)

QUARANTINE: Final = "quarantine"
_PIECE: Final = 4 * 1024 * 1024

Step = Callable[[], object]


@dataclass
class Found:
    """What is to be done, in this order."""

    remove: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    """Files that the index does not know."""
    copied: list[Path] = field(default_factory=list)
    """Files of which it does not know all."""
    settle: list[Step] = field(default_factory=list)


def clear(directory: Path, known: KnownFiles, *, trusted: bool) -> None:
    """Bring the files to what the index says of them.

    Args:
        directory: where they lie, in a store's own.
        trusted: the index is as new as the files. Otherwise nothing is removed, and what is cut is copied before.

    Raises:
        StorageError: a known segment is missing or cut short. Nothing has changed then.
        OSError: a file cannot be moved, cut or removed.
    """
    data = directory.parent
    found = _examine(directory, known, trusted=trusted)
    for path in found.aside:
        logger.warning("%s: the index does not know it; it lies in %s now", path, put_aside(path, data))
    for path in found.copied:
        logger.warning("%s: the index knows less of it; a copy lies in %s", path, put_copy_aside(path, data))
    for step in found.settle:
        step()
    for path in found.remove:
        files.unlink(path)
    if found.remove:
        logger.warning("removed %d files that no change had committed", len(found.remove))


def _examine(directory: Path, known: KnownFiles, *, trusted: bool) -> Found:
    there = _own_files(directory)
    found = Found()
    damaged = []
    for stem, (counts, num_records, sealed) in known.segments.items():
        of_it = there.pop(stem, {})
        suffix = _serving(of_it, counts, sealed)
        if suffix is None:
            damaged.append(stem)
            continue
        path = of_it.pop(suffix)
        found.aside += of_it.values()
        if path.stat().st_size > counts:
            said = _contents(path) if suffix == SEALED else None
            if not trusted or (said is not None and len(said.headers) > num_records):
                found.copied.append(path)
            found.settle.append(partial(_cut, path, counts))
        wanted = path.with_name(stem + (SEALED if sealed else OPEN))
        if path != wanted:
            found.settle.append(partial(files.rename, path, wanted))
    if damaged:
        raise StorageError(
            f"{len(damaged)} of {len(known.segments)} segments are missing or cut short, first {min(damaged)}; "
            "`memory-service verify` says what they held, `memory-service repair` goes on without them",
            segments=sorted(damaged)[:16],
        )
    for path in [path for of_it in there.values() for path in of_it.values()]:
        (found.remove if trusted and _is_ours(path, known) else found.aside).append(path)
    return found


def _own_files(directory: Path) -> dict[str, dict[str, Path]]:
    """Stem -> suffix -> file."""
    there: dict[str, dict[str, Path]] = {}
    for entry in os.scandir(directory):
        name = OWN_NAME.fullmatch(entry.name)
        if name is None or not entry.is_file(follow_symlinks=False):
            logger.warning("%s is none of the store's files; left alone", entry.path)
        else:
            there.setdefault(name[1], {})[name[2]] = Path(entry.path)
    return there


def _is_ours(path: Path, known: KnownFiles) -> bool:
    """Whether a file that no segment's row speaks of is one that a crash has left, and nothing that counts."""
    stem, _, suffix = path.name.partition(".")
    leaving = known.intents.get(stem)
    return leaving is not None and (leaving or "." + suffix != SEALED or not _says_news(path, known.next_ids))


def _serving(of_it: Mapping[str, Path], counts: int, sealed: bool) -> str | None:
    """Which file of a segment has what counts: a crash can leave the other suffix, and bytes behind the end."""
    for suffix in (SEALED, OPEN) if sealed else (OPEN, SEALED):
        path = of_it.get(suffix)
        size = -1 if path is None else path.stat().st_size
        if size == counts or (size > counts and not sealed):
            return suffix
    return None


def _cut(path: Path, counts: int) -> None:
    descriptor = files.open_for_writing(path)
    try:
        files.truncate(descriptor, counts)
    finally:
        os.close(descriptor)


def _contents(path: Path) -> SegmentContents | None:
    try:
        return read_contents(path)
    except ValueError:
        return None


def _says_news(path: Path, next_ids: Mapping[str, int]) -> bool:
    """Whether a sealed file holds records that the index has never heard of."""
    contents = _contents(path)
    if contents is None or not len(contents.headers):
        return False
    of: Any = contents.attributes.get("exemplar_memory_segment", {})
    return int(contents.headers["exemplar_id"].max()) >= next_ids.get(of.get("name", ""), 0)


def put_aside(path: Path, store: Path, *, suffix: str = "") -> Path:
    """Move a file to quarantine, under its own name or that with a number behind it; returns where it is now."""
    target = _free(store, path.name + suffix)
    files.rename(path, target)
    files.sync_directory(target.parent)
    files.sync_directory(path.parent)
    return target


def put_copy_aside(path: Path, store: Path) -> Path:
    """As :func:`put_aside`, durably, of a copy: the file stays where it is."""
    target = _free(store, path.name)
    # Half a copy must not be taken for a whole one.
    with path.open("rb") as source, files.replacing(target) as descriptor:
        end = 0
        while piece := source.read(_PIECE):
            end = files.write_at(descriptor, [piece], end)
    return target


def overwrite(store: Path, targets: Targets, bodies: Callable[[], Iterable[bytes | memoryview]]) -> list[str]:
    """Overwrite records with zeros in the files in quarantine, as far as they are there; returns the files' names.

    A sealed file says where its records are. All others are searched for the bytes.

    Raises:
        OSError: a file cannot be read or written.
    """
    directory = store / QUARANTINE
    paths = sorted(path for path in directory.iterdir() if path.is_file()) if directory.is_dir() else []
    spans: dict[Path, set[tuple[int, int]]] = {path: _named(path, targets) for path in paths}
    if paths:
        for body in bodies():
            for path in paths:
                spans[path] |= _found(path, body)
    changed = [path for path in paths if spans[path]]
    for path in changed:
        descriptor = files.open_for_writing(path)
        try:
            for start, length in sorted(spans[path]):
                files.write_at(descriptor, [bytes(length)], start)
            files.sync(descriptor)
        finally:
            os.close(descriptor)
    return [f"{QUARANTINE}/{path.name}" for path in changed]


def _named(path: Path, targets: Targets) -> set[tuple[int, int]]:
    """Where records lie in a file, by what it says itself: nothing where it cannot be read as a sealed segment."""
    contents = _contents(path)
    if contents is None:
        return set()
    rows = rows_of_headers(contents.headers.astype(HEADER_DTYPE), 0, contents.lengths)
    places = np.flatnonzero(same_bodies(targets, rows))
    return set(zip(contents.headers["offset"][places].tolist(), contents.lengths[places].tolist(), strict=True))


def _found(path: Path, body: bytes | memoryview) -> set[tuple[int, int]]:
    """Where some bytes are in a file."""
    if not len(body) or path.stat().st_size < len(body):
        return set()
    wanted, found, at = bytes(body), set(), -1
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while (at := content.find(wanted, at + 1)) >= 0:
            found.add((at, len(wanted)))
    return found


def _free(store: Path, name: str) -> Path:
    directory = store / QUARANTINE
    directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    files.sync_directory(store)
    names = chain([name], (f"{name}.{number}" for number in count(1)))
    return next(path for path in map(directory.joinpath, names) if not path.exists())
