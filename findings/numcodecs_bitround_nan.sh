#!/usr/bin/env bash
# numcodecs 0.16.6, imagecodecs 2026.3.6: BitRound makes -0.0 of the NaN that a GPU computes.
#
# What: NaNs with three bit patterns, rounded to 10 bits of mantissa, by itself and as a filter of a Zarr array: 0x7fc00000
#   (numpy's and Python's), 0xffc00000 (0/0 on x86), and 0x7fffffff, which is what NVIDIA's GPUs compute in float32.
# Guess: a NaN stays NaN.
# Seen: 0x7fffffff comes back as -0.0, and 0xffffffff as 0.0. Rounding adds half a step to the number's bits as an integer, which
#   carries from a mantissa of ones through the exponent into the sign.
# For this project: its codecs round no bits. Features or scores that come from a GPU and are to be kept so need a look for
#   NaN before, for afterwards they are zeros.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numcodecs==0.16.6 imagecodecs==2026.3.6 zarr==3.1.6 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import imagecodecs
import numpy as np
import zarr
from numcodecs import BitRound
from numcodecs.zarr3 import BitRound as Filter

BITS = 10
PATTERNS = {0x7FC00000: "nan", 0xFFC00000: "nan", 0x7FFFFFFF: "-0.0", 0xFFFFFFFF: "0.0"}
given = np.array(list(PATTERNS), np.uint32).view(np.float32)
assert np.isnan(given).all()

codec = BitRound(keepbits=BITS)
array = zarr.create_array({}, shape=given.shape, chunks=given.shape, dtype="float32", filters=[Filter(keepbits=BITS)])
array[:] = given
seen = {
    "numcodecs": np.frombuffer(codec.decode(codec.encode(given)), np.float32),
    "zarr": array[:],
    "imagecodecs": imagecodecs.quantize_encode(given, "bitround", BITS),
}
print(", ".join(f"{name} {version(name)}" for name in seen))
print("given:    ", [hex(pattern) for pattern in PATTERNS])
print("expected: ", ["nan"] * len(PATTERNS))
for name, values in seen.items():
    print(f"seen:      {[str(value) for value in values]} ({name})")
print("source:    numcodecs/bitround.py, encode: the addition has no case for NaN. NVIDIA's CUDA programming guide, on single")
print("           precision: a NaN that is a result has the bits 0x7fffffff")
for name, values in seen.items():
    assert [str(value) for value in values] == list(PATTERNS.values()), f"changed: {name}"
print("as described")
PYTHON
