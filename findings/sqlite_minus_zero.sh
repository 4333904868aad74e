#!/usr/bin/env bash
# SQLite 3.54.1: -0.0 that is written into a REAL column is 0.0 when it is read; PostgreSQL keeps it.
#
# What: -0.0, 0.5 and the smallest number above zero into columns of REAL, of NUMERIC, of no type and of ANY in a STRICT table, and
#   as the answer to SELECT ?, by apsw 3.54.1.0, which brings its own SQLite.
# Guess: REAL is the eight bytes of an IEEE double, and what comes back is what went in, to the bit; but for NaN, which is NULL.
# Seen: 0.0 out of REAL, 0 out of NUMERIC. -0.0 stays where the column has no type. In a REAL column what is whole is stored as an
#   integer, as that is shorter, and no integer is -0.
# For this project: a score of -0.0 that was set by an update was 0.0 after a restart, and -0.0 before, or with PostgreSQL. It is 0.0
#   from the start, and so is one that is pushed (store/updates.py, store/pure/columns.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check apsw==3.54.1.0

"$folder/venv/bin/python" -I - <<'PYTHON'
import apsw

SMALLEST = 5e-324
COLUMNS = {"REAL": "", "DOUBLE PRECISION": "", "NUMERIC": "", "": "", "ANY": "STRICT"}


def stored(kind, strict, value):
    connection = apsw.Connection(":memory:")
    connection.execute(f"CREATE TABLE t (x {kind}) {strict}")
    connection.execute("INSERT INTO t VALUES (?)", (value,))
    return connection.execute("SELECT x FROM t").fetchone()[0]


print(f"SQLite {apsw.sqlite_lib_version()}, apsw {apsw.apsw_version()}")
found = {kind: repr(stored(kind, strict, -0.0)) for kind, strict in COLUMNS.items()}
(asked,) = apsw.Connection(":memory:").execute("SELECT ?", (-0.0,)).fetchone()
for kind, value in found.items():
    print(f"expected: -0.0; seen: {value} ({kind or 'no type'})")
    assert all(stored(kind, COLUMNS[kind], one) == one for one in (0.5, SMALLEST, 2.0**53, -1.0))
print(f"          SELECT ?: {asked!r}")
print("source:   SQLite, Datatypes: 'small floating point values with no fractional component and stored in columns with REAL")
print("          affinity are written to disk as integers'")
assert found == {"REAL": "0.0", "DOUBLE PRECISION": "0.0", "NUMERIC": "0", "": "-0.0", "ANY": "-0.0"}, f"changed: {found}"
assert repr(asked) == "-0.0", f"changed: {asked!r}"
print("as described")
PYTHON
