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


def odd_pictures(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Pictures as the web and cameras leave them, under names that they are to have, one of each kind first; returns
    what is wrong with those that cannot be read, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    red = Image.new("RGB", (40, 30), "red")
    turned = red.getexif()
    turned[0x0112] = 6
    made: list[tuple[Image.Image, str, dict[str, object]]] = [
        (Image.new("L", (30, 40), 200), "JPEG", {}),
        (Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG", {}),
        (red, "JPEG", {"progressive": True, "exif": turned}),
        (Image.new("RGBA", (40, 30), (0, 0, 255, 90)), "PNG", {}),  # by its name a JPEG
        (red.convert("P"), "GIF", {}),
    ]
    for name, (image, format, options) in zip(names, made, strict=False):
        image.save(folder / name, format, **options)
    whole = picture(folder / "whole", size=(64, 48), format="JPEG").read_bytes()
    (folder / "whole").unlink()
    broken = {
        "is damaged": whole[: len(whole) // 2],
        "is no picture that Pillow can read": b"<html>404 Not Found</html>",
    }
    after = names[len(made) : len(made) + len(broken)]
    for name, data in zip(after, broken.values(), strict=False):
        (folder / name).write_bytes(data)
    for seed, name in enumerate(names[len(made) + len(broken) :]):
        path = picture(folder / name, size=(24 + seed, 32), seed=seed, format="JPEG")
        path.write_bytes(path.read_bytes() + b"\0\0")  # what a server sends behind a picture
    return dict(zip(after, broken, strict=False))


IMAGENET_R = {"n01443537": "goldfish", "n02085620": "Chihuahua", "n07697313": "cheeseburger", "n02948072": "candle"}
RENDITIONS = ("art", "cartoon", "deviantart", "embroidery", "graffiti", "graphic", "misc", "origami", "painting")


def real_imagenet_r(root: Path) -> Path:
    """ImageNet-R as it is unpacked: renditions in folders of WordNet ids, README.txt in the root, odd pictures among
    them, and captions as one JSON object, without some; returns its folder."""
    base = root / "imagenet-r"
    captions: dict[str, str] = {}
    for wnid, name in IMAGENET_R.items():
        names = [f"{kind}_{number}.jpg" for number, kind in enumerate(RENDITIONS)]
        names[-1] = "painting, of one 8.JPG"
        odd_pictures(base / wnid, names)
        captions |= {f"imagenet-r/{wnid}/{name_}": f'a drawing, "{name}"' for name_ in names}
    lines = [f"{wnid} {name}" for wnid, name in IMAGENET_R.items()]
    (base / "README.txt").write_text("ImageNet-R(endition)\n\n200 classes:\n" + "\n".join(lines) + "\n")
    for name_ in ("n01443537/art_0.jpg", "n02948072/origami_7.jpg", "n02948072/misc_6.jpg"):  # the last one is broken
        del captions[f"imagenet-r/{name_}"]
    captions["imagenet-r/n01443537/gone_77.jpg"] = "a picture that is not there"
    (base / "captions.json").write_text(json.dumps(captions))
    return base


def real_food101(root: Path) -> Path:
    """UPMC Food-101 as it is published: title files without a header, quotes doubled, titles that are empty or run over
    lines, pictures that are missing, odd, or in no title file."""
    titles = ("", 'Pie: "the best", ever | blog', "Two\nlines", "caf\u00e9 cr\u00e8me \u2014 10\u00bd min")
    for split, count in (("train", 9), ("test", 8)):
        rows = []
        for dish in ("apple_pie", "baby_back_ribs", "ramen"):
            names = [f"{dish}_{number}.jpg" for number in range(count)]
            odd_pictures(root / "images" / split / dish, names)
            rows += [[name, titles[number % len(titles)], dish] for number, name in enumerate(names)]
        (root / "images" / split / "ramen" / "ramen_7.jpg").rename(root / "images" / split / "ramen" / "ramen_7.JPG")
        (root / "images" / split / "ramen" / "ramen_0.jpg").unlink()
        picture(root / "images" / split / "ramen" / "ramen, hot 99.jpg")
        write_table(root / "texts" / f"{split}_titles.csv", rows)
    return root
