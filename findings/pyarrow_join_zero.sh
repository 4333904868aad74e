#!/usr/bin/env bash
# pyarrow 26.0.1: -0.0 has no partner in a join with 0.0, though `==` says that they are equal.
#
# What: a column with 0.0, -0.0 and two NaN is joined with itself, grouped, and its different values are counted.
# Guess: as `==` and the order have it, and as SQL engines and pandas do: the zeros are one key.
# Seen: two keys. A left join leaves the row of -0.0 without a partner, an inner join leaves it out, group_by gives two groups of
#   zero. NaN, which `==` tells from all, are one key if their bits are the same, and several if not: `0.0 / 0.0`
#   has the sign on x86, and math.nan has not. Keys are hashed and compared by their bytes.
# For this project: records are joined by ids. A group of a number of your own (Buffer.count_by) is of Python's numbers,
#   for which 0.0 == -0.0. Who joins Arrow answers by a score adds 0.0 first, which turns -0.0 into 0.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1

"$folder/venv/bin/python" -I - <<'PYTHON'
import math
import struct

import pyarrow as pa
import pyarrow.compute as pc

other_nan = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000000))[0]
left = pa.table({"x": pa.array([0.0, -0.0, math.nan, other_nan]), "row": ["0.0", "-0.0", "nan", "nan with the sign"]})
right = pa.table({"x": pa.array([0.0, math.nan]), "found": ["0.0", "nan"]})


def partners(values):
    joined = pa.table({"x": values, "row": left["row"]}).join(right, "x", join_type="left outer")
    return dict(zip(joined["row"].to_pylist(), joined["found"].to_pylist(), strict=True))


equal = pc.equal(left["x"], pa.scalar(0.0)).to_pylist()
seen = partners(left["x"])
groups = left.group_by("x").aggregate([([], "count_all")])["count_all"].to_pylist()
with_zero_added = partners(pc.add(left["x"], 0.0))
different = pc.count_distinct(left["x"]).as_py()
print(f"pyarrow {pa.__version__}: {left['x'].to_pylist()}, joined with {right['x'].to_pylist()}")
print("expected: the zeros find 0.0, and are one group")
print(f"seen:     == 0.0: {equal}; partners by join: {seen}")
print(f"          group_by: groups of {groups}; count_distinct: {different}")
print(f"          after 0.0 was added: {with_zero_added}")
print("source:   C++: arrow/compute/key_hash_internal.cc and arrow/compute/row/compare_internal.cc, which see keys of fixed")
print("          width as bytes; used by arrow/acero/swiss_join.cc and arrow/compute/row/grouper.cc")
assert equal == [True, True, False, False], f"changed: {equal}"
assert seen == {"0.0": "0.0", "-0.0": None, "nan": "nan", "nan with the sign": None}, f"changed: {seen}"
assert groups == [1, 1, 1, 1], f"changed: {groups}"
assert with_zero_added["-0.0"] == "0.0", f"changed: {with_zero_added}"
print("as described")
PYTHON
