"""Backgrounds: crops of the textures and photographs that the scikit-image wheel ships (nothing is
downloaded).

A scene is one region of one picture with phrases that name it. Regions leave out what could be taken for the
object itself (the coffee cup, the cat's face); grey pictures get a natural tint. Each crop differs in place,
size, mirroring, colour and brightness, all drawn from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SCENES", "Scene", "crop"]

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
        "brick",
        "brick.png",
        ("in front of a brick wall", "against old brickwork"),
        tint=((50, 15, 8), (255, 190, 160)),
    ),
    Scene("grass", "grass.png", ("lying in the grass", "on a dry lawn"), tint=((15, 35, 5), (215, 245, 140))),
    Scene(
        "gravel",
        "gravel.png",
        ("on a gravel path", "on small grey pebbles"),
        tint=((25, 22, 20), (240, 232, 222)),
    ),
    Scene("wood", "coffee.png", ("on a polished wooden table", "on dark planks"), box=(0.0, 0.0, 0.2, 1.0)),
    Scene("galaxies", "hubble_deep_field.jpg", ("among distant galaxies", "in deep space")),
    Scene("tissue", "ihc.png", ("over brown and blue tissue", "on a microscope slide")),
    Scene(
        "veins",
        "retina.jpg",
        ("on a red veined surface", "in front of red veins"),
        box=(0.15, 0.15, 0.85, 0.85),
    ),
    Scene(
        "print",
        "page.png",
        ("on a printed text", "in front of printed lines"),
        tint=((20, 20, 25), (255, 252, 240)),
    ),
    Scene(
        "formulas",
        "text.png",
        ("over handwritten formulas", "on handwritten notes"),
        tint=((10, 15, 50), (250, 250, 255)),
    ),
    Scene("fur", "chelsea.png", ("on striped ginger fur", "against ginger hair"), box=(0.0, 0.35, 0.4, 1.0)),
    Scene(
        "dusk",
        "rocket.jpg",
        ("under a blue evening", "at dusk near metal towers"),
        box=(0.55, 0.0, 1.0, 0.95),
    ),
    Scene(
        "garage",
        "motorcycle_left.png",
        ("in a cluttered garage", "before crowded shelves"),
        box=(0.0, 0.0, 1.0, 0.42),
    ),
    Scene(
        "suit",
        "astronaut.png",
        ("against orange fabric", "before an orange overall"),
        box=(0.1, 0.45, 0.62, 1.0),
    ),
    Scene(
        "field",
        "camera.png",
        ("in a misty meadow", "on a pale field"),
        box=(0.6, 0.55, 1.0, 1.0),
        tint=((20, 25, 15), (235, 240, 225)),
    ),
    Scene(
        "dust",
        "moon.png",
        ("on grey dusty ground", "over dusty craters"),
        tint=((15, 15, 18), (255, 250, 240)),
    ),
    Scene(
        "gradient",
        "color.png",
        ("over blurred colours", "before a smooth colour gradient"),
        box=(0.2, 0.2, 0.8, 0.8),
    ),
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
