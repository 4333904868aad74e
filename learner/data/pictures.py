"""Picture files as arrays: decoded when asked for, upright, in RGB, and sized as ViLT sizes them.

A data set of a hundred thousand photographs does not fit in memory; its pictures are read when a phase needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.rgb import DECODE_GAP, LONGEST, fit, upright_rgb, why_unreadable

__all__ = ["PICTURE_SUFFIXES", "LazyPictures", "NoPicture", "Picture", "PictureError", "PictureFile", "read_picture"]

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})


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
