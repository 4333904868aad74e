#!/usr/bin/env bash
# Python's sqlite3, SQLAlchemy 2.1.9: a DELETE behind WITH is not undone, whatever is raised in `with engine.begin()`.
#
# What: a table of two rows. In a transaction that ends with an error, one is deleted; once by DELETE ... IN (SELECT ...), once with that SELECT as a
#   common table expression in front. The same for UPDATE and INSERT, with sqlite3 itself and rollback(), and in a transaction that was begun by BEGIN.
# Guess: both rows are there afterwards.
# Seen: what begins with WITH is carried out at once and stays, and rowcount is -1. Of 3.11's sqlite3, and so of SQLAlchemy with pysqlite, a
#   transaction begins by itself in front of what begins with INSERT, UPDATE, DELETE or REPLACE, and in front of nothing else. Where another change
#   came first, or BEGIN was executed, it is undone.
# For this project: each transaction begins with BEGIN, and the driver's guesses are off (store/index/sqlite.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sqlalchemy==2.1.9

cat > "$folder/undone.py" <<'PYTHON'
import sqlite3
import sys

import sqlalchemy as sa

metadata = sa.MetaData()
table = sa.Table("t", metadata, sa.Column("id", sa.Integer, primary_key=True))
PLAIN = {
    "DELETE": "DELETE FROM t WHERE id IN (SELECT 1)",
    "UPDATE": "UPDATE t SET id = 9 WHERE id IN (SELECT 1)",
    "INSERT": "INSERT INTO t SELECT 7",
}
WITH = {
    "DELETE": "WITH some AS (SELECT 1) DELETE FROM t WHERE id IN some",
    "UPDATE": "WITH some AS (SELECT 1) UPDATE t SET id = 9 WHERE id IN some",
    "INSERT": "WITH some AS (SELECT 7) INSERT INTO t SELECT * FROM some",
}
BEFORE = [1, 2]
AFTER = {"DELETE": [2], "UPDATE": [2, 9], "INSERT": [1, 2, 7]}


def made(**options):
    connection = sqlite3.connect(":memory:", **options)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    connection.commit()
    return connection


def by_sqlite3(sql, begun):
    connection = made(isolation_level=None) if begun else made()
    if begun:
        connection.execute("BEGIN")
    count = connection.execute(sql).rowcount
    connection.rollback()
    return count, [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id")]


def by_sqlalchemy(with_cte):
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"id": 1}, {"id": 2}])
    some = sa.select(sa.literal(1).label("id"))
    some = sa.select(some.cte("some").c.id) if with_cte else some
    try:
        with engine.begin() as connection:
            count = connection.execute(table.delete().where(table.c.id.in_(some))).rowcount
            raise RuntimeError("what was done is to be undone")
    except RuntimeError:
        pass
    with engine.connect() as connection:
        return count, list(connection.execute(sa.select(table.c.id).order_by(table.c.id)).scalars())


print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, SQLAlchemy {sa.__version__}")
print(f"expected: rows {BEFORE} each time, and 1 as rowcount")
changed = []
for kind in PLAIN:
    for name, (count, rows), described in (
        (f"{kind}, rollback()", by_sqlite3(PLAIN[kind], False), (1, BEFORE)),
        (f"WITH {kind}, rollback()", by_sqlite3(WITH[kind], False), (-1, AFTER[kind])),
        (f"BEGIN, WITH {kind}, rollback()", by_sqlite3(WITH[kind], True), (-1, BEFORE)),
    ):
        print(f"seen:     {name:30} rows {rows}, rowcount {count}")
        changed += [name] if (count, rows) != described else []
for name, (count, rows), described in (
    ("SQLAlchemy, DELETE", by_sqlalchemy(False), (1, BEFORE)),
    ("SQLAlchemy, WITH DELETE", by_sqlalchemy(True), (-1, AFTER["DELETE"])),
):
    print(f"seen:     {name:30} rows {rows}, rowcount {count}")
    changed += [name] if (count, rows) != described else []
print("source: CPython, Modules/_sqlite/statement.c: is_dml is told by the first word of the statement")
assert not changed, f"changed: {changed}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python undone.py
