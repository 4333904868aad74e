#!/usr/bin/env bash
# numcodecs 0.16.6: behind one NaN or infinity of a chunk, the filter Delta gives NaN for every number, and small ones are lost beside large.
#
# What: Zarr arrays of zarr 3.1.6 with Delta as filter: whole numbers, floats beside larger ones, and floats with one NaN or infinity; what is
#   written is read again.
# Guess: Delta is lossless, as of whole numbers; a NaN costs itself and, at most, the number behind it.
# Seen: the differences are added up when it is read, so NaN and infinity reach to the end of the chunk: 97 of 100 numbers are NaN.
#   1.0 behind 1e8 is 0.0 in float32, and 0.1 as well. No error and no warning.
# For this project: no array of a segment or an export has a filter (docs/format.md), and scores are kept as they are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import numcodecs
import numpy as np
import zarr
from numcodecs.zarr3 import Delta


def kept(values, codec):
    """Values that went into a Zarr array of one chunk and out again."""
    array = zarr.create_array({}, shape=values.shape, chunks=values.shape, dtype=values.dtype, filters=[codec])
    array[:] = values
    return array[:]


whole = np.array([5, 3, 250, 0], np.uint8)
mixed = np.array([1e8, 1.0, 1e8, 0.1], np.float32)
print(f"zarr {zarr.__version__}, numcodecs {numcodecs.__version__}, numpy {np.__version__}")
assert np.array_equal(kept(whole, Delta(dtype="u1")), whole)
found = kept(mixed, Delta(dtype="f4"))
print(f"Delta: expected {mixed.tolist()}; seen {found.tolist()}")
lost = {}
for name, value in (("NaN", np.nan), ("infinity", np.inf)):
    values = np.linspace(0, 1, 100)
    values[2] = value
    read = kept(values, Delta(dtype="f8"))
    lost[name] = int(np.isnan(read).sum() - np.isnan(values).sum())
    print(f"Delta: 100 numbers, the third of which is {name}: expected all but it and the one behind; seen {lost[name]} that became NaN")
print("source: numcodecs/delta.py: encode is np.diff, decode np.cumsum, in the array's type")
assert found.tolist() == [1e8, 0.0, 1e8, 0.0], f"changed: {found}"
assert lost == {"NaN": 97, "infinity": 97}, f"changed: {lost}"
print("as described")
PYTHON
