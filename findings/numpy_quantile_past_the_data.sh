#!/usr/bin/env bash
# numpy 2.4.6: the median of four int8 numbers from -90 to 70 is 118 by np.percentile, and -10 by np.median.
#
# What: four rows of int8, as quantised features are, with a gap of more than 127 between the two middle ones: quantiles 0, 0.25, 0.4, 0.5, 0.6, 0.75 and 1
#   of the rows, of one row, and of the same as int16, int64, float16 and float32; pandas and polars. Then int64 and
#   float16 with gaps beyond their own range.
# Guess: numbers between the smallest and the largest, whatever the type, as the answer is float64; or an error.
# Seen: where a quantile lies between two int8 numbers that are more than 127 apart, it is up to 128 beside them, and above the maximum: 118, 83.2.
#   Quantiles go up and down with q. One row and one q give a RuntimeWarning, rows and lists of q nothing. pandas' quantile(0.5) is 118,
#   too, and its median -10. np.median and polars are right. int64 and float16 do so as well, at gaps beyond their own range.
# For this project: stored arrays are float16, float32 or uint8, of which uint8 cannot; its quantiles are of float64 (benchmarks/density/run.py). Who keeps
#   int8 scores of their own takes quantiles of `values.astype(float)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pandas==3.1.1 polars==2.1.0

"$folder/venv/bin/python" -I -W error - <<'PYTHON'
import warnings

import numpy as np
import pandas as pd
import polars as pl

LEVELS = [0, 0.25, 0.4, 0.5, 0.6, 0.75, 1]
ROWS = np.array([[-90, -80, 60, 70], [-50, -20, 20, 50]], np.int8)
first = ROWS[0]
expected = np.quantile(ROWS.astype(float), LEVELS, axis=1).T
seen = np.quantile(ROWS, LEVELS, axis=1).T
print(f"numpy {np.__version__}, pandas {pd.__version__}, polars {pl.__version__}")
for row, right, found in zip(ROWS, expected, seen, strict=True):
    print(f"{row.tolist()}, quantiles {LEVELS}")
    print(f"    expected: {[round(value, 6) for value in right.tolist()]}")
    print(f"    seen:     {[round(value, 6) for value in found.tolist()]}, {found.dtype}")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    alone = float(np.quantile(first, 0.5))
messages = [str(warning.message) for warning in said]
others = {name: float(np.quantile(first.astype(name), 0.5)) for name in ("int16", "int64", "float16", "float32")}
of_pandas = float(pd.Series(first).quantile(0.5))
tools = {
    "np.median": float(np.median(first)),
    "pandas, median": float(pd.Series(first).median()),
    "polars": float(pl.Series(first).quantile(0.5, "linear")),
    "as uint8, with 128 added": float(np.quantile((first.astype(int) + 128).astype(np.uint8), 0.5)) - 128,
}
wide = np.array([[-(2**62) - 2**61, 2**62 + 2**61]] * 2)
half = np.array([[-40000, 40000]] * 2, np.float16)
with np.errstate(over="ignore"):
    of_wide, of_half = np.quantile(wide, 0.5, axis=1)[0], np.quantile(half, 0.5, axis=1)[0]
print(f"the quantile 0.5 of the first, expected -10; seen: {alone}, pandas {of_pandas}, with {messages}")
print(f"    as other types: {others}; {tools}")
print(f"the middle of {wide[0].tolist()}, expected 0.0; seen: {of_wide}")
print(f"the middle of float16 {half[0].tolist()}, expected 0.0; seen: {of_half}")
print("source: numpy/lib/_function_base_impl.py, _lerp: diff_b_a = b - a, in the type of the data")
assert (expected[1] == seen[1]).all(), f"changed: {seen[1]}"
assert seen[0].max() > first.max() and (np.diff(seen[0]) < 0).any(), f"changed: {seen[0]}"
assert alone == of_pandas == 118 and len(messages) == 1, f"changed: {alone}"
assert {*others.values(), *tools.values()} == {-10.0}, f"changed: {others} {tools}"
assert abs(of_wide) > 2**62 + 2**61 and np.isinf(of_half), f"changed: {of_wide} {of_half}"
print("as described")
PYTHON
