"""Pictures of any kind as upright RGB, and their sides as whole patches. Nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from memory_format.errors import FormatError

LONGEST = 1333 / 800
"""ViLT lets a picture with its short side at 800 px be 1333 px long; here that ratio holds at every size."""

DECODE_GAP = 2
"""A picture may be this many times larger than needed when it is decoded; JPEGs shrink in the decoder."""

# Of samples whose depth is not that of the mode they are decoded to, by Pillow's raw mode.
_WHITES = {"L;2": 3, "L;4": 15, "I;12": 0xFFF, "RGB;16B": 0xFFFF}
_PHOTOMETRIC = 262  # a tag of TIFF


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture as it should look: RGB, upright (EXIF), transparency on white, the first frame of an animation.

    Args:
        image: best as ``Image.open`` gives it: once decoded, a picture no longer says how many bits its file had.

    Raises:
        FormatError: its pixels do not say which value is white.
    """
    stored = _stored(image)
    image.load()
    return _rgb(_upright(image), stored)


def why_unreadable(error: Exception) -> str:
    """What went wrong when a picture was opened and decoded, as the end of a sentence that begins with its name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"is too large to be read safely ({error})"
    if isinstance(error, FormatError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
        return f"cannot be read ({error.strerror})"
    return f"is damaged ({error})"


def fit(image: Image.Image, *, short_side: int | None, patch_px: int) -> Image.Image:
    """Resize as ViLT does: by the short side, the long side at most 1333/800 of it, both down to whole patches.

    A picture so long that its short side would vanish keeps one patch there.

    Args:
        short_side: None = the picture keeps its size, but for the rest of a patch.
    """
    width, height = image.size
    scale = 1.0
    if short_side is not None:
        scale = min(short_side / min(width, height), int(LONGEST * short_side) / max(width, height))
    sides = [max(patch_px, round(side * scale) // patch_px * patch_px) for side in (width, height)]
    return image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC, reducing_gap=DECODE_GAP)


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


def _stored(image: Image.Image) -> _Stored | None:
    """None where white is not known. To be asked before the picture is decoded."""
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    args = tile[0].args if tile else ""
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
        raise FormatError("has floating-point or 32-bit pixels, whose white nobody knows; save it with 8 or 16 bits")
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
