"""What a memory holds at the end of a run, kept for the report: the service may be gone when somebody reads that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client import Buffer, BufferStats
from client.files import DamagedFileError, write_atomically

FILE = "held.json"


@dataclass(frozen=True)
class Held:
    """The contents of a method's buffer after the last phase.

    Attributes:
        exemplars, bytes: by class id; classes of which nothing is held are left out.
        ids: of the exemplars.
    """

    exemplars: Mapping[int, int]
    bytes: Mapping[int, int]
    ids: frozenset[int]


def save_held(folder: Path, buffer: Buffer, stats: BufferStats) -> None:
    """Write ``held.json`` into a method's folder."""
    document = {
        "exemplars": {str(of.class_id): of.count for of in stats.classes},
        "bytes": {str(of.class_id): of.bytes for of in stats.classes},
        "ids": [info.exemplar_id for info in buffer.query()],
    }
    write_atomically(folder / FILE, (json.dumps(document) + "\n").encode())


def load_held(folder: Path) -> Held | None:
    """What :func:`save_held` wrote; None where the run has not come to its end.

    Raises:
        DamagedFileError: it cannot be read any more.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_bytes())
        exemplars, size = (
            {int(key): int(value) for key, value in said[name].items()} for name in ("exemplars", "bytes")
        )
        return Held(exemplars, size, frozenset(int(number) for number in said["ids"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(path, error) from error
