#!/usr/bin/env bash
# DuckDB 2.0.1: a Parquet file with one NULL in a column of type FLOAT[3] cannot be read by pyarrow.
#
# What: six rows of a number and three floats as ARRAY, as embeddings are kept, one of them NULL; and the same as LIST. Written to Parquet by
#   DuckDB, read by DuckDB, polars 2.1.0, DataFusion 55.0.0 and pyarrow 26.0.1.
# Guess: all read both. Parquet knows no lists of fixed size: it is a LIST there.
# Seen: all read the LIST, and all but pyarrow the ARRAY. For a NULL, DuckDB writes as many empty places as the array would have, which is no
#   Parquet: pyarrow says "Length spanned by list offsets (17) larger than values array (length 15)", and gives no row. Other columns of the
#   file it does give.
# For this project: `learner run` reads Parquet of others by datasets, which is pyarrow, and all columns of it: docs/learner.md says what helps,
#   `x::FLOAT[]` in DuckDB. Tables of records hold no lists.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 datafusion==55.0.0

cat > "$folder/null.py" <<'PYTHON'
from importlib.metadata import version

import datafusion
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

WANTED = [None if number == 1 else [number, number + 1.0, number + 2.0] for number in range(6)]
SQL = "SELECT i, CASE WHEN i <> 1 THEN [i, i + 1, i + 2]::{kind} END AS x FROM range(6) r(i) ORDER BY i"


def by_datafusion(path):
    context = datafusion.SessionContext()
    context.register_parquet("t", path)
    return context.sql("SELECT x FROM t ORDER BY i").to_pydict()["x"]


READERS = {
    "DuckDB": lambda path: [row[0] for row in duckdb.execute(f"SELECT x FROM '{path}' ORDER BY i").fetchall()],
    "polars": lambda path: pl.read_parquet(path)["x"].to_list(),
    "DataFusion": by_datafusion,
    "pyarrow": lambda path: pq.read_table(path)["x"].to_pylist(),
}


def read(reader, path):
    try:
        return READERS[reader](path)
    except pa.ArrowInvalid as error:
        return str(error)


names = ("duckdb", "pyarrow", "polars", "datafusion")
print(", ".join(f"{name} {version(name)}" for name in names))
seen = {}
for kind in ("FLOAT[]", "FLOAT[3]"):
    path = f"{len(kind)}.parquet"
    duckdb.execute(f"COPY ({SQL.format(kind=kind)}) TO '{path}' (FORMAT parquet)")
    for reader in READERS:
        seen[kind, reader] = read(reader, path)
        print(f"{kind:8} {reader + ':':11} expected {WANTED}")
        print(f"{'':20} seen     {seen[kind, reader]}")
beside = pq.read_table(path, columns=["i"])["i"].to_pylist()
print(f"the column beside it, by pyarrow: {beside}")
print("source: DuckDB, extension/parquet/writer/array_column_writer.cpp; duckdb/duckdb issue 24731")
for (kind, reader), found in seen.items():
    if (kind, reader) == ("FLOAT[3]", "pyarrow"):
        assert isinstance(found, str) and "list offsets" in found, f"changed: pyarrow reads {found}"
    else:
        assert [None if row is None else list(row) for row in found] == WANTED, f"changed: {reader} reads {found} of {kind}"
assert beside == list(range(6)), "changed: the column beside it"
print("as described")
PYTHON
cd "$folder" && venv/bin/python null.py
