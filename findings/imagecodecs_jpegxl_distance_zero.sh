#!/usr/bin/env bash
# imagecodecs 2026.3.6: jpegxl_encode(distance=0) is not lossless, and makes more bytes than lossless does.
#
# What: pictures of noise and of a smooth slope, coded by libjxl 0.11.2 with each way to ask for the best.
# Guess: distance=0 is lossless: libjxl's scale says that distance 0 means that mathematically. So is level=100, as the
#   top of the scale of qualities.
# Seen: both are lossy, in noise by 3 of 255 and more, and larger than what is exact. Without any argument the codec is
#   lossless, with a distance it is not, however small. level=101 is, and lossless=True beside distance=0.
# For this project: while it had JPEG XL, em_jpegxl_lossless said lossless=True, and em_jpegxl took qualities up to 99,
#   since 100 would have looked like a promise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check imagecodecs==2026.3.6 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import imagecodecs
import numpy as np

SIDE = 64
noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
slope = (np.add.outer(np.arange(SIDE), np.arange(SIDE))[..., None] + np.array([0, 40, 80])).astype(np.uint8)
PICTURES = {"noise": noise, "slope": slope}
ASKED = ({}, {"lossless": True}, {"level": 101}, {"distance": 0, "lossless": True}, {"distance": 0}, {"level": 100})


def coded(picture, options):
    """Largest error, and bytes."""
    payload = imagecodecs.jpegxl_encode(picture, numthreads=1, **options)
    error = np.abs(imagecodecs.jpegxl_decode(payload, numthreads=1).astype(int) - picture).max()
    return int(error), len(payload)


seen = {}
for name, picture in PICTURES.items():
    for options in ASKED:
        said = ", ".join(f"{key}={value}" for key, value in options.items()) or "no argument"
        seen[name, said] = coded(picture, options)
print(f"imagecodecs {imagecodecs.__version__}, {imagecodecs.jpegxl_version()}, pictures of {SIDE} x {SIDE}")
print("expected: no error in any of these")
for (name, said), (error, size) in seen.items():
    print(f"seen:     {name}, {said}: largest error {error}, {size:,} bytes")
print("source:   imagecodecs/_jpegxl.pyx, jpegxl_encode: a distance, or a level up to 100, turns option_lossless off; libjxl's")
print("          lib/include/jxl/encode.h says of JxlEncoderSetFrameDistance that 0 alone is not enough to be lossless")
for name in PICTURES:
    exact = seen[name, "lossless=True"][1]
    for said in ("no argument", "lossless=True", "level=101", "distance=0, lossless=True"):
        assert seen[name, said][0] == 0, f"changed: {name}, {said}: not exact"
    for said in ("distance=0", "level=100"):
        error, size = seen[name, said]
        assert error > 0, f"changed: {name}, {said}: exact"
        assert size > exact, f"changed: {name}, {said}: {size} bytes, lossless {exact}"
print("as described")
PYTHON
