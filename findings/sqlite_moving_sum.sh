#!/usr/bin/env bash
# SQLite 3.54.1: behind one infinity a moving sum or average is NULL for all rows that follow.
#
# What: `sum(x) OVER (ORDER BY i ROWS 1 PRECEDING)`, and so avg and total, over seven numbers of which the third is infinity; then over two of
#   1e308, whose sum is infinite; by apsw 3.54.1.0, which brings its own SQLite, and by DuckDB 2.0.1.
# Guess: infinite while the infinity is in the frame, two rows long, and right from the next row on: each row's sum is that of its frame.
# Seen: right in DuckDB. In SQLite NULL once it has left the frame, to the end of the partition, and infinity for ever where the sum was too
#   large. SQLite adds what comes and takes away what goes, and infinity less infinity is no number. max and a frame that begins at the
#   partition's start are right. 1e300 is taken away rightly by 3.54.1; the 3.40.1 of Debian 12 loses what was added to it.
# For this project: a score must be finite (docs/format.md), and sums over records are numpy's. Who averages a run's losses over
#   steps in SQLite leaves out those that are not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check apsw==3.54.1.0 duckdb==2.0.1

"$folder/venv/bin/python" -I - <<'PYTHON'
from math import inf

import apsw
import duckdb

COLUMNS = {
    "one infinity": [1.0, 2.0, inf, 3.0, 4.0, 5.0, 6.0],
    "two that overflow": [1.0, 1e308, 1e308, 3.0, 4.0, 5.0, 6.0],
    "one that is large": [1.0, 2.0, 1e300, 3.0, 4.0, 5.0, 6.0],
}
ASKED = {
    "sum": "sum(x) OVER (ORDER BY i ROWS 1 PRECEDING)",
    "avg": "avg(x) OVER (ORDER BY i ROWS 1 PRECEDING)",
    "max": "max(x) OVER (ORDER BY i ROWS 1 PRECEDING)",
    "sum by hand": "(SELECT sum(x) FROM losses AS near WHERE near.i BETWEEN losses.i - 1 AND losses.i)",
}


def answers(connection, values):
    connection.execute("CREATE TABLE losses (i INTEGER, x DOUBLE)")
    connection.executemany("INSERT INTO losses VALUES (?, ?)", list(enumerate(values)))
    try:
        return {name: [row[0] for row in connection.execute(f"SELECT {what} FROM losses ORDER BY i").fetchall()] for name, what in ASKED.items()}
    finally:
        connection.execute("DROP TABLE losses")


print(f"SQLite {apsw.sqlite_lib_version()}, DuckDB {duckdb.__version__}; expected: sum is sum by hand")
seen = {}
for name, values in COLUMNS.items():
    seen["SQLite", name] = answers(apsw.Connection(":memory:"), values)
    seen["DuckDB", name] = answers(duckdb.connect(), values)
for (engine, name), told in seen.items():
    print(f"seen: {engine}, {name}: " + "; ".join(f"{what} {numbers}" for what, numbers in told.items()))
print("source: sumInverse and sumFinalize in SQLite's src/func.c: what leaves the frame is added with its sign turned; NaN is given as NULL")
right = {name: [values[0], *(before + after for before, after in zip(values, values[1:]))] for name, values in COLUMNS.items()}
for (engine, name), told in seen.items():
    assert told["sum by hand"] == right[name], f"changed: {engine}, {name}, by hand"
    assert told["max"] == [COLUMNS[name][0], *map(max, COLUMNS[name], COLUMNS[name][1:])], f"changed: {engine}, {name}, max"
    if engine == "DuckDB" or name == "one that is large":
        assert told["sum"] == right[name], f"changed: {engine}, {name}"
assert seen["SQLite", "one infinity"]["sum"] == [1.0, 3.0, inf, inf, None, None, None], "changed: infinity"
assert seen["SQLite", "one infinity"]["avg"] == [1.0, 1.5, inf, inf, None, None, None], "changed: infinity, average"
assert seen["SQLite", "two that overflow"]["sum"] == [1.0, 1e308, inf, inf, inf, inf, inf], "changed: overflow"
print("as described")
PYTHON
