"""Draws emoji and puts them in front of backgrounds.

Backgrounds are crops of the textures and photographs that the scikit-image wheel ships (nothing is downloaded). A scene
is one region of one picture with phrases that name it. Regions leave out what could be taken for the object itself (the
coffee cup, the cat's face); grey pictures get a natural tint. Each crop differs in place, size, mirroring, colour and
brightness, all drawn from the generator that is passed in.
"""

from __future__ import annotations

import colorsys
import io
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from learner.data.emoji_catalog import Rendition
from learner.data.fetch import EMOJI_ART, package_dir

# The object's longer side as a share of the picture's: large enough to be recognised at 112 px, small enough
# that most of the picture is background.
SIDE_SHARE = (0.45, 0.70)
_MARGIN_SHARE = 0.02
_PACKAGES = {package.name: package for package in EMOJI_ART}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A place to put objects in front of.

    Attributes:
        name: short name.
        file: picture in ``skimage/data``.
        phrases: what captions say; prepositional phrases.
        box: left, top, right, bottom of the region as shares of the picture's sides.
        tint: colours of black and of white for grey pictures.
    """

    name: str
    file: str
    phrases: tuple[str, ...]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    tint: tuple[Colour, Colour] | None = None


SCENES: tuple[Scene, ...] = (
    Scene(
        "brick", "brick.png", ("in front of a brick wall", "against old brickwork"), tint=((50, 15, 8), (255, 190, 160))
    ),
    Scene("grass", "grass.png", ("lying in the grass", "on a dry lawn"), tint=((15, 35, 5), (215, 245, 140))),
    Scene("gravel", "gravel.png", ("on a gravel path", "on small grey pebbles"), tint=((25, 22, 20), (240, 232, 222))),
    Scene("wood", "coffee.png", ("on a polished wooden table", "on dark planks"), box=(0.0, 0.0, 0.2, 1.0)),
    Scene("galaxies", "hubble_deep_field.jpg", ("among distant galaxies", "in deep space")),
    Scene("tissue", "ihc.png", ("over brown and blue tissue", "on a microscope slide")),
    Scene("veins", "retina.jpg", ("on a red veined surface", "in front of red veins"), box=(0.15, 0.15, 0.85, 0.85)),
    Scene(
        "print", "page.png", ("on a printed text", "in front of printed lines"), tint=((20, 20, 25), (255, 252, 240))
    ),
    Scene(
        "formulas",
        "text.png",
        ("over handwritten formulas", "on handwritten notes"),
        tint=((10, 15, 50), (250, 250, 255)),
    ),
    Scene("fur", "chelsea.png", ("on striped ginger fur", "against ginger hair"), box=(0.0, 0.35, 0.4, 1.0)),
    Scene("dusk", "rocket.jpg", ("under a blue evening", "at dusk near metal towers"), box=(0.55, 0.0, 1.0, 0.95)),
    Scene(
        "garage", "motorcycle_left.png", ("in a cluttered garage", "before crowded shelves"), box=(0.0, 0.0, 1.0, 0.42)
    ),
    Scene("suit", "astronaut.png", ("against orange fabric", "before an orange overall"), box=(0.1, 0.45, 0.62, 1.0)),
    Scene(
        "field",
        "camera.png",
        ("in a misty meadow", "on a pale field"),
        box=(0.6, 0.55, 1.0, 1.0),
        tint=((20, 25, 15), (235, 240, 225)),
    ),
    Scene("dust", "moon.png", ("on grey dusty ground", "over dusty craters"), tint=((15, 15, 18), (255, 250, 240))),
    Scene(
        "gradient", "color.png", ("over blurred colours", "before a smooth colour gradient"), box=(0.2, 0.2, 0.8, 0.8)
    ),
)


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


@cache
def _region(scene: Scene) -> Image.Image:
    """The scene's region, RGB."""
    picture = Image.open(Path(skimage.data.__file__).parent / scene.file)
    if scene.tint is None:
        rgb = picture.convert("RGB")
    else:
        dark, light = (np.array(colour, dtype=np.float32) for colour in scene.tint)
        grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
        rgb = Image.fromarray((dark + (light - dark) * grey).round().astype(np.uint8))
    width, height = rgb.size
    left, top, right, bottom = scene.box
    return rgb.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


def crop(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random crop of a scene: (size, size, 3) uint8."""
    region = _region(scene)
    side = min(region.size) * rng.uniform(0.45, 1.0)
    left, top = (rng.uniform(0, length - side) for length in region.size)
    picture = region.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=3.0
    )
    pixels = np.asarray(picture, dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, size=3)
    return (pixels * gain).round().clip(0, 255).astype(np.uint8)


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
