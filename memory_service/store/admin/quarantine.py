"""``quarantine/``: where files go that the store does not know or cannot use. Nothing ever leaves it by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from memory_service.store.segments import files

NAME: Final = "quarantine"
_PIECE: Final = 4 * 1024 * 1024


def put_aside(path: Path, store: Path, *, suffix: str = "") -> Path:
    """Move a file there, under its own name or that with a number behind it; returns where it is now."""
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


def _free(store: Path, name: str) -> Path:
    directory = store / NAME
    directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    files.sync_directory(store)
    return next(path for path in _names(directory, name) if not path.exists())


def _names(directory: Path, name: str) -> Iterator[Path]:
    yield directory / name
    number = 1
    while True:
        yield directory / f"{name}.{number}"
        number += 1
