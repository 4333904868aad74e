#!/usr/bin/env bash
# psycopg 3.3.9: in a pipeline, commit() does nothing behind a fetched row, where the BEGIN was given by hand.
#
# What: on a connection with autocommit, in a pipeline, BEGIN and INSERT ... RETURNING are executed, the row is fetched, and
#   commit() is called. Another connection counts the rows, then, and after the first is closed. The same without a pipeline,
#   without the fetch, and with COMMIT executed as a statement.
# Guess: commit() commits, as it does outside of a pipeline.
# Seen: with the fetch it returns without an error and sends no COMMIT. The row is gone once the connection is closed. commit()
#   looks at libpq's state of the transaction, which changes with the answer to a Sync only; fetching a row sends a Flush.
#   Without the fetch statements are under way still, and COMMIT is sent.
# For this project: the connection that writes ends its transactions by COMMIT as a statement.
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

cat > "$folder/commit.py" <<'PYTHON'
import sys
from contextlib import nullcontext
from importlib.metadata import version

import psycopg

WHERE = f"host={sys.argv[1]} user=postgres dbname=postgres"


def kept(reader, *, pipeline, fetch, statement=False):
    reader.execute("DROP TABLE IF EXISTS t")
    reader.execute("CREATE TABLE t (i int)")
    writer = psycopg.connect(WHERE, autocommit=True)
    with writer.pipeline() if pipeline else nullcontext():
        writer.execute("BEGIN")
        cursor = writer.execute("INSERT INTO t VALUES (1) RETURNING i")
        if fetch:
            assert cursor.fetchone() == (1,)
        writer.execute("COMMIT") if statement else writer.commit()
    writer.close()
    return reader.execute("SELECT count(*) FROM t").fetchone()[0]


with psycopg.connect(WHERE, autocommit=True) as reader:
    found = {
        "commit(), no pipeline": kept(reader, pipeline=False, fetch=True),
        "commit(), pipeline": kept(reader, pipeline=True, fetch=False),
        "commit(), pipeline, row fetched": kept(reader, pipeline=True, fetch=True),
        "COMMIT, pipeline, row fetched": kept(reader, pipeline=True, fetch=True, statement=True),
    }
print(f"psycopg {version('psycopg')}")
print("rows kept, expected: 1 each")
print("rows kept, seen:    ", found)
print("source: psycopg/_connection_base.py, _commit_gen: returns where transaction_status is IDLE")
sys.exit(list(found.values()) != [1, 1, 0, 1])
PYTHON
"$folder/venv/bin/python" "$folder/commit.py" "$folder"
