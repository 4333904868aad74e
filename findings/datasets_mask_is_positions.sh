#!/usr/bin/env bash
# datasets 5.2.0: a mask gives the rows 1 and 0 over and over, and positions given to filter(batched=True) the first rows.
#
# What: ten rows, and a mask that marks three of them, as a list and as an array of numpy, given to ds[mask], ds.select(mask) and ds["x"][mask];
#   the same mask with the formats numpy, pandas and polars. The other way round, the marked rows' positions to filter(batched=True), which wants a mask.
# Guess: the three rows, as numpy, pandas and polars give them; or an error, as `datasets` knows positions only. Of filter() an
#   error, as three answers are too few for ten rows.
# Seen: ten rows, of which three are row 1 and seven row 0, without a word. With any format. A list given to select() by itself is an error, as
#   pyarrow wants integers. np.flatnonzero(mask) gives the rows that were meant. filter() gives the
#   first three rows: each answer but 0 is true, and the rows that have none are left out.
# For this project: which exemplars are kept is a mask in many places of it, always numpy's; of `datasets` it takes columns and single rows
#   (learner/data/hub.py). Who thins out a data set before it writes np.flatnonzero; docs/learner.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 polars==2.1.0

HF_HOME="$folder/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" -I -W error - <<'PYTHON'
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
filtered = {
    "a mask": list(ROWS.filter(lambda rows: np.isin(rows["x"], MEANT), batched=True)["x"]),
    "positions": list(ROWS.filter(lambda rows: np.flatnonzero(np.isin(rows["x"], MEANT)), batched=True)["x"]),
}
print(f"seen: np.flatnonzero(mask)      {positions}")
print(f"seen: filter(batched=True)      {filtered}")
print("source: datasets/formatting/formatting.py, _query_table: np.fromiter(key, np.int64); arrow_dataset.py, select(): pa.array(..., type=pa.uint64());")
print("        get_indices_from_mask_function: the positions i of zip(indices, answers) whose answers are true")
assert seen.pop("ds.select(list)").startswith("ArrowTypeError"), "changed: select(list)"
assert all(found == TAKEN for found in seen.values()), f"changed: {seen}"
assert positions == MEANT, "changed: positions"
assert filtered == {"a mask": MEANT, "positions": [100, 101, 102]}, f"changed: {filtered}"
print("as described")
PYTHON
