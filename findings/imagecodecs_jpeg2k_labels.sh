#!/usr/bin/env bash
# imagecodecs 2026.3.6: a uint32 image of labels comes back from lossless JPEG 2000 as other numbers.
#
# What: a segmentation of 64 x 64 pixels with the labels 0, 5 and 300, by jpeg2k_encode and jpeg2k_decode as uint16, int32 and
#   uint32, with default settings, which are lossless, and with reversible=True.
# Guess: the same labels. The docstring has a doubt about more than 26 bits; these need nine.
# Seen: as uint32 most pixels come back as another number, up to 2^26, without an error; uint16 and int32 are exact. Noise of
#   24 bits is exact as uint32, so a test with random numbers passes, but for a 0 in it, which may become 1.
# For this project: pictures are uint8. A codec that is to be exact is tried with flat pictures that hold the least and
#   the greatest value, not with noise alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check imagecodecs==2026.3.6 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import imagecodecs
import numpy as np
from imagecodecs import jpeg2k_decode, jpeg2k_encode

labels = np.zeros((64, 64), dtype=np.int64)
labels[10:20, 10:20] = 5
labels[30:50, 5:60] = 300
noise = np.random.default_rng(0).integers(1, 2**24, labels.shape)


def wrong(image, dtype, **settings):
    """Number of pixels that come back as another value, and the largest value."""
    found = jpeg2k_decode(jpeg2k_encode(image.astype(dtype), **settings))
    assert found.dtype == dtype and found.shape == image.shape
    return int((found != image).sum()), int(found.max())


print(f"imagecodecs {imagecodecs.__version__}, {imagecodecs.jpeg2k_version()}: {labels.size} pixels, labels 0, 5 and 300")
print("expected: 0 pixels differ")
seen = {
    "uint16": wrong(labels, np.uint16),
    "int32": wrong(labels, np.int32),
    "uint32, noise of 24 bits": wrong(noise, np.uint32),
    "uint32": wrong(labels, np.uint32),
    "uint32, reversible=True": wrong(labels, np.uint32, reversible=True),
}
for name, (number, largest) in seen.items():
    print(f"seen:     {name}: {number} pixels differ, the largest is {largest}")
print("source:   jpeg2k_encode in imagecodecs/_jpeg2k.pyx gives OpenJPEG 32 bits a sample; OpenJPEG takes off half the range and")
print("          multiplies by 1 << T1_NMSEDEC_FRACBITS (64) in 32-bit integers (tcd.c, t1.c)")
for name in ("uint16", "int32", "uint32, noise of 24 bits"):
    assert seen[name][0] == 0, f"changed: {name}: {seen[name]}"
for name in ("uint32", "uint32, reversible=True"):
    assert seen[name][0] > labels.size / 2 and seen[name][1] > 2**24, f"changed: {name}: {seen[name]}"
print("as described")
PYTHON
