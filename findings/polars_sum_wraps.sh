#!/usr/bin/env bash
# polars 2.1.0: the sum of a uint32 or int32 column goes round past its end, and those of uint8 and uint16 do not.
#
# What: three numbers of the highest value of each whole type up to 32 bits, added up by polars in six ways, by DuckDB 2.0.1,
#   pyarrow 26.0.1 and pandas 3.1.1.
# Guess: polars adds in 64 bits, as the other three do, and as it does itself for int8 and int16; or it raises.
# Seen: 3 * 4294967295 is 4294967293 as a Series, an expression, in group_by, in the streaming engine and in SQL. Only types of 8 and
#   16 bits are made wider. cum_sum and rolling_sum go round likewise. mean() is right, so mean() * len() is not sum().
#   DuckDB's sum is exact as Arrow and in SQL, but in numpy and pandas it is float64: beyond 2^53 it is rounded.
# For this project: an exported table has class_id, rank and crc32 as uint32 (docs/format.md, Other readers, says how to add them up).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1 \
    pandas==3.1.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import duckdb
import numpy as np
import pandas
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

ROWS = 3


def by_polars(table):
    frame = pl.from_arrow(table)
    lazy = frame.lazy().group_by("g").agg(pl.sum("x"))
    return {
        "Series.sum": frame["x"].sum(),
        "expression": frame.select(pl.col("x").sum()).item(),
        "group_by": lazy.collect().item(0, "x"),
        "streaming": lazy.collect(engine="streaming").item(0, "x"),
        "SQL": pl.SQLContext(t=frame).execute("SELECT sum(x) FROM t", eager=True).item(),
        "cum_sum": frame["x"].cum_sum()[-1],
    }


def by_others(sizes):
    return {
        "pyarrow": pc.sum(sizes["x"]).as_py(),
        "pyarrow group_by": sizes.group_by("g").aggregate([("x", "sum")])["x_sum"][0].as_py(),
        "pandas": int(sizes.to_pandas()["x"].sum()),
        "DuckDB": int(duckdb.sql("SELECT sum(x) AS s FROM sizes").to_arrow_table()["s"][0].as_py()),
    }


print(f"polars {pl.__version__}, DuckDB {duckdb.__version__}, pyarrow {pa.__version__}, pandas {pandas.__version__}")
wrapped = set()
for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
    most = int(np.iinfo(kind).max)
    table = pa.table({"x": np.full(ROWS, most, kind), "g": [0] * ROWS})
    others, found = by_others(table), by_polars(table)
    assert set(others.values()) == {ROWS * most}, f"changed: {others}"
    assert len(set(found.values())) == 1, f"changed: polars differs by the way: {found}"
    assert round(pl.from_arrow(table)["x"].mean()) == most
    print(f"{kind.__name__:6} expected: {ROWS * most} (the others); seen: {found['Series.sum']} (polars, six ways)")
    if found["Series.sum"] != ROWS * most:
        wrapped.add(kind)
large = pa.table({"x": [2**53, 1]})
rounded = duckdb.sql("SELECT sum(x) AS s FROM large").fetchnumpy()["s"]
print(f"DuckDB, 2^53 + 1 in numpy: {rounded.dtype}, 2^53 + {int(rounded[0]) - 2**53}")
print("source: polars, Series.sum: 'Dtypes in {Int8, UInt8, Int16, UInt16} are cast to Int64 before summing to prevent overflow issues';")
print("        DuckDB: sum of whole numbers is HUGEINT, which numpy does not have")
assert wrapped == {np.uint32, np.int32}, f"changed: {wrapped}"
assert rounded.dtype == np.float64 and int(rounded[0]) == 2**53, "changed: DuckDB"
print("as described")
PYTHON
