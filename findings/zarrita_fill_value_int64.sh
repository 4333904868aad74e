#!/usr/bin/env bash
# zarrita 0.7.5: a fill value of 2**63 - 1 is read as -2**63, one of 2**64 - 1 as 0.
#
# What: arrays of int64 and uint64 that zarr 3.1.6 wrote, whose second half was never written. zarrita gives BigInts.
# Guess: the fill value, exactly: BigInt is there for it, and chunks that are written come out right.
# Seen: fill values beyond 2**53 are rounded to a float first. The largest int64, a usual mark for "nothing here",
#   becomes the smallest; the largest uint64 becomes 0. No error, in format 2 and 3.
# For this project: every array of a segment is written in full, so that its fill value is never read (docs/format.md). An
#   array that isn't needs a fill value that a float holds.
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
  const array = await zarr.open(root.resolve(name), { kind: "array" });
  console.log(Array.from((await zarr.get(array)).data).join(" "));
}
JAVASCRIPT

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import zarr

root = Path(sys.argv[1])
# Type, fill value, what zarrita makes of it.
CASES = (
    ("int64", 2**63 - 1, -(2**63)),
    ("uint64", 2**64 - 1, 0),
    ("int64", 2**53 + 1, 2**53),
    ("int64", -(2**63), -(2**63)),
    ("int64", 2**53, 2**53),
)
# As large, and equal to no fill value, which would not be stored.
WRITTEN = 2**63 - 2
names, of_zarr = [], []
for zarr_format in (2, 3):
    for number, (dtype, fill, _) in enumerate(CASES):
        names.append(f"format{zarr_format}_{number}")
        array = zarr.create_array(
            root / "store" / names[-1], shape=(2,), chunks=(1,), dtype=dtype, fill_value=fill, zarr_format=zarr_format
        )
        array[0] = WRITTEN
        of_zarr.append(array[:].tolist())
command = ["node", str(root / "read.mjs"), str(root / "store"), *names]
lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
of_zarrita = [[int(word) for word in line.split()] for line in lines]

print(f"zarrita 0.7.5, zarr {zarr.__version__}; the first element was written and is {WRITTEN}")
print("expected: what zarr reads")
for name, (dtype, _, _), one, other in zip(names, CASES * 2, of_zarr, of_zarrita):
    print(f"seen:     {name.split('_')[0]}, {dtype}: zarr {one}, zarrita {other}")
print("source:   packages/zarrita/src/util.ts of manzt/zarrita.js, ensureCorrectScalar: BigInt() of a number that")
print("          JSON.parse has made a float already; the typed array then wraps it")
for (_, fill, seen), one, other in zip(CASES * 2, of_zarr, of_zarrita):
    assert one == [WRITTEN, fill], "changed: zarr"
    assert other == [WRITTEN, seen], f"changed: {fill} is read as {other[1]}"
print("as described")
PYTHON
