#!/usr/bin/env bash
# pyarrow 26.0.1: a filter `in [0.0]` does not find the zeros of a Parquet file, where a row group holds nothing else.
#
# What: a float column of zeros and ones, written by pyarrow with default settings, in row groups of two. It is asked for
#   zeros as `x in [0.0]`, by pq.read_table(filters=...) and by a data set, and the table in memory by Table.filter.
# Guess: every zero is found, wherever it stands. Statistics only spare reading.
# Seen: of [0, 1], [0, 0], [1, 0] those of the middle row group are missing, without an error. `x == 0.0` finds all four,
#   and so does `in` once the file has no statistics. Three things meet: the writer makes the least of zeros -0.0 in the
#   statistics, as the format asks; the reader takes least and most for the same value and puts the least in the
#   place of the column; and is_in, unlike ==, tells -0.0 from 0.0. Integers are found.
# For this project: Parquet is read by datasets and whole, without filters (learner/data/hub.py). Who keeps scores in such
#   files, which are often 0.0 for many records on end, asks for them with == instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1

cat > "$folder/zeros.py" <<'PYTHON'
import math

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

VALUES = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
ZEROS = [0, 2, 3, 5]


def rows(table):
    return table.column("row").to_pylist()


def ask(kind, **settings):
    """Which rows are found as zeros, by way of asking, and the statistics of the middle row group."""
    values = pa.array(VALUES).cast(kind)
    table = pa.table({"x": values, "row": list(range(len(VALUES)))})
    pq.write_table(table, "zeros.parquet", row_group_size=2, **settings)
    x, zero = ds.field("x"), pa.array([0]).cast(kind)
    found = {
        "read_table, in": rows(pq.read_table("zeros.parquet", filters=[("x", "in", zero.to_pylist())])),
        "read_table, ==": rows(pq.read_table("zeros.parquet", filters=[("x", "==", zero[0].as_py())])),
        "dataset, isin": rows(ds.dataset("zeros.parquet").to_table(filter=x.isin(zero))),
        "in memory, isin": rows(table.filter(x.isin(zero))),
    }
    held = pq.read_metadata("zeros.parquet").row_group(1).column(0).statistics
    return found, held and (held.min, held.max)


print(f"pyarrow {pa.__version__}: {VALUES} in row groups of two")
print(f"expected: zeros in rows {ZEROS}, whoever is asked")
seen = {
    "float64": ask(pa.float64()),
    "float32": ask(pa.float32()),
    "int64": ask(pa.int64()),
    "float64, no statistics": ask(pa.float64(), write_statistics=False),
}
for name, (found, held) in seen.items():
    print(f"seen:     {name}, statistics of the middle row group {held}")
    for way, numbers in found.items():
        print(f"            {way}: {numbers}{'' if numbers == ZEROS else '  <- not all'}")
print("source:   C++: EvaluateStatisticsAsExpression in arrow/dataset/file_parquet.cc makes `x == least` where least equals")
print("          most, and ReplaceFieldsWithKnownValues in arrow/compute/expression.cc puts it into the filter")
for name, (found, held) in seen.items():
    for way, numbers in found.items():
        lost = name in ("float64", "float32") and way in ("read_table, in", "dataset, isin")
        assert numbers == ([0, 5] if lost else ZEROS), f"changed: {name}, {way}: {numbers}"
least, most = seen["float64"][1]
assert math.copysign(1, least) == -1 and math.copysign(1, most) == 1, "changed: the statistics of zeros"
print("as described")
PYTHON
cd "$folder" && venv/bin/python zeros.py
