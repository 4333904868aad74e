"""Picture files: which there are, whether they can be read, and as arrays: decoded when asked for, upright, in RGB, and
sized as ViLT sizes them. ``learner caption`` and the data sets ask here, so that they agree about every file.

A data set of a hundred thousand photographs does not fit in memory; its pictures are read when a phase needs them.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from client.files import write_atomically
from client.rgb import DECODE_GAP, LONGEST, fit, upright_rgb, why_unreadable
from learner.data.fetch import data_dir
from memory_format.machine import processors

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
# What archives of a Mac, network storage and rubbish bins put beside pictures, under names of pictures.
_SIDE_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})


class PictureError(ValueError):
    """A picture that cannot be used; the message says which one and why."""


class Picture(Protocol):
    """Where one picture's bytes are."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    def open(self) -> Path | BytesIO:
        """A file to decode.

        Raises:
            PictureError: there is none; the message says why.
        """
        ...

    def stamp(self) -> str:
        """Changes when the picture does."""
        ...


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file. ``name``: what errors call it, such as ``labels.csv line 7: cats/1.jpg``."""

    path: Path
    name: str

    def open(self) -> Path:
        return self.path

    def stamp(self) -> str:
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # a name that no file can have
            return f"{self.path}: missing"
        return f"{self.path}: {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@dataclass(frozen=True)
class NoPicture:
    """What a text without a picture has: one grey patch, since an exemplar has one patch at least."""

    name: str = "no picture"

    def open(self) -> BytesIO:
        grey = BytesIO()
        Image.new("RGB", (1, 1), (128, 128, 128)).save(grey, "PNG")
        grey.seek(0)
        return grey

    def stamp(self) -> str:
        return self.name


class LazyPictures:
    """N pictures that are decoded each time they are asked for.

    Indexing gives ``(H, W, 3)`` uint8 with H and W multiples of ``patch_px``: see :func:`fit`. Decoding releases
    Python's lock, so several threads may index at once.
    """

    def __init__(self, pictures: Sequence[Picture], *, short_side: int, patch_px: int) -> None:
        if short_side < patch_px or short_side % patch_px:
            raise ValueError(f"pictures of {short_side} px do not divide into patches of {patch_px} px")
        self.pictures = tuple(pictures)
        self.short_side = short_side
        self.patch_px = patch_px

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """One picture.

        Raises:
            PictureError: it is missing, damaged, or of a kind that cannot be shown.
        """
        picture = self.pictures[index]
        if isinstance(picture, NoPicture):
            return np.full((self.patch_px, self.patch_px, 3), 128, dtype=np.uint8)
        upright = read_picture(picture, about=self.short_side)
        return np.array(fit(upright, short_side=self.short_side, patch_px=self.patch_px))

    @property
    def most_patches(self) -> int:
        """Of any picture, however long it is."""
        return (self.short_side // self.patch_px) * (int(LONGEST * self.short_side) // self.patch_px)

    def take(self, indices: NDArray[np.int64]) -> LazyPictures:
        """The pictures at ``indices``, in that order; nothing is decoded."""
        chosen = [self.pictures[i] for i in indices]
        return LazyPictures(chosen, short_side=self.short_side, patch_px=self.patch_px)


def read_picture(picture: Picture, *, about: int | None = None) -> Image.Image:
    """A picture as it should look: RGB, upright (EXIF), transparency on white, the first frame of an animation.

    Args:
        about: the short side that it will be resized to; large JPEGs are then decoded at a part of their size.

    Raises:
        PictureError: it is missing, damaged, or of a kind that cannot be shown.
    """
    try:
        with Image.open(picture.open()) as image:
            if about is not None:
                side = DECODE_GAP * about
                image.draft(None, (side, side))
            return upright_rgb(image)
    # Whatever is raised for damaged files: Pillow names no closed list.
    except Exception as error:
        reason = str(error) if isinstance(error, PictureError) else why_unreadable(error)
        raise PictureError(f"{picture.name}: {reason}") from error


def unreadable(pictures: Mapping[str, Picture], name: str, directory: Path | str | None) -> dict[str, str]:
    """By key, what is wrong with each picture that cannot be read.

    All are decoded once, so that no run stops at one after hours. Those that are good are not decoded again as long as
    no file changes.

    Args:
        pictures: by key.
        name: of the data set, for the progress shown.
        directory: where is kept which pictures were looked at, see :func:`learner.data.fetch.data_dir`.
    """
    stamps = {key: picture.stamp() for key, picture in pictures.items()}
    # What one Pillow reads, another may not.
    seen = "\0".join([PIL.__version__, *sorted(stamps.values())])
    digest = hashlib.sha256(seen.encode(errors="surrogateescape")).hexdigest()[:16]
    path = data_dir(directory) / "built" / f"pictures-{digest}.json"
    known = _known(path)
    # Bad ones are looked at each time: what was wrong may lie outside of the file, in a permission or an installation.
    unsure = pictures if known is None else {key: pictures[key] for key, stamp in stamps.items() if stamp in known}
    if not unsure:
        return {}
    with ThreadPoolExecutor(min(16, processors())) as pool:
        # disable=None: no bar where the output is not a terminal.
        bar = tqdm(pool.map(_reason, unsure.values()), total=len(unsure), unit="picture", desc=name, disable=None)
        reasons = {key: reason for key, reason in zip(unsure, bar, strict=True) if reason}
    found = {stamps[key]: reason for key, reason in reasons.items()}
    if found != known:
        write_atomically(path, json.dumps(found).encode())
    return reasons


def _known(path: Path) -> dict[str, str] | None:
    """What was wrong with pictures, by their stamps, or None where they were not looked at."""
    try:
        known: dict[str, str] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return known


def _reason(picture: Picture) -> str | None:
    try:
        read_picture(picture, about=1)
    except PictureError as error:
        return str(error).removeprefix(f"{picture.name}: ")
    return None


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
    (accents beside their letters) write it, and with its ending in the other case (``.JPG``), as cameras do.
    """
    plain = name.strip()
    slashes = plain.replace("\\", "/")
    composed = [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]
    stem, dot, ending = slashes.rpartition(".")
    cased = [f"{stem}{dot}{other}" for other in (ending.lower(), ending.upper()) if dot]
    return next((spelling for spelling in (name, plain, slashes, *composed, *cased) if there(spelling)), plain)
