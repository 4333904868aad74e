#!/usr/bin/env bash
# psycopg 3.3.9: `SELECT %s << %s` with (1, 15) is -32768, and with (1, 20) it is 0.
#
# What: whole numbers as parameters of a shift, of *, of + and of abs, in PostgreSQL 15.18, which has 32-bit integers where
#   nothing else is said. The same with psycopg's client-side cursor, which writes the numbers into the SQL.
# Guess: as if the numbers were in the SQL: 1 << 20 is 1048576, 200 * 200 is 40000.
# Seen: each parameter gets the smallest type that holds its value, and the operator's result has that type. A shift loses the
#   bits without an error; 200 * 200 is an error, "smallint out of range". 40000 * 200 works, as 40000 is no smallint.
# For this project: SQLAlchemy writes a cast behind each parameter (`%(x)s::BIGINT`), from the column that it meets or its
#   type. SQL given to psycopg itself says the type.
# Needs: a PostgreSQL server's programs (Debian: postgresql).
set -euo pipefail
folder=$(mktemp -d)
programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
as=()
if [ "$(id -u)" = 0 ]; then
    chown nobody "$folder"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
cd "$folder"
stop() {
    "${as[@]}" "$programs/pg_ctl" -D "$folder/data" -m immediate stop >"$folder/stopped" 2>&1 || true
    rm -rf "$folder"
}
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check psycopg==3.3.9 psycopg-binary==3.3.9
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
    -o "-k $folder -c listen_addresses='' -c fsync=off" start >"$folder/data/started"

cat > "$folder/asked.py" <<'PYTHON'
import sys
from importlib.metadata import version

import psycopg

ASKED = {
    ("SELECT %s << %s", (1, 14)): 1 << 14,
    ("SELECT %s << %s", (1, 15)): -(1 << 15),
    ("SELECT %s << %s", (1, 20)): 0,
    ("SELECT %s * %s", (200, 200)): "smallint out of range",
    ("SELECT %s * %s", (40000, 200)): 8000000,
    ("SELECT %s + %s", (30000, 30000)): "smallint out of range",
    ("SELECT abs(%s)", (-32768,)): "smallint out of range",
}


def answer(cursor, sql, numbers):
    try:
        return cursor.execute(sql, numbers).fetchone()[0]
    except psycopg.errors.NumericValueOutOfRange as error:
        return error.diag.message_primary


with psycopg.connect(f"host={sys.argv[1]} user=postgres dbname=postgres", autocommit=True) as connection:
    print(f"psycopg {version('psycopg')}, PostgreSQL {connection.execute('SHOW server_version').fetchone()[0]}")
    changed = []
    for (sql, numbers), described in ASKED.items():
        expected = answer(psycopg.ClientCursor(connection), sql.replace("<< %s", "<< (%s)"), numbers)
        seen = answer(connection.cursor(), sql, numbers)
        print(f"{sql:16} {numbers!s:16} expected (numbers in the SQL): {expected}, seen: {seen}")
        if seen != described or isinstance(expected, str):
            changed.append((sql, numbers))
print("source: psycopg/types/numeric.py, IntDumper.upgrade: int2, int4, int8 or numeric, by the value")
assert not changed, f"changed: {changed}"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/asked.py" "$folder"
