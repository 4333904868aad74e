"""Draws emoji and puts them in front of backgrounds."""

from __future__ import annotations

import colorsys
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

from learner.data.emoji_catalog import Rendition
from learner.data.fetch import EMOJI_ART, package_dir
from learner.data.textures import Scene, crop

__all__ = ["SIDE_SHARE", "ArtStore", "compose"]

# The object's longer side as a share of the picture's: large enough to be recognised at 112 px, small enough
# that most of the picture is background.
SIDE_SHARE = (0.45, 0.70)
_MARGIN_SHARE = 0.02
_PACKAGES = {package.name: package for package in EMOJI_ART}


class ArtStore:
    """The drawings of all renditions; a rendition's file is read when it is first needed.

    Args:
        directory: see :func:`learner.data.fetch.data_dir`.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self._directory = directory
        self._icons = lru_cache(maxsize=None)(self._read_icons)

    def _read_icons(self, package: str) -> dict[str, Any]:
        folder = package_dir(_PACKAGES[package], self._directory)
        icons: dict[str, Any] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        return icons

    def render(self, rendition: Rendition, drawing: str, side: int, colour: str) -> Image.Image:
        """A drawing cut to its visible part, its longer side ``side`` pixels; RGBA.

        Args:
            rendition: whose drawing.
            drawing: its name there (:attr:`Emoji.drawings`).
            side: pixels.
            colour: ``#rrggbb``, used by drawings of a single colour.
        """
        folder = package_dir(_PACKAGES[rendition.package], self._directory)
        if drawing.endswith(".webp"):
            picture = Image.open(folder / "assets" / drawing).convert("RGBA")
        else:
            # Rendered somewhat larger, as the drawing rarely fills its box.
            png = resvg_py.svg_to_bytes(
                svg_string=self._svg(rendition.package, drawing, colour),
                width=round(side * 1.25),
                skip_system_fonts=True,
            )
            picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        visible = picture.getchannel("A").point(lambda alpha: 255 if alpha >= 128 else 0).getbbox()
        if visible is None:
            raise ValueError(f"{rendition.name}: {drawing} is empty")
        width, height = visible[2] - visible[0], visible[3] - visible[1]
        scale = side / max(width, height)
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        return picture.resize(shape, Image.Resampling.LANCZOS, box=visible)

    def _svg(self, package: str, drawing: str, colour: str) -> str:
        icons = self._icons(package)
        icon = icons["icons"].get(drawing) or icons["icons"][icons["aliases"][drawing]["parent"]]
        # Iconify's defaults: https://iconify.design/docs/types/iconify-json.html
        left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
        width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        body = icon["body"].replace("currentColor", colour)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'
        )


def compose(
    art: ArtStore, rendition: Rendition, drawing: str, scene: Scene, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Puts a drawing in front of a crop of a scene at a random place and scale.

    Returns:
        The picture (size, size, 3) and where the drawing covers at least half of a pixel (size, size).
    """
    background = crop(scene, size, rng)
    side = max(8, round(size * rng.uniform(*SIDE_SHARE)))
    # A second draw for each coordinate, so that the layout is the same at every size.
    across, down, hue, light = rng.random(4)
    brightness = background.mean() / 255
    # Drawings of one colour must stand out: dark ones on light ground and the other way round.
    colour = _hex(hue, 0.65, 0.15 + 0.2 * light) if brightness > 0.5 else _hex(hue, 0.3, 0.85 + 0.15 * light)
    drawn = art.render(rendition, drawing, side, colour)
    margin = round(_MARGIN_SHARE * size)
    x = margin + round(across * (size - 2 * margin - drawn.width))
    y = margin + round(down * (size - 2 * margin - drawn.height))
    picture = Image.fromarray(background)
    picture.paste(drawn, (x, y), drawn)
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[y : y + drawn.height, x : x + drawn.width] = np.asarray(drawn.getchannel("A")) >= 128
    return np.asarray(picture, dtype=np.uint8), mask


def _hex(hue: float, saturation: float, value: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, saturation, value))
