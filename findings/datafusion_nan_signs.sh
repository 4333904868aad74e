#!/usr/bin/env bash
# DataFusion 55.0.0, delta-rs 1.6.6: `x < 0` finds a NaN that a processor computed, and deletes its row; `x > 0` finds Python's.
#
# What: -1, 1, float("nan"), and the NaN with its sign bit set: on x86, numpy and torch get that one from 0/0, inf - inf and sqrt(-1). DataFusion is
#   asked for what is below and above 0, for the least number and the number of different ones, and for a join with itself; DuckDB 2.0.1 and
#   polars 2.1.0 too. A Delta table of them is told to delete what is below 0.
# Guess: one NaN is as good as another. Comparisons with it are false, as in IEEE 754, or it is above all numbers, as in PostgreSQL, DuckDB
#   and polars.
# Seen: DataFusion orders numbers by their bits (totalOrder of IEEE 754): a NaN with a sign lies below -inf, one without above inf. min(x) and max(x)
#   are both NaN, there are four different values, a NaN meets its own kind only, and DELETE WHERE x < 0 deletes the
#   computed one.
# For this project: a score is a finite number, or refused (docs/format.md). Who keeps losses in a Delta table writes null for
#   what diverged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    datafusion==55.0.0 deltalake==1.6.6 duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1 numpy==2.4.6

cat > "$folder/signs.py" <<'PYTHON'
import math
from importlib.metadata import version

import datafusion
import deltalake
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

SIGNED = np.array([0xFFF8 << 48], np.uint64).view(np.float64)[0]
TABLE = pa.table({"x": np.array([-1.0, 1.0, math.nan, SIGNED]), "name": ["-1", "1", "NaN", "-NaN"]})
ASKED = {
    "x < 0": "SELECT name FROM t WHERE x < 0 ORDER BY name",
    "x > 0": "SELECT name FROM t WHERE x > 0 ORDER BY name",
    "least": "SELECT min(x) FROM t",
    "different": "SELECT count(DISTINCT x) FROM t",
    "pairs": "SELECT count(*) FROM t a JOIN t b ON a.x = b.x",
}

context = datafusion.SessionContext()
context.register_record_batches("t", [TABLE.to_batches()])
frames = pl.SQLContext(t=pl.from_arrow(TABLE))
ASK = {
    "DataFusion": lambda sql: context.sql(sql).to_arrow_table(),
    "DuckDB": lambda sql: by_duckdb(sql),
    "polars": lambda sql: frames.execute(sql, eager=True).to_arrow(),
}


def by_duckdb(sql):
    with duckdb.connect() as connection:
        connection.register("t", TABLE)
        return connection.query(sql).to_arrow_table()


def answers(ask):
    found = {name: list(ask(sql).to_pydict().values())[0] for name, sql in ASKED.items()}
    return {name: values if name in ("x < 0", "x > 0") else values[0] for name, values in found.items()}


deltalake.write_deltalake("table", TABLE)
deltalake.DeltaTable("table").delete("x < 0")
left = deltalake.DeltaTable("table").to_pyarrow_table()["name"].to_pylist()
seen = {name: answers(ask) for name, ask in ASK.items()}
with np.errstate(invalid="ignore"):
    computed = (np.zeros(1) / np.zeros(1)).view(np.uint64)[0]
names = ("datafusion", "deltalake", "duckdb", "polars", "pyarrow")
print(", ".join(f"{name} {version(name)}" for name in names), f"; 0/0 is {computed:#x} here")
EXPECTED = {"x < 0": ["-1"], "x > 0": ["-NaN", "1", "NaN"], "least": -1.0, "different": 3, "pairs": 6}
SEEN = {"x < 0": ["-1", "-NaN"], "x > 0": ["1", "NaN"], "least": "nan", "different": 4, "pairs": 4}
print(f"expected:   {EXPECTED}")
for name, found in seen.items():
    print(f"{name + ':':11} {found}")
print(f"delta-rs:   DELETE WHERE x < 0: expected ['1', 'NaN', '-NaN'] to stay, seen {left}")
print("source:     arrow-rs, arrow-ord/src/cmp.rs: floats are compared by totalOrder of IEEE 754 (2008)")
found = {**seen["DataFusion"], "least": str(seen["DataFusion"]["least"])}
assert found == SEEN, f"changed: DataFusion {found}"
assert left == ["1", "NaN"], f"changed: {left} stay"
assert seen["DuckDB"] == EXPECTED, f"changed: DuckDB {seen['DuckDB']}"
assert seen["polars"] == EXPECTED, f"changed: polars {seen['polars']}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python signs.py
