#!/usr/bin/env bash
# fastparquet 2026.9.0: a digest that ends with a zero byte comes back shorter, and times in seconds as a half-hour of 1970.
#
# What: a Parquet file of pyarrow 26.0.1 with 16-byte digests (fixed_len_byte_array), a date beyond 2262 and lists of lists, read by fastparquet; and
#   a data frame of pandas 3.1.1 with a column datetime64[s], written by fastparquet and read by pyarrow.
# Guess: the same values, or an error where a type is not known.
# Seen: zero bytes at a digest's end are cut off, so one of 256 has 15 bytes, and one of all zeros none: they pass through numpy's dtype S, which
#   fills up with zeros. 9999-12-31 is 1816-03-29. Lists of lists are None. Seconds are to become milliseconds, and are divided by 1,000
#   for it: 2026-12-01 is 1970-01-01 00:29:56. Nothing is said of any of it.
# For this project: bodies and other bytes in exports are of variable length, which fastparquet reads well, and there are no dates and no lists
#   (docs/format.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6

cat > "$folder/read.py" <<'PYTHON'
import datetime
from importlib.metadata import version

import fastparquet
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

DIGESTS = [bytes(range(1, 17)), bytes(range(1, 16)) + b"\0", bytes(16)]
DAYS = [datetime.date(2026, 12, 1), datetime.date(9999, 12, 31), None]
LISTS = [[[1]], [], None]
TABLE = pa.table(
    {
        "digest": pa.array(DIGESTS, pa.binary(16)),
        "bytes": pa.array(DIGESTS, pa.binary()),
        "day": pa.array(DAYS, pa.date32()),
        "lists": pa.array(LISTS, pa.list_(pa.list_(pa.int8()))),
    }
)
pq.write_table(TABLE, "arrow.parquet")
frame = fastparquet.ParquetFile("arrow.parquet").to_pandas()
digests, plain, lists = (frame[name].tolist() for name in ("digest", "bytes", "lists"))
day = frame["day"][1].date()
now = pd.Timestamp("2026-12-01T00:00:00")
written = {}
for unit in ("s", "ms", "us", "ns"):
    fastparquet.write("pandas.parquet", pd.DataFrame({"time": pd.Series([now]).astype(f"datetime64[{unit}]")}))
    written[unit] = pq.read_table("pandas.parquet")["time"][0].as_py()
names = ("fastparquet", "pandas", "pyarrow", "numpy")
print(", ".join(f"{name} {version(name)}" for name in names))
print(f"bytes of digests: expected [16, 16, 16], seen {list(map(len, digests))}; of variable length: {list(map(len, plain))}")
print(f"day:              expected {DAYS[1]}, seen {day}")
print(f"lists of lists:   expected {LISTS}, seen {lists}")
for unit, time in written.items():
    print(f"datetime64[{unit}]:  expected {now}, seen {time}")
print("source: fastparquet, core.py: fixed_len_byte_array into numpy's 'S'; converted_types.py: dates into datetime64[ns];")
print("        writer.py: seconds are divided by the factor that they are to be multiplied with")
assert digests == [DIGESTS[0], DIGESTS[1][:15], b""], f"changed: {digests}"
assert plain == DIGESTS, f"changed: variable length, {plain}"
assert day == datetime.date(1816, 3, 29), f"changed: {day}"
assert lists == [None, None, None], f"changed: {lists}"
assert written["s"] == datetime.datetime(1970, 1, 1, 0, 29, 56, 83000), f"changed: {written['s']}"
assert all(written[unit] == now for unit in ("ms", "us", "ns")), f"changed: {written}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python -W ignore read.py
