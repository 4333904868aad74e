"""The pictures of the density benchmark: photographs at ViLT's geometry, and MM-Emoji-R at the demo's size."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmarks.density.stamps import Stamp, StampsMissingError, load_stamps

SHORT_SIDE_PX = 384
LONGEST_SIDE_PX = 640
PATCH_PX = 32
"""ViLT's preprocessing: short side 384, the other at most 640, both cut down to multiples of 32."""

# Every photograph in the two wheels whose shorter side has 300 px or more: one of the stereo pair, and neither
# drawings, nor test patterns, nor scanned text.
_WHEELS: dict[str, tuple[tuple[str, str], ...]] = {
    "skimage/data": (
        ("astronaut.png", "A photograph of an astronaut in an orange suit in front of a flag."),
        ("brick.png", "A photograph of a brick wall."),
        ("camera.png", "A photograph of a man with a camera on a tripod."),
        ("cell.png", "A photograph of a cell under a microscope."),
        ("chelsea.png", "A photograph of the face of a tabby cat."),
        ("clock_motion.png", "A photograph of a clock that the camera moved before."),
        ("coffee.png", "A photograph of a cup of coffee with a spoon on a wooden table."),
        ("coins.png", "A photograph of old coins in rows."),
        ("grass.png", "A photograph of grass."),
        ("gravel.png", "A photograph of gravel."),
        ("hubble_deep_field.jpg", "A photograph of distant galaxies."),
        ("ihc.png", "A photograph of stained tissue under a microscope."),
        ("moon.png", "A photograph of the surface of the moon."),
        ("motorcycle_left.png", "A photograph of a red motorcycle in a garage."),
        ("retina.jpg", "A photograph of a retina."),
        ("rocket.jpg", "A photograph of a rocket on its launch pad at dusk."),
    ),
    "sklearn/datasets/images": (
        ("china.jpg", "A photograph of a Chinese pavilion above a lake."),
        ("flower.jpg", "A photograph of an orange dahlia."),
    ),
}
_MOST_OF_FRAME = 0.85
_PICTURE_SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class PicturesMissingError(RuntimeError):
    """There is nothing to measure on; the message says why."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One full sample: ``image`` is ``(H, W, 3)`` uint8, both sides multiples of ``patch_px``."""

    name: str
    image: NDArray[np.uint8]
    caption: str
    patch_px: int

    @property
    def grid(self) -> tuple[int, int]:
        height, width, _ = self.image.shape
        return height // self.patch_px, width // self.patch_px


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture with its masks and its caption's tokens.

    Attributes:
        keep_masks: keep ratio -> ``(h, w)`` bool.
        token_ids: ``(T,)`` of the whole caption: exemplars keep all of it, as the learner's do.
    """

    picture: Picture
    keep_masks: dict[float, NDArray[np.bool_]]
    token_ids: NDArray[np.int64]


def photographs(num_stamps: int, directory: Path | None, note: Callable[[str], object]) -> list[Picture]:
    """The wheels' photographs, and each of ``num_stamps`` stamps on one of them in turn.

    What cannot be had is left out, and ``note`` is told why.
    """
    plain = [
        Picture(path.name, fitted(opened), caption, PATCH_PX)
        for path, caption in _wheel_files(note)
        for opened in [_read(path)]
    ]
    if not plain:
        raise PicturesMissingError("neither scikit-image nor scikit-learn is installed: pip install -e '.[bench]'")
    try:
        stamps = load_stamps(num_stamps, directory) if num_stamps else []
    except StampsMissingError as error:
        note(f"left out: stamps on photographs: {error}")
        stamps = []
    rng = np.random.default_rng(0)
    return plain + [_stamped(plain[place % len(plain)], stamp, rng) for place, stamp in enumerate(stamps)]


def folder(path: Path, most: int, note: Callable[[str], object]) -> list[Picture]:
    """At most ``most`` pictures of anybody's folder, evenly spaced in the order of their paths.

    A caption is the first line of the ``.txt`` beside the picture, else the words of its file name.

    Raises:
        PicturesMissingError: no picture can be read.
    """
    paths = sorted(found for found in path.rglob("*") if found.suffix.lower() in _PICTURE_SUFFIXES)
    paths = [paths[place * len(paths) // min(most, len(paths))] for place in range(min(most, len(paths)))]
    pictures = []
    for found in paths:
        try:
            image = fitted(_read(found))
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            note(f"left out: {found}: {error}")
            continue
        text = found.with_suffix(".txt")
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.exists() else []
        caption = lines[0].strip() if lines else found.stem.replace("_", " ").replace("-", " ")
        pictures.append(Picture(found.relative_to(path).as_posix(), image, caption, PATCH_PX))
    if not pictures:
        raise PicturesMissingError(f"{path} holds no picture that can be read ({', '.join(_PICTURE_SUFFIXES)})")
    return pictures


def emoji(number: int, directory: Path | None) -> list[Picture]:
    """``number`` training pictures of MM-Emoji-R, evenly spaced over the demo's classes, at the demo's size."""
    # Imported here: a folder of one's own needs none of the art.
    from learner.data.emoji import load_emoji
    from learner.run.config import LearnerConfig

    config = LearnerConfig()
    data = load_emoji(
        size=config.data.image_size,
        num_classes=config.data.num_classes,
        train_per_class=config.data.train_per_class,
        test_per_class=config.data.test_per_class,
        directory=directory,
    ).train
    number = min(number, len(data))
    return [
        Picture(data.sources[place], data.images[place], data.texts[place], config.backbone.patch_px)
        for place in (np.arange(number) * len(data) // number).tolist()
    ]


def fitted(picture: Image.Image) -> NDArray[np.uint8]:
    """``(H, W, 3)`` at ViLT's geometry."""
    scale = SHORT_SIDE_PX / min(picture.size)
    width, height = (
        max(PATCH_PX, min(LONGEST_SIDE_PX, round(side * scale)) // PATCH_PX * PATCH_PX) for side in picture.size
    )
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _wheel_files(note: Callable[[str], object]) -> Sequence[tuple[Path, str]]:
    found = []
    for place, files in _WHEELS.items():
        package, _, below = place.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            note(f"left out: photographs of {package}, which is not installed (pip install -e '.[bench]')")
            continue
        root = Path(spec.submodule_search_locations[0]) / below
        found += [(root / name, caption) for name, caption in files]
    return found


def _read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _stamped(background: Picture, stamp: Stamp, rng: np.random.Generator) -> Picture:
    """The stamp somewhere on the photograph: as large as it is, or as the frame allows."""
    frame = Image.fromarray(background.image)
    size = stamp.picture.size
    scale = min(1.0, *(_MOST_OF_FRAME * whole / part for whole, part in zip(frame.size, size, strict=True)))
    cut_out = stamp.picture.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.LANCZOS)
    x, y = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(frame.size, cut_out.size, strict=True))
    frame.paste(cut_out, (x, y), cut_out)
    return Picture(f"{stamp.name} on {background.name}", np.asarray(frame), stamp.description, background.patch_px)
