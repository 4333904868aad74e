#!/usr/bin/env bash
# SQLAlchemy 2.1.9, SQLite: a number in a JSON column is another one when it comes back: 2^64 - 1 is 1.8446744073709552e+19.
#
# What: numbers alone, and the same in a list, into a column of sa.JSON in SQLite, and what is read.
# Guess: json.loads(json.dumps(value)), as it is text. SQLite has no type for JSON, and stores it as it is.
# Seen: in a list yes. Alone 1.0 comes back as the int 1, -0.0 as 0, 2^63 and 2^64 - 1 as floats. The column is declared JSON, a word
#   that SQLite does not know, and so it has NUMERIC affinity: text that looks like a number is stored as a number.
# For this project: what is JSON in the index lies in columns of sa.Text (store/index/tables.py), as it was written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check SQLAlchemy==2.1.9

"$folder/venv/bin/python" -W error -I - <<'PYTHON'
import json
import sqlite3

import sqlalchemy as sa

metadata = sa.MetaData()
rows = sa.Table("rows", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("value", sa.JSON))
engine = sa.create_engine("sqlite://")
metadata.create_all(engine)


def stored(value):
    """What comes back, and the type that SQLite has for it."""
    with engine.connect() as connection:
        connection.execute(rows.insert(), {"id": 1, "value": value})
        found = connection.execute(sa.select(rows.c.value)).scalar_one()
        return found, connection.execute(sa.text("SELECT typeof(value) FROM rows")).scalar_one()


print(f"SQLAlchemy {sa.__version__}, SQLite {sqlite3.sqlite_version}")
changed = []
for value in (1.0, -0.0, 2**63, 2**64 - 1, 5, 0.5, "1.0"):
    expected = json.loads(json.dumps(value))
    (found, kind), (in_list, _) = stored(value), stored([value])
    print(f"expected: {expected!r}; seen: {found!r} (SQLite: {kind}); in a list: {in_list!r}")
    assert repr(in_list) == repr([value]), f"changed: {in_list} in a list"
    if repr(found) != repr(expected):
        changed.append(value)
print("source: SQLite, Datatypes, 3.1: a declared type without INT, CHAR, CLOB, TEXT, BLOB, REAL, FLOA or DOUB has affinity NUMERIC;")
print("        SQLAlchemy's SQLite dialect writes JSON as the type")
assert changed == [1.0, -0.0, 2**63, 2**64 - 1], f"changed: {changed}"
print("as described")
PYTHON
