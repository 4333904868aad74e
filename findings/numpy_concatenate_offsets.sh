#!/usr/bin/env bash
# numpy 2.4.6: half of numpy's functions move the fields of structured arrays, though all of them have the same dtype.
#
# What: rows of a dtype whose fields have places (offsets) and whose size is given, as read from a file or shared memory, go
#   through functions that put rows together or pick some. What comes out is written with tobytes() and read again with
#   the same dtype.
# Guess: where every array has one dtype, so has the answer, and its bytes can be read with it.
# Seen: concatenate, stack, append, where, select and resize give packed rows: 13 bytes instead of 16, other places, even of
#   one array, and the bytes are read as other numbers or not at all. take, repeat, tile, insert, delete, sort and an
#   index keep the dtype. So does every one of them for a dtype with the same places that was made with align=True. With
#   dtype= or out= concatenate keeps it.
# For this project: rows have places, so that they can be searched and read in one piece. The function that joins the parts of
#   a buffer (`concatenated`, in store/pure/columns.py) names the dtype.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np

FIELDS = {"names": ["id", "kind", "length"], "formats": ["<u8", "u1", "<u4"]}
PLACED = np.dtype({**FIELDS, "offsets": [0, 8, 12], "itemsize": 16})
ALIGNED = np.dtype([("id", "<u8"), ("kind", "u1"), ("length", "<u4")], align=True)
assert PLACED.fields == ALIGNED.fields and PLACED.itemsize == ALIGNED.itemsize == 16

WAYS = {
    "concatenate([rows, rows])": lambda rows: np.concatenate([rows, rows]),
    "concatenate([rows])": lambda rows: np.concatenate([rows]),
    "stack([rows])": lambda rows: np.stack([rows]),
    "append(rows, rows)": lambda rows: np.append(rows, rows),
    "where(True, rows, rows)": lambda rows: np.where([True] * len(rows), rows, rows),
    "select([True], [rows], row)": lambda rows: np.select([[True] * len(rows)], [rows], rows[0]),
    "resize(rows, 3)": lambda rows: np.resize(rows, 3),
    "rows.take([0])": lambda rows: rows.take([0]),
    "rows[[0]]": lambda rows: rows[[0]],
    "repeat(rows, 2)": lambda rows: np.repeat(rows, 2),
    "tile(rows, 2)": lambda rows: np.tile(rows, 2),
    "insert(rows, 0, row)": lambda rows: np.insert(rows, 0, rows[0]),
    "delete(rows, 0)": lambda rows: np.delete(rows, 0),
    "sort(rows)": lambda rows: np.sort(rows),
    "concatenate(..., dtype=)": lambda rows: np.concatenate([rows, rows], dtype=rows.dtype),
    "concatenate(..., out=)": lambda rows: np.concatenate([rows, rows], out=np.empty(2 * len(rows), rows.dtype)),
}
MOVES = list(WAYS)[:7]


def rows_of(dtype):
    rows = np.zeros(2, dtype)
    rows["id"], rows["kind"], rows["length"] = (7, 8), 1, (100, 200)
    return rows


def read_again(rows):
    try:
        return np.frombuffer(rows.tobytes(), PLACED)["length"].tolist()
    except ValueError as error:
        return str(error)


print(f"numpy {np.__version__}")
print(f"expected: rows of {PLACED.itemsize} bytes, fields at {[PLACED.fields[name][1] for name in PLACED.names]}")
kept = {}
for way, make in WAYS.items():
    made = make(rows_of(PLACED))
    kept[way] = made.dtype == PLACED
    places = [made.dtype.fields[name][1] for name in made.dtype.names]
    print(f"seen:     {way}: rows of {made.dtype.itemsize} bytes, fields at {places}")
    assert make(rows_of(ALIGNED)).dtype == ALIGNED, f"changed: {way}, align=True"
made = np.concatenate([rows_of(PLACED)] * 8)
print(f"          lengths of 16 rows that concatenate gave: {made['length'].tolist()}")
print(f"          written and read again as 16-byte rows: {read_again(made)}")
print("source:   functions that need a common type ask np.result_type, and promotion of structured types gives a packed one,")
print("          unless one is aligned: _promote_fields in numpy/_core/_internal.py")
assert [way for way, same in kept.items() if not same] == MOVES, f"changed: {kept}"
assert read_again(made) != made["length"].tolist()
print("as described")
PYTHON
