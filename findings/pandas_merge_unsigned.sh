#!/usr/bin/env bash
# pandas 3.1.1: `merge` of a uint64 and an int64 column gives an id the row of its neighbour, without a word.
#
# What: three ids as uint64, 2^53, 2^53 + 1 and 5, as hashes and keys of databases are, and a table with notes on 2^53 + 1 and 5, whose ids are
#   int64, as pandas makes whole numbers. Joined by pandas, polars 2.1.0, DuckDB 2.0.1 and pyarrow 26.0.1. isin() and == of the same columns.
# Guess: two partners, or an error for types that no integer holds both of. polars and DuckDB have an integer of 128 bits for it.
# Seen: pandas finds three: the note on 2^53 + 1 is that of 2^53, too. Both columns are compared as float64, which does not tell the two apart, and
#   there is no warning, as there is for integers with floats. isin() has it right, and so has Index.get_indexer. pyarrow refuses.
# For this project: ids of an export are uint64 and count from 1, so that float64 holds them (docs/format.md). Who joins them with hashes of their own
#   gives both columns one type first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pandas==3.1.1 numpy==2.4.6 polars==2.1.0 duckdb==2.0.1 pyarrow==26.0.1

cat > "$folder/joined.py" <<'PYTHON'
import warnings
from importlib.metadata import version

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

BIG = 2**53 + 1
rows = pa.table({"id": pa.array([BIG - 1, BIG, 5], pa.uint64()), "row": ["2^53", "2^53 + 1", "5"]})
notes = pa.table({"id": pa.array([BIG, 5], pa.int64()), "note": ["on 2^53 + 1", "on 5"]})
EXPECTED = [("2^53 + 1", "on 2^53 + 1"), ("5", "on 5")]


def by_pandas():
    joined = rows.to_pandas().merge(notes.to_pandas(), on="id")
    return list(zip(joined["row"], joined["note"], strict=True))


def by_polars():
    return pl.from_arrow(rows).join(pl.from_arrow(notes), on="id").select("row", "note").rows()


def by_duckdb():
    with duckdb.connect() as connection:
        connection.register("r", rows)
        connection.register("n", notes)
        return connection.execute("SELECT row, note FROM r JOIN n ON r.id = n.id").fetchall()


def by_pyarrow():
    try:
        return rows.join(notes, "id").num_rows
    except pa.ArrowInvalid as error:
        return str(error)


with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    seen = {ask.__name__[3:]: ask() for ask in (by_pandas, by_polars, by_duckdb, by_pyarrow)}
    frame, other = rows.to_pandas(), notes.to_pandas()
    found = frame["id"].isin(other["id"]).tolist()
names = ("pandas", "numpy", "polars", "duckdb", "pyarrow")
print(", ".join(f"{name} {version(name)}" for name in names))
for name, partners in seen.items():
    print(f"{name + ':':9} expected {EXPECTED}")
    print(f"{'':9} seen     {partners if isinstance(partners, str) else sorted(partners)}")
print(f"isin: {found}; warnings: {[str(warning.message) for warning in warned]}")
print("source: pandas, core/reshape/merge.py, _convert_arrays_and_get_rizer_klass: find_common_type of int64 and uint64, which is float64")
assert sorted(seen["pandas"]) == sorted([("2^53", "on 2^53 + 1"), *EXPECTED]), f"changed: pandas {seen['pandas']}"
assert sorted(seen["polars"]) == sorted(seen["duckdb"]) == EXPECTED, f"changed: {seen}"
assert isinstance(seen["pyarrow"], str), f"changed: pyarrow {seen['pyarrow']}"
assert found == [False, True, True], f"changed: isin {found}"
assert not warned, f"changed: pandas warns: {warned[0].message}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python joined.py
