#!/usr/bin/env bash
# pyarrow 26.0.1: pa.array([1.9], pa.uint8()) is 1, where a numpy array of it, and a cast, are an error.
#
# What: 1.9, -0.5, Decimal("1.5"), NaN and 1e300 as whole numbers, by pa.array of a list, pa.scalar, Table.from_pylist with a schema, pa.array
#   of a numpy array, and cast. True and "5" for comparison.
# Guess: ArrowInvalid each time, "Float value 1.9 was truncated", as the cast says it: conversions are safe where nobody asks
#   for another, and 300 for uint8, True and "5" are refused in all of these ways.
# Seen: Python's numbers lose what is behind the point, without a word, in lists of lists and dictionaries too; -0.5 is 0 of
#   an unsigned type. NaN and 1e300 are refused. A numpy array of Decimal is cut off as well, as it is one of objects.
# For this project: tables that others wrote are taken by cast (tables.py of the format), so a class 1.9 is refused. Batches are
#   made of numpy's columns (wire.py of the format).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6

"$folder/venv/bin/python" -W error -I - <<'PYTHON'
import decimal
import math

import numpy as np
import pyarrow as pa

WAYS = {
    "a list": lambda value, kind: pa.array([value], kind)[0],
    "pa.scalar": lambda value, kind: pa.scalar(value, kind),
    "from_pylist": lambda value, kind: pa.Table.from_pylist([{"x": value}], pa.schema([("x", kind)]))["x"][0],
    "list of lists": lambda value, kind: pa.array([[value]], pa.list_(kind))[0][0],
    "numpy": lambda value, kind: pa.array(np.array([value]), kind)[0],
    "cast": lambda value, kind: pa.array([value]).cast(kind)[0],
}
PYTHONS = list(WAYS)[:4]


def answer(way, value, kind):
    try:
        return WAYS[way](value, kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        return type(error).__name__


print(f"pyarrow {pa.__version__}, numpy {np.__version__}")
for value, kind, described in (
    (1.9, pa.uint8(), 1),
    (-0.5, pa.uint8(), 0),
    (1.9, pa.int64(), 1),
    (np.float32(1.5), pa.int64(), 1),
    (decimal.Decimal("1.5"), pa.int64(), 1),
    (300.5, pa.uint8(), "ArrowInvalid"),
    (math.nan, pa.int64(), "ArrowInvalid"),
    (1e300, pa.int64(), "ArrowInvalid"),
    (True, pa.int64(), "ArrowTypeError"),
    ("5", pa.int64(), "ArrowInvalid"),
):
    found = {way: answer(way, value, kind) for way in WAYS if not isinstance(value, bool | str) or way in PYTHONS}
    print(f"{value!r} as {kind}: expected ArrowInvalid; seen {found}")
    assert {found[way] for way in PYTHONS} == {described}, f"changed: {found}"
    assert not isinstance(value, float) or {found["numpy"], found["cast"]} == {"ArrowInvalid"}, f"changed: {found}"
print("source: arrow/python/helpers.cc, PyObjectToPyInt: where there is no __index__, __int__ is called, which cuts off; the numpy array is cast with")
print("        CastOptions::Safe in arrow/python/numpy_to_arrow.cc")
print("as described")
PYTHON
