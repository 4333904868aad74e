"""Picture files as arrays: decoded when asked for, upright, in RGB, and sized as ViLT sizes them.

A data set of a hundred thousand photographs does not fit in memory; its pictures are read when a phase needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

__all__ = ["PICTURE_SUFFIXES", "LazyPictures", "Picture", "PictureError", "PictureFile", "fit", "read_picture"]

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})

# ViLT lets a picture with its short side at 800 px be 1333 px long, and keeps that ratio at every size.
_LONGEST = 1333 / 800
# A picture may be this many times larger than needed when it is decoded; JPEGs shrink in the decoder.
_DECODE_GAP = 2
# Of samples whose depth is not that of the mode they are decoded to, by Pillow's raw mode.
_WHITES = {"L;2": 3, "L;4": 15, "I;12": 0xFFF, "RGB;16B": 0xFFFF}
_PHOTOMETRIC = 262  # a tag of TIFF


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
        upright = read_picture(self.pictures[index], about=self.short_side)
        return np.array(fit(upright, short_side=self.short_side, patch_px=self.patch_px))

    @property
    def most_patches(self) -> int:
        """Of any picture, however long it is."""
        return (self.short_side // self.patch_px) * (int(_LONGEST * self.short_side) // self.patch_px)

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
                side = _DECODE_GAP * about
                image.draft(None, (side, side))
            stored = _stored(image)
            image.load()
            return _rgb(_upright(image), stored)
    # Whatever is raised for damaged files: Pillow names no closed list.
    except Exception as error:
        raise PictureError(f"{picture.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"is too large to be read safely ({error})"
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
        return f"cannot be read ({error.strerror})"
    return f"is damaged ({error})"


def fit(image: Image.Image, *, short_side: int, patch_px: int) -> Image.Image:
    """Resize as ViLT does: by the short side, the long side at most 1333/800 of it, both down to whole patches.

    A picture so long that its short side would vanish keeps one patch there.
    """
    width, height = image.size
    longest = int(_LONGEST * short_side)
    scale = min(short_side / min(width, height), longest / max(width, height))
    sides = [max(patch_px, round(side * scale) // patch_px * patch_px) for side in (width, height)]
    return image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC, reducing_gap=_DECODE_GAP)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Whatever is wrong in EXIF data, it is no reason to lose the picture.
        return image.copy()


@dataclass(frozen=True)
class _Stored:
    """What a file says of its values, and Pillow forgets or passes by when it decodes them.

    Attributes:
        white: the greatest value that a sample can have.
        negative: white is 0.
    """

    white: int
    negative: bool = False


def _stored(image: ImageFile.ImageFile) -> _Stored | None:
    """None where white is not known. To be asked before the picture is decoded."""
    args = image.tile[0].args if image.tile else ""
    raw = str(args[0] if isinstance(args, tuple) and args else args)
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # Pillow scales those of PPM to 16 bits
        return None
    if raw in _WHITES:
        return _Stored(_WHITES[raw])
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow turns TIFFs round whose white is 0 if they have 8 bits, and not if they have 16.
        return _Stored(0xFFFF, image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0)
    return _Stored(255)


def _rgb(image: Image.Image, stored: _Stored | None) -> Image.Image:
    if stored is None:
        raise PictureError("has floating-point or 32-bit pixels, whose white nobody knows; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image, stored)
    # The value that stands for transparent is given as the file has it, pixels are not.
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // stored.white
    elif isinstance(key, tuple) and stored.white == 0xFFFF:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, stored: _Stored) -> Image.Image:
    """Grey with up to 16 bits, which Pillow would clip to 255 instead of scaling."""
    values: NDArray[Any] = np.asarray(image).astype(np.int64)
    shown = values * 255 // stored.white
    if stored.negative:
        shown = 255 - shown
    if "transparency" in image.info:
        shown[values == image.info["transparency"]] = 255
    return Image.fromarray(shown.astype(np.uint8)).convert("RGB")
