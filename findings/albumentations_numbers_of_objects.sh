#!/usr/bin/env bash
# albumentations 2.0.8: object 16,777,217 of a picture comes back as 16,777,216, and object 2^32 + 1 of its mask as 1.
#
# What: boxes with the numbers of their objects as a label field, a list or an int64 array, through a flip; and as text. A mask of int64 that holds
#   such numbers, and of other types, through a flip and a rotation. The flip by OpenCV alone.
# Guess: labels are handed through: nothing is to be computed of them. A mask is given back as it was, or is an error where OpenCV knows no such
#   type, as it is for bool and uint32 in a rotation.
# Seen: labels that are all numbers go by way of float32: beyond 2^24 each second one is another, also where the array given back says int64. As
#   text they are kept. An int64 mask comes back as int32, its numbers cut to 32 bits: 2^32 + 1 is 1, 2^32 is 0. It is
#   OpenCV's Python that cuts them, and says nothing; albumentations does not ask for the type.
# For this project: exemplar ids are uint64, and a replayed batch's are never handed to what changes its pictures (learner/training/augment.py). Who augments
#   batches with albumentations gives it places in the batch as labels, and no ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 numpy==2.4.6

NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import albumentations as A
import cv2
import numpy as np

PICTURE = np.zeros((32, 32, 3), np.uint8)
BOXES = np.array([[0, 0, 4, 4], [1, 1, 9, 9], [2, 2, 8, 8]], np.float32)
NUMBERS = [16_777_216, 16_777_217, 2**31 + 1]


def labelled(numbers):
    flip = A.Compose([A.HorizontalFlip(p=1)], bbox_params=A.BboxParams("pascal_voc", label_fields=["objects"]))
    found = flip(image=PICTURE, bboxes=BOXES, objects=numbers)["objects"]
    return [value if isinstance(value, str) else int(value) for value in found], getattr(found, "dtype", type(found).__name__)


print(f"albumentations {version('albumentations')}, OpenCV {cv2.__version__}, numpy {np.__version__}")
print(f"labels, expected {NUMBERS}")
seen = {"a list": labelled(NUMBERS), "an int64 array": labelled(np.array(NUMBERS)), "texts": labelled([str(number) for number in NUMBERS])}
for name, found in seen.items():
    print(f"    seen of {name}: {found[0]}, {found[1]}")

ways = {"flip": A.Compose([A.HorizontalFlip(p=1)]), "rotation": A.Compose([A.Rotate((90, 90), p=1)])}
held = {}
for name, value in (("int64", 2**32 + 1), ("int32", 2**30 + 1), ("uint16", 2**15 + 1), ("uint32", 2**31 + 1), ("bool", True)):
    mask = np.full((32, 32), value, name)
    for way, change in ways.items():
        try:
            changed = change(image=PICTURE, mask=mask)["mask"]
            held[name, way] = (*np.unique(changed).tolist(), str(changed.dtype))
        except cv2.error as error:
            held[name, way] = (f"cv2.error in {error.func}",)
        print(f"mask of {name} {value}, {way}: {held[name, way]}")
alone = cv2.flip(np.array([[2**32 + 1, 2**32, 5]]), 1)
print(f"cv2.flip alone, of [2**32 + 1, 2**32, 5] as int64, expected the same or an error; seen: {alone.tolist()[0]}, {alone.dtype}")
print("source: albumentations/core/label_manager.py: numerical labels become np.float32; modules/python/src2/cv2_convert.cpp of OpenCV: an int64")
print("        array is cast to int32 before a function sees it")
assert seen["a list"][0] == [16_777_216, 16_777_216, 2**31], f"changed: {seen}"
assert seen["an int64 array"] == ([16_777_216, 16_777_216, 2**31], np.int64), f"changed: {seen}"
assert seen["texts"][0] == [str(number) for number in NUMBERS], f"changed: {seen}"
assert held["int64", "flip"] == held["int64", "rotation"] == (1, "int32"), f"changed: {held}"
assert held["int32", "rotation"] == (2**30 + 1, "int32") and held["uint16", "rotation"] == (2**15 + 1, "uint16"), f"changed: {held}"
assert all(held[name, "rotation"][0].startswith("cv2.error") for name in ("uint32", "bool")), f"changed: {held}"
assert alone.dtype == np.int32 and alone.tolist() == [[5, 0, 1]], f"changed: {alone}"
print("as described")
PYTHON
