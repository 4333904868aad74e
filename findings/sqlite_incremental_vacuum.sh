#!/usr/bin/env bash
# Python's sqlite3: `PRAGMA incremental_vacuum` gives back one page, whatever the number in it, fetchall() or not.
#
# What: a database with auto_vacuum=INCREMENTAL and 500 free pages, asked to give them back with 100, and without a number, as
#   meaning all. With apsw 3.54.1.0, an other driver, too.
# Guess: 400 are left, then none; the manual says "up to N pages", and where N is not given all.
# Seen: execute() takes one page each time, and so do SQLAlchemy's exec_driver_sql() and fetchall() behind it. executescript()
#   takes what it was asked for, and so does apsw. SQLite frees a page a step and stops at each with a row that has no columns;
#   execute() makes one step, and takes a row without columns for the end.
# For this project: the index gave back a page for each buffer that was deleted. It is a script now, a quarter of the
#   write-ahead log's pages at a time (SqliteIndex.shrink, with a test).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check apsw==3.54.1.0 sqlalchemy==2.1.9

cat > "$folder/pages.py" <<'PYTHON'
import sqlite3
import sys

import apsw
import sqlalchemy as sa

FREE = 500


def make(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size=1024")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("CREATE TABLE t (x BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES (randomblob(900))", [()] * FREE)
    connection.execute("COMMIT")
    connection.execute("DELETE FROM t")
    return connection


def left(connection):
    return connection.execute("PRAGMA freelist_count").fetchall()[0][0]


def of_sqlalchemy(path, asked):
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.exec_driver_sql(asked)
    engine.dispose()


def of_apsw(path, asked):
    connection = apsw.Connection(path)
    connection.execute(asked).fetchall()
    connection.close()


ASKED = {
    "execute": lambda connection, path, asked: connection.execute(asked),
    "execute, fetchall": lambda connection, path, asked: connection.execute(asked).fetchall(),
    "SQLAlchemy": lambda connection, path, asked: of_sqlalchemy(path, asked),
    "executescript": lambda connection, path, asked: connection.executescript(asked),
    "apsw": lambda connection, path, asked: of_apsw(path, asked),
}

print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}; apsw {apsw.apsw_version()}; SQLAlchemy {sa.__version__}")
seen = {}
for number, (name, ask) in enumerate(ASKED.items()):
    path = f"{number}.db"
    connection = make(path)
    counts = [left(connection)]
    for asked in ("PRAGMA incremental_vacuum(100)", "PRAGMA incremental_vacuum"):
        ask(connection, path, asked)
        counts.append(left(connection))
    connection.close()
    seen[name] = counts
    print(f"{name:18} free pages before, after (100), after all: expected {[counts[0], counts[0] - 100, 0]}, seen {counts}")
print("source: SQLite, pragma.c: OP_ResultRow without columns behind each OP_IncrVacuum; CPython, Modules/_sqlite/cursor.c: one")
print("        sqlite3_step in execute(), and sqlite3_data_count() == 0 ends the statement")
for name, (before, some, end) in seen.items():
    one = name in ("execute", "execute, fetchall", "SQLAlchemy")
    assert before >= FREE and (before - some, some - end) == ((1, 1) if one else (100, before - 100)), f"changed: {name}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python pages.py
