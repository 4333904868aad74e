#!/usr/bin/env bash
# datasets 5.2.0: with the format numpy or torch a slice has other numbers than its rows: float32, and -1 for 2^64 - 1.
#
# What: columns of float64 (seconds since 1970), uint64 and lists of float64, read as a row, a slice and a column, as numpy and as torch
#   tensors. `features` says float64 and uint64 throughout.
# Guess: the types of the features, as with no format, arrow, pandas and polars; or, for torch, at least the same for ds[0] and ds[:1].
# Seen: as numpy, ds[0]["t"] is the float64 it was, and ds[:1]["t"][0] is float32, 35 seconds off. uint64 is right in a row, and -1
#   in a slice. A list is float32 in a row, too. As torch all are float32 and int64. No warning, but `features` says float64.
#   with_format("numpy", dtype=...) gives one type for all columns.
# For this project: class ids and texts of such a data set are read without a format (learner/data/hub.py). Ids, seeds and
#   times that are kept in one come back whole as arrow, polars or pandas.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 polars==2.1.0

HF_HOME="$folder" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -I - <<'PYTHON'
import warnings

import datasets
import numpy as np

warnings.simplefilter("error")
SECONDS, ID, LOGIT = 1_764_500_003.5, 2**64 - 1, 0.1
rows = datasets.Dataset.from_dict({"t": [SECONDS, 0.0], "id": np.array([ID, 1], np.uint64), "logits": [[LOGIT], [0.0]]})
assert rows.features["t"] == datasets.Value("float64") and rows.features["id"] == datasets.Value("uint64")
assert rows[:1] == {"t": [SECONDS], "id": [ID], "logits": [[LOGIT]]}, "changed: no format"
polars = rows.with_format("polars")[:1]
assert polars.rows() == [(SECONDS, ID, [LOGIT])], "changed: polars"

arrays = rows.with_format("numpy")
row, piece, column = arrays[0], arrays[:1], {name: arrays[name][:] for name in rows.column_names}
print(f"datasets {datasets.__version__}, numpy {np.__version__}: {rows.features}")
print(f"expected: {SECONDS} and {ID} by row, slice and column; logits of float64")
for name, found in (("row", row), ("slice", {k: v[0] for k, v in piece.items()}), ("column", {k: v[0] for k, v in column.items()})):
    print(f"seen:     by {name + ':':8} {float(found['t'])} ({found['t'].dtype}), {int(found['id'])}, logits {found['logits'].dtype}")
print("source:   datasets/formatting/np_formatter.py, _tensorize: float32 and int64 for arrays, but np.number is handed on as it is;")
print("          torch_formatter.py has float32 and int64 likewise")
assert (float(row["t"]), int(row["id"])) == (SECONDS, ID), "changed: a row"
assert row["logits"].dtype == np.float32, "changed: a list in a row"
for found in (piece, column):
    assert (found["t"].dtype, found["id"].dtype) == (np.float32, np.int64), "changed: a slice or a column"
    assert abs(float(found["t"][0]) - SECONDS) > 30 and int(found["id"][0]) == -1, "changed: numbers"
print("as described")
PYTHON
