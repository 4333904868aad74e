#!/usr/bin/env bash
# numcodecs 0.16.6: Quantize makes infinity of every float16 number from 64 on, at three digits.
#
# What: numbers of float16 from 0.1 to 4096, which float16 holds to three digits or better, rounded to three digits by itself and as
#   a filter of a Zarr array; the same as float32.
# Guess: those that need no rounding, such as 64 and 4096, come back as they are, and the others within the three digits.
# Seen: everything from 64 on comes back as infinity, in an array without an error: numpy warns of an overflow in the product, and
#   with warnings off nothing is said. float32 is right. Numbers are multiplied by 2^10 in their own type, and float16 ends at 65,504.
# For this project: float16 arrays of records are stored bit by bit (docs/format.md). Who writes features of float16 into a Zarr
#   array of their own rounds as float32, or takes BitRound.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import zarr
from numcodecs import Quantize
from numcodecs.zarr3 import Quantize as Filter

DIGITS = 3
given = np.array([0.1, 1.5, 63, 64, 1000, 4096])


def rounded(dtype: str) -> dict[str, np.ndarray]:
    values = given.astype(dtype)
    codec = Quantize(digits=DIGITS, dtype=dtype)
    array = zarr.create_array({}, shape=values.shape, chunks=values.shape, dtype=dtype, filters=[Filter(digits=DIGITS, dtype=dtype)])
    array[:] = values
    return {"numcodecs": np.asarray(codec.decode(codec.encode(values))), "zarr": array[:]}


print(", ".join(f"{name} {version(name)}" for name in ("numcodecs", "zarr", "numpy")))
print("expected: ", given.tolist(), "within 0.001 of each, as float16 and as float32")
half, single = rounded("float16"), rounded("float32")
for name in half:
    print(f"seen:      {half[name].tolist()} (float16, {name})")
    print(f"           {[round(float(value), 4) for value in single[name]]} (float32, {name})")
print("source:    numcodecs/quantize.py, encode: np.around(scale * arr) / scale, with a scale of 2^10 in the type of the numbers")
for name in half:
    assert np.isfinite(given.astype(np.float16)).all() and np.array_equal(np.isinf(half[name]), given >= 64), f"changed: {name}"
    assert np.abs(single[name] - given).max() < 10.0**-DIGITS, f"changed: float32, {name}"
print("as described")
PYTHON
