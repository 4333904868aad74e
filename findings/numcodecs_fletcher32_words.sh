#!/usr/bin/env bash
# numcodecs 0.16.6 and h5py 3.16.0: a mask whose zeros became 255 passes Fletcher32.
#
# What: a mask of bytes 0 and 255, with a checksum behind it, of which a run of zeros is turned into 255: all of it, and two bytes, of one word.
#   By each of numcodecs' checksums, and in an HDF5 file with `fletcher32=True`. Then one byte, and each single bit.
# Guess: any checksum of 32 bits finds a run of bytes that changed, but for one in 2^32.
# Seen: Fletcher32 does not see it, however many words it is, in numcodecs as in HDF5. It adds words of 16 bits modulo 65,535, where 0 and
#   65,535 are the same. Single bits and bytes it finds. CRC32, CRC32C, Adler32 and Jenkins' lookup3 find all of it. A mask, and a picture with
#   black and white in it, are full of both words.
# For this project: records, in which masks are, have a CRC-32 each (docs/format.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numcodecs==0.16.6 google-crc32c==1.9.0 h5py==3.16.0 numpy==2.4.6

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import numcodecs
import numpy as np

mask = np.full(4_096, 255, np.uint8)
mask[1_000:1_400] = 0
DATA = mask.tobytes()
BEGIN = 1_000
CHANGES = {"all 400 zeros": (0, 400, 255), "two": (10, 12, 255), "one": (10, 11, 255)}


def changed(content, at, first, last, value):
    content = bytearray(content)
    content[at + first : at + last] = bytes([value]) * (last - first)
    return bytes(content)


def passes(read):
    """Whether it is read as if nothing had happened."""
    try:
        read()
    except (RuntimeError, OSError):
        return False
    return True


seen = {}
for codec in (numcodecs.Fletcher32(), numcodecs.Adler32(), numcodecs.CRC32(), numcodecs.CRC32C(), numcodecs.JenkinsLookup3()):
    name = type(codec).__name__
    stored = bytes(codec.encode(DATA))
    at = stored.index(DATA) + BEGIN
    seen[name] = {how: passes(lambda: codec.decode(changed(stored, at, *change))) for how, change in CHANGES.items()}
path = Path(sys.argv[1], "mask.h5")
with h5py.File(path, "w") as file:
    file.create_dataset("mask", data=mask, chunks=mask.shape, fletcher32=True)
whole = path.read_bytes()


def read_hdf5(content):
    path.write_bytes(content)
    with h5py.File(path) as file:
        return file["mask"][:]


at = whole.index(DATA) + BEGIN
seen["HDF5"] = {how: passes(lambda: read_hdf5(changed(whole, at, *change))) for how, change in CHANGES.items()}
stored = bytes(numcodecs.Fletcher32().encode(DATA))
bits = 0
for place in range(0, len(stored), 7):
    for bit in range(8):
        flipped = bytearray(stored)
        flipped[place] ^= 1 << bit
        bits += passes(lambda: numcodecs.Fletcher32().decode(bytes(flipped)))

print(f"numcodecs {version('numcodecs')}, h5py {version('h5py')}, HDF5 {h5py.version.hdf5_version}; expected: each change is found")
for name, told in seen.items():
    print(f"seen: {name:15}" + "; ".join(f"{how} turned to 255: {'passes' if what else 'found'}" for how, what in told.items()))
print(f"seen: Fletcher32, single bits that pass: {bits}")
print("source: _fletcher32 in numcodecs/fletcher32.pyx and H5_checksum_fletcher32 in HDF5: sums of 16-bit words, reduced modulo 2^16 - 1")
for name, told in seen.items():
    is_fletcher = name in ("Fletcher32", "HDF5")
    assert told == {"all 400 zeros": is_fletcher, "two": is_fletcher, "one": False}, f"changed: {name} {told}"
assert bits == 0, f"changed: {bits} bits"
print("as described")
PYTHON
