#!/usr/bin/env bash
# torch 2.14.1: a DataLoader's batch of Python numbers is float32 or float64 by its first row, and drops keys of later rows.
#
# What: rows with a Python number each, 0 or 0.1 (a soft label, a score), in batches of two by a DataLoader as it is made by
#   default. Then rows that are dictionaries, of which only the second has a key "mask".
# Guess: one type for all batches. For the key a KeyError, as there is one where the second row lacks a key.
# Seen: [0, 0.1] is float32 and [0.1, 0] float64, so that shuffling changes the type, and a loss fails or loses digits in some
#   steps. The key that the first row lacks is gone without a word.
# For this project: its data sets give arrays with types of their own, and rows with the same keys. Who adds numbers to them for
#   torch's default_collate adds floats, and where a row has none, a value that says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import torch
from torch.utils.data import DataLoader

soft = [0, 0.1, 0.1, 0, 0.1, 0.2]
batches = list(DataLoader(soft, batch_size=2))
(rows,) = DataLoader([{"label": 1}, {"label": 2, "mask": 7}], batch_size=2)
try:
    list(DataLoader([{"label": 1, "mask": 7}, {"label": 2}], batch_size=2))
    lacking = "no error"
except KeyError as error:
    lacking = repr(error)

print(f"torch {torch.__version__}")
print(f"rows {soft}, expected: three batches of one type")
print(f"seen: {[(soft[2 * number : 2 * number + 2], batch.dtype) for number, batch in enumerate(batches)]}")
print(f"a key that the second row lacks: {lacking}; one that the first row lacks: keys {sorted(rows)}")
print("source: torch/utils/data/_utils/collate.py: collate_float_fn gives dtype=torch.float64, collate_int_fn none, chosen by")
print("        the type of the first row; of mappings the keys of the first row are taken")
assert [batch.dtype for batch in batches] == [torch.float32, torch.float64, torch.float64], "changed: types"
assert sorted(rows) == ["label"], "changed: keys"
assert lacking == "KeyError('mask')", f"changed: {lacking}"
print("as described")
PYTHON
