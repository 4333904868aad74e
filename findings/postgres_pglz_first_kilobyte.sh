#!/usr/bin/env bash
# PostgreSQL's own compression gives up at a kilobyte of random bytes, whatever comes behind it.
#
# What: bytea values of 1 MiB of zeros and n random bytes, once before the zeros and once behind them, with PostgreSQL 15.18's
#   default compression (pglz), and with lz4. pg_column_size tells the stored size.
# Guess: the zeros shrink to some kilobytes wherever the random bytes are.
# Seen: with pglz, 900 random bytes in front: 13 kB are stored. 1,000 in front: 1 MiB, not compressed at all. 1,000 behind: 13 kB.
#   With lz4 5 kB in each case. pglz gives a value up where its first 1,024 bytes of output hold no repeat.
# For this project: a row of headers in the index shrinks by what its first kilobyte looks like. Bodies are compressed before
#   they get there. Who sets default_toast_compression = lz4 pays for neither.
# Needs: a PostgreSQL server's programs (Debian: postgresql), 14 or newer, with lz4 as Debian has it.
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

cat > "$folder/stored.py" <<'PYTHON'
import random
import sys

import psycopg

ZEROS = bytes(1 << 20)
noise = random.Random(0)

with psycopg.connect(f"host={sys.argv[1]} user=postgres dbname=postgres", autocommit=True) as connection:
    server = connection.execute("SHOW server_version").fetchone()[0]
    found = {}
    for method in ("pglz", "lz4"):
        connection.execute(f"SET default_toast_compression = {method}")
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (value bytea)")
        for length in (900, 1000):
            part = noise.randbytes(length)
            for where, value in (("in front", part + ZEROS), ("behind", ZEROS + part)):
                connection.execute("INSERT INTO t VALUES (%s)", (value,))
                stored = connection.execute("SELECT pg_column_size(value) FROM t").fetchone()[0]
                connection.execute("TRUNCATE t")
                found[method, length, where] = stored
print(f"PostgreSQL {server}")
print("expected: some kilobytes each")
for (method, length, where), stored in found.items():
    print(f"seen:     {method}, {length:5} random bytes {where:8} 1 MiB of zeros: {stored:9,} bytes stored")
print("source:   src/common/pg_lzcompress.c: first_success_by of strategy_default_data is 1,024, 'Give up if no compression")
print("          in the first 1KB'")
raw = {key for key, stored in found.items() if stored >= len(ZEROS)}
assert raw == {("pglz", 1000, "in front")}, f"changed: {raw}"
assert all(stored < 20_000 for key, stored in found.items() if key not in raw), "changed: sizes"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/stored.py" "$folder"
