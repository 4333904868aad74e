#!/usr/bin/env bash
# datasets 5.2.0: a mask of booleans gives the rows 1 and 0 over and over, in place of the rows that it marks.
#
# What: ten rows, and a mask that marks three of them, as a list and as an array of numpy, given to ds[mask], ds.select(mask) and ds["x"][mask];
#   the same mask with the formats numpy, pandas and polars.
# Guess: the three rows, as numpy, pandas and polars give them; or an error, as `datasets` knows positions only.
# Seen: ten rows, of which three are row 1 and seven row 0, without a word. With any format. A list given to select() by itself is an error, as
#   pyarrow wants integers. np.flatnonzero(mask) gives the rows that were meant.
# For this project: which exemplars are kept is a mask in many places of it, always numpy's; of `datasets` it takes columns and single rows
#   (learner/data/hub.py). Who thins out a data set before it writes np.flatnonzero; docs/learner.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 polars==2.1.0

HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -I -W error - <<'PYTHON'
import datasets
import numpy as np

ROWS = datasets.Dataset.from_dict({"x": list(range(100, 110))})
MASK = np.isin(np.arange(10), (2, 5, 9))
MEANT = [102, 105, 109]
TAKEN = [101 if marked else 100 for marked in MASK]


def try_it(take):
    try:
        return [int(value) for value in take()]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


ways = {
    "ds[list]": lambda: ROWS[MASK.tolist()]["x"],
    "ds[array]": lambda: ROWS[MASK]["x"],
    "ds['x'][list]": lambda: ROWS["x"][MASK.tolist()],
    "ds['x'][array]": lambda: ROWS["x"][MASK],
    "ds.select(list)": lambda: ROWS.select(MASK.tolist())["x"],
    "ds.select(array)": lambda: ROWS.select(MASK)["x"],
    "format numpy, ds[array]": lambda: ROWS.with_format("numpy")[MASK]["x"],
    "format pandas, ds[array]": lambda: ROWS.with_format("pandas")[MASK]["x"],
    "format polars, ds[array]": lambda: ROWS.with_format("polars")[MASK]["x"],
}
print(f"datasets {datasets.__version__}, numpy {np.__version__}; marked are {MEANT}")
print(f"expected: {MEANT} or an error")
seen = {name: try_it(take) for name, take in ways.items()}
for name, found in seen.items():
    print(f"seen: {name:25} {found}")
positions = list(ROWS.select(np.flatnonzero(MASK))["x"])
print(f"seen: np.flatnonzero(mask)      {positions}")
print("source: datasets/formatting/formatting.py, _query_table: np.fromiter(key, np.int64); arrow_dataset.py, select(): pa.array(..., type=pa.uint64())")
assert seen.pop("ds.select(list)").startswith("ArrowTypeError"), "changed: select(list)"
assert all(found == TAKEN for found in seen.values()), f"changed: {seen}"
assert positions == MEANT, "changed: positions"
print("as described")
PYTHON
