#!/usr/bin/env bash
# zarrita 0.7.5: a chunk's crc32c is cut off and not compared; a damaged chunk is read without an error.
#
# What: arrays that zarr 3.1.6 wrote with the codec crc32c, one plain and one sharded, read by zarrita. Then one bit of
#   each file is turned.
# Guess: an error, as in zarr: to notice this is all that the codec is for.
# Seen: zarrita takes the last four bytes off and gives the wrong number.
# For this project: a record has its own checksum, and readers of docs/format.md compare that one; the codec in the
#   file's metadata promises nothing about who compares it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6
npm install --silent --no-audit --no-fund --prefix "$folder" zarrita@0.7.5 @zarrita/storage@0.2.0

cat >"$folder/read.mjs" <<'JAVASCRIPT'
import FileSystemStore from "@zarrita/storage/fs";
import * as zarr from "zarrita";

const root = zarr.root(new FileSystemStore(process.argv[2]));
for (const name of process.argv.slice(3)) {
  try {
    const array = await zarr.open.v3(root.resolve(name), { kind: "array" });
    console.log(Array.from((await zarr.get(array)).data).join(" "));
  } catch (error) {
    console.log(error.name);
  }
}
JAVASCRIPT

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

root = Path(sys.argv[1])
NAMES = ("plain", "sharded")
VALUES = np.arange(1000, 1008, dtype=np.int32)
WRONG = np.where(VALUES == 1003, 1002, VALUES)


def of_zarr(name):
    try:
        return zarr.open_array(root / "store" / name, mode="r")[:].tolist()
    except ValueError as error:
        return type(error).__name__


def of_zarrita():
    command = ["node", str(root / "read.mjs"), str(root / "store"), *NAMES]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [[int(word) for word in line.split()] if line[:1].isdigit() else line for line in lines]


group = zarr.create_group(root / "store")
for name, layout in zip(NAMES, ({"chunks": (8,)}, {"chunks": (2,), "shards": (8,)})):
    array = group.create_array(name, shape=(8,), dtype="int32", compressors=[Crc32cCodec()], **layout)
    array[:] = VALUES
assert of_zarrita() == [VALUES.tolist()] * 2 == [of_zarr(name) for name in NAMES]
for name in NAMES:
    path = root / "store" / name / "c" / "0"
    data = bytearray(path.read_bytes())
    data[data.index(np.int32(1003).tobytes())] ^= 1
    path.write_bytes(data)

print(f"zarrita 0.7.5, zarr {zarr.__version__}; one bit of 1003 turned")
print("expected: an error from both")
seen = of_zarrita()
for name, values in zip(NAMES, seen):
    print(f"seen:     {name}: zarr {of_zarr(name)}, zarrita {values}")
print("source:   packages/zarrita/src/codecs/crc32c.ts of manzt/zarrita.js, Crc32cCodec.decode: all but the last four bytes;")
print("          zarr: zarr/codecs/crc32c_.py, Crc32cCodec._decode_single compares")
assert [of_zarr(name) for name in NAMES] == ["ValueError"] * 2, "changed: zarr does not compare"
assert seen == [WRONG.tolist()] * 2, "changed: zarrita compares"
print("as described")
PYTHON
