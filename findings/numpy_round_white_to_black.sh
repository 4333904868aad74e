#!/usr/bin/env bash
# numpy 2.4.6: np.round(pixels, -1) makes 4 of the uint8 value 255, and np.trapezoid finds 72 between 200 and 200.
#
# What: uint8 pixels rounded to tens, as one does to have fewer colours; int8 and int16 likewise; by np.round, the method, Python's round(), and pandas.
#   The area below two uint8 values by np.trapezoid; against np.mean, np.gradient, np.interp and np.average of the same.
# Guess: 260 in a wider type, 255 or 250, or an OverflowError as for np.uint8(260). For the area 200, a float64 as it is.
# Seen: from 255 on tens go past the end, and 255 becomes 4, without a warning; int8 127 becomes -126, int16 32767 in thousands -32536. The sum of two
#   neighbours is taken in uint8 before it is halved: 72. The mean, gradient, interpolation and average go by way of float64 and are right.
# For this project: pixels are rounded as floats, clipped, and made uint8 then (learner/data/emoji_render.py, learner/memory/latent.py); nothing rounds
#   uint8 itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pandas==3.1.1

"$folder/venv/bin/python" -I -W error - <<'PYTHON'
import numpy as np
import pandas as pd

pixels = np.array([244, 246, 254, 255], np.uint8)
print(f"numpy {np.__version__}, pandas {pd.__version__}")
ways = {
    "np.round": np.round(pixels, -1).tolist(),
    "pixels.round": pixels.round(-1).tolist(),
    "round() of each": [int(round(pixel, -1)) for pixel in pixels],
    "pandas": pd.Series(pixels).round(-1).tolist(),
    "as float": np.round(pixels.astype(float), -1).tolist(),
}
print(f"{pixels.tolist()} to tens, expected [240, 250, 250, 260] or less than 256")
for name, found in ways.items():
    print(f"    seen by {name + ':':17} {found}")
signed = int(np.round(np.array([127], np.int8), -1)[0]), int(np.round(np.array([32767], np.int16), -3)[0])
print(f"int8 127 to tens, int16 32767 to thousands, expected 130, 33000; seen: {signed}")
flat = np.array([200, 200], np.uint8)
area = float(np.trapezoid(flat))
right = {
    "mean": float(np.mean(flat)),
    "gradient": np.gradient(flat).tolist(),
    "interp": float(np.interp(0.5, [0, 1], flat)),
    "average": float(np.average(flat)),
}
print(f"the area below {flat.tolist()}, expected 200; seen: {area}; {right}")
print("source: numpy/_core/src/multiarray/calculation.c, PyArray_Round: integers are rounded as float64 and cast back unchecked;")
print("        numpy/lib/_function_base_impl.py, trapezoid: (y[1:] + y[:-1]) / 2.0")
as_float = ways.pop("as float")
assert as_float == [240, 250, 250, 260], f"changed: {as_float}"
assert all(found == [240, 250, 250, 4] for found in ways.values()), f"changed: {ways}"
assert signed == (-126, 33000 - 2**16), f"changed: {signed}"
assert area == 72 and right == {"mean": 200, "gradient": [0, 0], "interp": 200, "average": 200}, f"changed: {area} {right}"
print("as described")
PYTHON
