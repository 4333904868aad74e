#!/usr/bin/env bash
# datasets 5.2.0: a picture that was opened from a file and changed in place is stored as the file was.
#
# What: a red PNG of 100 x 100 is opened, then made smaller by thumbnail() or half of it painted black by ImageDraw, and given to a data set: in a
#   dictionary, by a function for map(), and by a map() over pictures that the data set itself decodes, from a file and from bytes.
# Guess: the picture that was given is stored, as numpy and Pillow's save() would do.
# Seen: where the picture has a file name, the name is stored, and the change is gone without a word: 100 x 100, all red. The same map() keeps
#   the change where the pictures came as bytes, as they do from Parquet. What gives a new picture (resize(), crop(), convert(), copy()) is kept.
# For this project: pictures of a data set are read as files or bytes, and never written back (learner/data/hub.py). Who hides or shrinks something
#   in place before it becomes data of `data.name=hub` gives `picture.copy()`; docs/learner.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 pillow==13.0.0

HF_HOME="$folder/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" -I -W error - "$folder/red.png" <<'PYTHON'
import sys
from pathlib import Path

import datasets
import PIL
from PIL import Image, ImageDraw

NAME = sys.argv[1]
Image.new("RGB", (100, 100), "red").save(NAME)
PICTURES = datasets.Features({"picture": datasets.Image()})
OLD, SMALL, PAINTED = ((100, 100), (255, 0, 0)), ((20, 20), (255, 0, 0)), ((100, 100), (0, 0, 0))


def smaller(picture):
    picture.thumbnail((20, 20))
    return picture


def painted(picture):
    ImageDraw.Draw(picture).rectangle((0, 0, 49, 99), fill="black")
    return picture


def shown(rows):
    picture = rows[0]["picture"]
    return picture.size, picture.getpixel((0, 0))


def given(picture):
    return datasets.Dataset.from_dict({"picture": [picture]}, features=PICTURES)


changes = {
    "thumbnail()": (smaller, SMALL),
    "ImageDraw": (painted, PAINTED),
    "thumbnail().copy()": (lambda picture: smaller(picture).copy(), SMALL),
    "resize()": (lambda picture: picture.resize((20, 20)), SMALL),
}
of_names = datasets.Dataset.from_dict({"name": [NAME]})
by_file = datasets.Dataset.from_dict({"picture": [NAME]}, features=PICTURES)
by_bytes = datasets.Dataset.from_dict({"picture": [{"bytes": Path(NAME).read_bytes(), "path": None}]}, features=PICTURES)
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}; the file holds (size, pixel) {OLD}")
seen = {}
for name, (change, expected) in changes.items():
    picture = change(Image.open(NAME))
    assert (picture.size, picture.getpixel((0, 0))) == expected
    seen[name] = {
        "given": shown(given(picture)),
        "map() that opens": shown(of_names.map(lambda row, change=change: {"picture": change(Image.open(row["name"]))})),
        "map() over a file": shown(by_file.map(lambda row, change=change: {"picture": change(row["picture"])})),
        "map() over bytes": shown(by_bytes.map(lambda row, change=change: {"picture": change(row["picture"])})),
    }
    print(f"{name}: expected {expected} four times")
    for way, found in seen[name].items():
        print(f"    seen: {way:18} {found}{'' if found == expected else ', the file'}")
print("source: datasets/features/image.py, encode_pil_image: a picture whose `filename` is not empty becomes its path, without bytes; what Pillow opened")
print("        from bytes has no name")
for name, (_, expected) in changes.items():
    in_place = name in ("thumbnail()", "ImageDraw")
    for way, found in seen[name].items():
        assert found == (OLD if in_place and way != "map() over bytes" else expected), f"changed: {name}, {way}: {found}"
print("as described")
PYTHON
