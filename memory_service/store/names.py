"""What classes are called, beside the index: a file for each buffer in ``names/``, as segments do not say it.

The index has the names, and is believed. Nobody but a repair reads these files, where the index was lost or is older.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from memory_format.api.fields import ClassId, ClassName
from memory_service.store.pure.model import BufferConfig
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

NAMES: Final = "names"


@dataclass(frozen=True)
class _File:
    format: Literal[1]
    created_at: float
    """Of the buffer: tells it from an earlier one of its name."""
    names: dict[ClassId, ClassName]


_FILE: Final = TypeAdapter(_File)


class NameFiles:
    """The files of a store.

    Args:
        data: its directory.
    """

    def __init__(self, data: Path) -> None:
        self._directory = data / NAMES

    def keep(self, config: BufferConfig, names: Mapping[int, str]) -> None:
        """Make a buffer's file say these names: it is on disk when this returns. What fails is logged: the index has
        them, and the next start tries again."""
        path = self._path(config)
        content = _FILE.dump_json(_File(1, config.created_at, dict(names)))
        try:
            if not names or (path.exists() and path.read_bytes() == content):
                return
            self._directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
            with files.replacing(path) as descriptor:
                files.write_at(descriptor, [content], 0)
            files.sync_directory(self._directory.parent)
        except OSError:
            logger.exception("names of classes of %s are in the index alone", config.name)

    def forget(self, config: BufferConfig) -> None:
        """The buffer is gone."""
        try:
            self._path(config).unlink(missing_ok=True)
        except OSError:
            logger.exception("cannot remove %s", self._path(config))

    def read(self, config: BufferConfig) -> Mapping[int, str]:
        """What a buffer's file says; nothing where there is none, or one that is damaged or of an earlier buffer."""
        try:
            found = _FILE.validate_json(self._path(config).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            logger.warning("%s cannot be read: %s", self._path(config), type(error).__name__)
            return {}
        return found.names if found.created_at == config.created_at else {}

    def _path(self, config: BufferConfig) -> Path:
        return self._directory / f"{config.name}.json"
