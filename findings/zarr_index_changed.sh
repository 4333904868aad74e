#!/usr/bin/env bash
# zarr 3.1.6: reading by an array of negative positions changes the caller's array.
#
# What: an array of positions, `[-1, -2]`, is used to read the last two values. Then two values are appended, and the same
#   array is used again. By array[rows], oindex and vindex.
# Guess: the last two values each time. A read changes nothing.
# Seen: the array holds `[3, 2]` after the first read, and the second read gives the values that were last before. A list is
#   left as it is; an array that is read-only is refused.
# For this project: segments are read without zarr. Who reads one with it, as docs/format.md shows, and counts from the
#   end, gives a list or a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import zarr

READ = {
    "array[rows]": lambda array, rows: array[rows],
    "oindex": lambda array, rows: array.oindex[rows],
    "vindex": lambda array, rows: array.vindex[rows],
}


def read(how, rows):
    """Values before and after two are appended, and what the positions are at the end."""
    array = zarr.create_array({}, shape=(4,), chunks=(2,), dtype="int64")
    array[:] = [0, 1, 2, 3]
    first = how(array, rows).tolist()
    array.append(np.array([4, 5]))
    return first, how(array, rows).tolist(), list(rows)


expected = ([3, 2], [5, 4], [-1, -2])
print(f"zarr {zarr.__version__}: rows [-1, -2] of [0, 1, 2, 3], and again after 4 and 5 are appended")
print(f"expected: {expected[0]}, then {expected[1]}, and rows are {expected[2]} still")
seen = {name: read(how, np.array([-1, -2])) for name, how in READ.items()}
for name, (first, second, rows) in seen.items():
    print(f"seen:     {name}: {first}, then {second}, and rows are {[int(row) for row in rows]}")
of_list = read(READ["array[rows]"], [-1, -2])
kept = np.array([-1, -2])
kept.flags.writeable = False
try:
    of_kept = read(READ["array[rows]"], kept)
except ValueError as error:
    of_kept = error
print(f"          array[rows] with a list: {of_list[0]}, then {of_list[1]}; a read-only array: {of_kept!r}")
print("source:   wraparound_indices in zarr/core/indexing.py adds the length in place; CoordinateIndexer and")
print("          IntArrayDimIndexer give it the array that the caller gave; mended after 3.1.6 (pull request 4332)")
assert of_list == expected, f"changed: {of_list}"
assert isinstance(of_kept, ValueError), f"changed: {of_kept}"
for name, found in seen.items():
    assert found == ([3, 2], [3, 2], [3, 2]), f"changed: {name}: {found}"
print("as described")
PYTHON
