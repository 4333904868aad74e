#!/usr/bin/env bash
# polars 2.1.0: the mean of two uint8 columns that hold 255 is 127; and a uint64 column + (-1) has nulls where there was a number.
#
# What: two equal columns of each whole type's highest value, added up, averaged and multiplied by row and by column; and
#   -1 added to 2^63 + 1 as uint64. pyarrow 26.0.1 and pandas 3.1.1 for the mean.
# Guess: a mean lies between its least and its largest number. mean_horizontal is a float, as mean is, and computed in floats. Adding
#   what does not fit is an error, as it is in fill_null(-1), or goes round.
# Seen: mean_horizontal of 255 and 255 is 127.0, of 127 and 127 as int8 -1.0: the row is added up in the columns' own type first, up to
#   64 bits. sum_horizontal and dot go round likewise, where sum() and mean() of a column do not. uint64 + (-1) becomes int64, and
#   what does not fit there is null; fill_null(-1), coalesce and when-otherwise raise for the same numbers.
# For this project: an exported table has grid_h, grid_w and patch_px as uint8 (docs/format.md, Other readers): their product is
#   computed after a cast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import pandas
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

print(f"polars {pl.__version__}, pyarrow {pa.__version__}, pandas {pandas.__version__}")
outside = set()
for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64):
    most = int(np.iinfo(kind).max)
    column = np.array([most, most], kind)
    frame = pl.DataFrame({"a": column, "b": column})
    mean, added, dot = frame.mean_horizontal()[0], frame.sum_horizontal()[0], frame["a"].dot(frame["b"])
    others = (frame["a"].mean(), pc.mean(pa.array(column)).as_py(), float(pandas.DataFrame({"a": column, "b": column}).mean(axis=1)[0]))
    assert all(abs(one / most - 1) < 1e-6 for one in others), f"changed: {others}"
    print(f"{kind.__name__:6} {most}: expected a mean of {float(most):g} (as by column, pyarrow, pandas); seen {mean:g}; ", end="")
    print(f"sum_horizontal {added}, dot {dot}")
    if abs(mean / most - 1) > 1e-6:
        outside.add(kind)
ids = pl.DataFrame({"id": pl.Series([1, 2**63 + 1], dtype=pl.UInt64)})
less = ids.select(pl.col("id") + (-1)).to_series()
try:
    ids.select(pl.col("id").fill_null(-1))
    raised = "nothing"
except pl.exceptions.InvalidOperationError as error:
    raised = type(error).__name__
print(f"uint64 [1, 2^63 + 1] + (-1): expected {[0, 2**63]} or an error; seen {less.to_list()} ({less.dtype}); fill_null(-1): {raised}")
print("source: polars: mean_horizontal is sum_horizontal over the number of columns, in the columns' type; a whole number in an expression")
print("        with uint64 makes int64 of both where it is negative, by a cast that gives null for what does not fit")
assert outside >= {np.uint8, np.int8, np.uint16, np.int16}, f"changed: {outside}"
assert pl.DataFrame({"a": pl.Series([255], dtype=pl.UInt8), "b": pl.Series([255], dtype=pl.UInt8)}).mean_horizontal()[0] == 127
assert less.to_list() == [0, None] and raised == "InvalidOperationError", f"changed: {less}, {raised}"
print("as described")
PYTHON
