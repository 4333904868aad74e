#!/usr/bin/env bash
# pyarrow 26.0.1: "3 in array" is always False, and so is any comparison of one of its values with Python's.
#
# What: the values 1, 2, 3 as an Array and as a ChunkedArray; is 3 in it, how often, and is it equal to the last value?
# Guess: True, once, True; or a TypeError, as for other types that do not compare. int(), float() and bool() of a value work.
# Seen: False, 0, False, without a word, for numbers, texts and dates. Iterating gives scalars, and a scalar is equal to a
#   scalar of its own type only: int64 3 is not int32 3 either. array.index(3), pc.is_in and to_pylist() do as one thinks.
# For this project: what is compared is taken out of Arrow first, by to_numpy(), where a batch is read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6

"$folder/venv/bin/python" -W error -I - <<'PYTHON'
import datetime

import numpy as np
import pyarrow as pa

CASES = {
    "numbers": ([1, 2, 3], 3),
    "texts": (["a", "b"], "b"),
    "dates": ([datetime.date(2026, 1, 1)], datetime.date(2026, 1, 1)),
}
print(f"pyarrow {pa.__version__}")
print("expected: True, 1, True; or a TypeError")
seen = {}
for name, (values, value) in CASES.items():
    for array in (pa.array(values), pa.chunked_array([values])):
        seen[name, type(array).__name__] = (value in array, list(array).count(value), array[-1] == value)
        assert value in array.to_pylist()
        assert array.index(pa.scalar(value)).as_py() == len(values) - 1
for case, answers in seen.items():
    print(f"seen:     {', '.join(case)}: in {answers[0]}, count {answers[1]}, equal {answers[2]}")
last = pa.array([1, 2, 3])[-1]
others = {
    "int(value) == 3": int(last) == 3,
    "value == pa.scalar(3)": last == pa.scalar(3),
    "value == pa.scalar(3, pa.int32())": last == pa.scalar(3, pa.int32()),
    "value == np.int64(3)": bool(last == np.int64(3)),
    "pa.scalar(3) in array": pa.scalar(3) in pa.array([1, 2, 3]),
}
print(f"          {others}")
print("source:   python/pyarrow/array.pxi and table.pxi of apache/arrow have no __contains__, so Python compares one by one;")
print("          scalar.pxi, Scalar.__eq__: anything but a Scalar is NotImplemented, which Python makes False")
assert set(seen.values()) == {(False, 0, False)}, f"changed: {seen}"
assert [*others.values()] == [True, True, False, False, True], f"changed: {others}"
print("as described")
PYTHON
