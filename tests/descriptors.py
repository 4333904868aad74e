"""What a process has open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def open_links(process: int | str = "self") -> Iterator[tuple[Path, str]]:
    """Each descriptor in ``/proc``, and what it says it is; without those that are closed while one looks."""
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield entry, str(entry.readlink())
