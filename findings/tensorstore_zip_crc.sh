#!/usr/bin/env bash
# tensorstore 0.1.86: the ZIP driver never compares a member's CRC-32; a damaged chunk is read without an error.
#
# What: an array without a codec of its own checksum that zarr 3.1.6 wrote into a ZipStore. One bit of it is turned.
# Guess: DATA_LOSS, as for other damage: the ZIP has a CRC-32 of each chunk, and zarr's ZipStore reports it.
# Seen: zarr raises BadZipFile; tensorstore gives the wrong number, for the whole array and for a part of it.
# For this project: segments are such ZIPs. What vouches for a record is the checksum in the record itself
#   (docs/format.md), for whoever reads it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6 tensorstore==0.1.86

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorstore
import zarr
from zarr.storage import ZipStore

VALUES = np.arange(1000, 1008)


def of_zarr(path):
    with ZipStore(path, mode="r") as store:
        try:
            return zarr.open_array(store, mode="r")[:].tolist()
        except zipfile.BadZipFile as error:
            return type(error).__name__


def of_tensorstore(path):
    kvstore = {"driver": "zip", "base": {"driver": "file", "path": str(path)}}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    try:
        return array.read().result().tolist(), int(array[3].read().result())
    except ValueError as error:
        return str(error).split(":")[0]


path = Path(sys.argv[1]) / "whole.zip"
with ZipStore(path, mode="w") as store:
    zarr.create_array(store, shape=(8,), chunks=(8,), dtype="int64", compressors=None)[:] = VALUES
data = bytearray(path.read_bytes())
assert of_zarr(path) == VALUES.tolist() and of_tensorstore(path) == (VALUES.tolist(), 1003)
data[data.index(np.int64(1003).tobytes())] ^= 64
damaged = path.with_name("damaged.zip")
damaged.write_bytes(data)

print(f"tensorstore {version('tensorstore')}, zarr {zarr.__version__}; one bit of 1003 turned")
print("expected: an error from both")
print(f"seen:     zarr {of_zarr(damaged)}")
print(f"          tensorstore {of_tensorstore(damaged)}")
print("source:   tensorstore/kvstore/zip/zip_key_value_store.cc of google/tensorstore, ReadState::OnValueRead: the member is")
print("          read as its header says, and no checksum made; internal/compression/zip_details.cc reads the CRC")
wrong = np.where(VALUES == 1003, 1003 ^ 64, VALUES).tolist()
assert of_zarr(damaged) == "BadZipFile", "changed: zarr"
assert of_tensorstore(damaged) == (wrong, 1003 ^ 64), "changed: tensorstore compares"
print("as described")
PYTHON
