"""Names of picture files: which files below a folder are pictures, and which one a table means.

``learner caption`` and the data sets ask here, so that they agree about every file.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from learner.data.pictures import PICTURE_SUFFIXES, Picture, PictureError, PictureFile

__all__ = ["as_there", "picture_in", "pictures_below"]

# What archives of a Mac, network storage and rubbish bins put beside pictures, under names of pictures.
_SIDE_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})


def pictures_below(folder: Path) -> list[str]:
    """Paths of the pictures below a folder, relative to it, sorted. Hidden files (a Mac's ``._NAME``) are none."""
    found: list[str] = []
    followed = {os.path.realpath(folder)}
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name) and _once(os.path.join(base, name), followed)]
        found += [
            PurePosixPath(os.path.relpath(base, folder), name).as_posix()
            for name in files
            if not _hidden(name) and Path(name).suffix.lower() in PICTURE_SUFFIXES
        ]
    return sorted(found)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SIDE_FOLDERS


def _once(path: str, followed: set[str]) -> bool:
    """False for a link to a folder that another link has led to: links may go in circles."""
    if not os.path.islink(path):
        return True
    target = os.path.realpath(path)
    new = target not in followed
    followed.add(target)
    return new


def picture_in(folder: Path, name: str) -> Picture:
    """The picture of that name below a folder. One that no table can name cannot be read either."""
    shown = name.encode(errors="backslashreplace").decode()
    return PictureFile(folder / name, name) if shown == name else _Unnameable(shown)


@dataclass(frozen=True)
class _Unnameable:
    """A file whose name is not UTF-8."""

    name: str

    def open(self) -> Path:
        raise PictureError("its name is not UTF-8, so that no table can hold it; rename it")

    def stamp(self) -> str:
        return self.name


def as_there(name: str, there: Callable[[str], bool]) -> str:
    """The spelling of a name under which there is a file, or else the name without the space around it.

    As it stands comes first: space at an end and ``\\\\`` may belong to a name. Then as Windows (``\\\\``) and as a Mac
    (accents beside their letters) write it.
    """
    plain = name.strip()
    slashes = plain.replace("\\", "/")
    composed = [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]
    return next((spelling for spelling in (name, plain, slashes, *composed) if there(spelling)), plain)
