#!/usr/bin/env bash
# pyarrow 26.0.1: a partition column of 64-bit ids is read as int32, or as text as soon as one id needs more.
#
# What: rows with an int64 column of ids, written by `write_dataset` in directories like `run=7`, and read by `dataset(..., partitioning="hive")`
#   and `read_table`; then one row more, of the id 2^31. DuckDB 2.0.1 and polars 2.1.0 read the same directories.
# Guess: int64, as written, or as narrow as fits: an id is a number for every reader, and a filter `run == 7` finds its row.
# Seen: int32 while all ids are below 2^31. With one above, all are text: the filter that found the row before raises an error, ids sort
#   as "10", "7", and both tables cannot be put together. Ids with leading zeros lose them, as long as all are digits. `partitioning(schema,
#   flavor="hive")` with the type mends it. DuckDB and polars read int64.
# For this project: what identifies a record is a column in each Parquet file, never in its name (docs/format.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.dataset as datasets
import pyarrow.parquet as parquet

folder = Path(sys.argv[1])


def written(name, ids):
    where = folder / name
    table = pyarrow.table({"run": ids, "row": range(len(ids))})
    datasets.write_dataset(table, where, format="parquet", partitioning=["run"], partitioning_flavor="hive")
    return where


def read(where):
    return datasets.dataset(where, partitioning="hive").to_table().sort_by("row")


def of_run_7(where):
    try:
        return datasets.dataset(where, partitioning="hive").to_table(filter=datasets.field("run") == 7).num_rows
    except pyarrow.ArrowNotImplementedError as error:
        return f"ArrowNotImplementedError: {error}"


small, large = written("small", [7, 10]), written("large", [7, 10, 2**31])
print(f"pyarrow {pyarrow.__version__}, DuckDB {duckdb.__version__}, polars {polars.__version__}; expected: numbers, and one row of run 7, each time")
seen = {}
for where in (small, large):
    column = read(where)["run"]
    seen[where.name] = {
        "dataset": f"{column.type} {column.to_pylist()}",
        "read_table": str(parquet.read_table(where).schema.field("run").type.value_type),
        "run == 7": of_run_7(where),
        "sorted": sorted(column.to_pylist()),
        "DuckDB": str(duckdb.sql(f"SELECT run FROM read_parquet('{where}/**/*.parquet')").types[0]),
        "polars": str(polars.scan_parquet(where, hive_partitioning=True).collect_schema()["run"]),
    }
    print(f"seen: {where.name}: " + "; ".join(f"{name}: {what}" for name, what in seen[where.name].items()))
try:
    together = f"{pyarrow.concat_tables([read(small), read(large)]).num_rows} rows"
except pyarrow.ArrowInvalid as error:
    together = "ArrowInvalid"
digits = read(written("digits", ["0007", "10"]))["run"].to_pylist()
schema = datasets.partitioning(pyarrow.schema([("run", pyarrow.int64())]), flavor="hive")
told = datasets.dataset(large, partitioning=schema)
print(f"seen: both tables together: {together}; the texts 0007 and 10: {digits}")
print(f"seen: told the type: {told.schema.field('run').type}, run 7 has {told.count_rows(filter=datasets.field('run') == 7)} row")
print("source: KeyValuePartitioningFactory.InsertRepr and DoInspect in cpp/src/arrow/dataset/partition.cc: a field is int32 where each of its values")
print("        can be read as one, and else text")
assert seen["small"]["dataset"] == "int32 [7, 10]", f"changed: {seen['small']}"
assert seen["large"]["dataset"] == "string ['7', '10', '2147483648']", f"changed: {seen['large']}"
assert [seen[name]["read_table"] for name in seen] == ["int32", "string"], "changed: read_table"
assert seen["small"]["run == 7"] == 1 and str(seen["large"]["run == 7"]).startswith("ArrowNotImplementedError"), "changed: the filter"
assert seen["large"]["sorted"] == ["10", "2147483648", "7"], "changed: the order"
assert {seen[name][reader] for name in seen for reader in ("DuckDB", "polars")} == {"BIGINT", "Int64"}, "changed: DuckDB or polars"
assert together == "ArrowInvalid", f"changed: {together}"
assert digits == [7, 10], f"changed: {digits}"
assert told.schema.field("run").type == pyarrow.int64() and told.count_rows(filter=datasets.field("run") == 7) == 1, "changed: told the type"
print("as described")
PYTHON
