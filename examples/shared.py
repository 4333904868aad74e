"""What the examples share: a service that ends with them, and pictures to learn from."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from memory_service.testing import ServiceProcess

CLASSES = ("coffee", "chelsea", "astronaut", "rocket", "brick", "grass", "gravel", "retina")
"""Photographs that come with scikit-image; each is a class, its samples are pieces of it."""


@contextmanager
def service(url: str | None = None) -> Iterator[str]:
    """The address of a memory service: the one that was given, or one that starts here and ends with the block."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, ServiceProcess(Path(folder) / "memory") as process:
        yield process.url


def from_checkout(where: str, name: str) -> ModuleType:
    """A module of a checkout, whose path is the first argument; without one, ends the program in words."""
    if len(sys.argv) < 2:
        sys.exit(f"a checkout is needed: git clone https://{where} CHECKOUT; python {sys.argv[0]} CHECKOUT")
    if not Path(sys.argv[1], *name.split(".")).with_suffix(".py").is_file():
        sys.exit(f"{sys.argv[1]} is no checkout of {where}: it has no module {name}")
    sys.path.append(sys.argv[1])
    return importlib.import_module(name)


def pieces(class_id: int, number: int, *, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """``(number, side, side, 3)``: a third of a class's photograph each, from anywhere in it, half of them mirrored."""
    photograph = Image.fromarray(getattr(data, CLASSES[class_id])()).convert("RGB")
    rng = np.random.default_rng([seed, class_id])
    found = []
    for _ in range(number):
        size = min(photograph.size) // 3
        x, y = (int(rng.integers(0, length - size)) for length in photograph.size)
        piece = np.asarray(photograph.crop((x, y, x + size, y + size)).resize((side, side)))
        found.append(piece[:, ::-1] if rng.random() < 0.5 else piece)
    return np.stack(found)
