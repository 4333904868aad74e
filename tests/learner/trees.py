"""Small look-alikes of data sets on disk: the published layouts with pictures of a few pixels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan", "white", "black")


def picture(
    path: Path, colour: str = "red", size: tuple[int, int] = (24, 24), seed: int = 0, format: str | None = None
) -> Path:
    """A picture of one colour with some noise, ``size`` = (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.asarray(Image.new("RGB", size, colour)).astype(np.int16) + rng.integers(-20, 21, (*size[::-1], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, format)
    return path


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())
    return path


def folder_set(root: Path, *, classes: int = 4, per_class: int = 8) -> Path:
    """``labels.csv`` and pictures whose shapes differ; returns the table."""
    rows: list[list[str]] = [["image", "text", "label"]]
    for class_id in range(classes):
        for i in range(per_class):
            name = f"pictures/{class_id}/{i}.png"
            size = [(24, 24), (36, 24), (24, 36)][i % 3]
            picture(root / name, COLOURS[class_id], size, seed=i)
            rows.append([name, f"a thing, in {COLOURS[class_id]}", f"class {class_id}"])
    return write_table(root / "labels.csv", rows)


def imagenet_r(root: Path, *, classes: int = 3, per_class: int = 5) -> Path:
    """``imagenet-r/<wnid>/*.jpg``, a README and a captions file; returns the folder of the WordNet ids."""
    base = root / "imagenet-r"
    rows = [["image", "text"]]
    for class_id in range(classes):
        for i in range(per_class):
            name = f"n0144{class_id:04d}/art_{i}.jpg"
            picture(base / name, COLOURS[class_id], (32, 24), seed=i)
            rows.append([name, f"a drawing in {COLOURS[class_id]}"])
    (base / "README.txt").write_text("Some words.\n\nn01440000 goldfish\nn01440001 great_white_shark\n")
    write_table(base / "captions.csv", rows)
    return base


def food101(root: Path, *, header: bool = False) -> Path:
    """``images/{train,test}/<class>/*.jpg`` and ``texts/{train,test}_titles.csv``."""
    for split, count in (("train", 4), ("test", 2)):
        rows = [["image", "text", "label"]] if header else []
        for class_id, dish in enumerate(("apple_pie", "ramen")):
            for i in range(count):
                picture(root / "images" / split / dish / f"{dish}_{i}.jpg", COLOURS[class_id], seed=i)
                rows.append([f"{dish}_{i}.jpg", f'The best "{dish}", easy | blog', dish])
        write_table(root / "texts" / f"{split}_titles.csv", rows)
    return root


def food101_json(root: Path) -> Path:
    """The same pictures with ``class_idx.json``, ``text.json`` and ``split.json``; one of each class validates."""
    food101(root)
    for table in (root / "texts").iterdir():
        table.unlink()
    dishes = ("apple_pie", "ramen")
    # Pictures to train and to test on have numbers of their own there.
    for file in (root / "images/test").rglob("*.jpg"):
        file.rename(file.with_stem(f"{file.stem}0"))
    splits = {
        "train": [f"{dish}_{i}.jpg" for dish in dishes for i in range(3)],
        "val": [f"{dish}_3.jpg" for dish in dishes],
        "test": [f"{dish}_{i}0.jpg" for dish in dishes for i in range(2)],
    }
    texts = {name: f'The best "{name}"' for names in splits.values() for name in names}
    for name, content in (("class_idx", {"ramen": 0, "apple_pie": 1}), ("text", texts), ("split", splits)):
        (root / f"{name}.json").write_text(json.dumps(content))
    return root
