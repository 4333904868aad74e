#!/usr/bin/env bash
# numpy 2.4.6: np.unique counts NaN once, but with an axis it gives each row with a NaN by itself, whatever equal_nan says.
#
# What: four numbers, two of them NaN, and four rows, two of them (NaN, 1) and two (0, 1) and (-0, 1), with equal_nan=True, which is the
#   default, and False.
# Guess: equal_nan means the same with an axis: (NaN, 1) is one row. With False two.
# Seen: two rows with both. The argument is passed over, without a word: rows are compared as records, and a record with a NaN is
#   equal to none. 0 and -0 are one, with and without an axis.
# For this project: different features are counted so, of unit length and without NaN (learner/memory/selection.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np

numbers = np.array([np.nan, 0.0, np.nan, -0.0])
rows = np.stack([numbers, np.ones(4)], axis=1)
print(f"numpy {np.__version__}: {numbers.tolist()}, and the rows {rows.tolist()}")
found = {}
for equal_nan in (True, False):
    alone, by_row = np.unique(numbers, equal_nan=equal_nan), np.unique(rows, axis=0, equal_nan=equal_nan)
    found[equal_nan] = (len(alone), len(by_row))
    expected = 2 if equal_nan else 3
    print(f"expected: {expected} and {expected}; seen: {len(alone)} numbers, {len(by_row)} rows (equal_nan={equal_nan})")
print("source:   numpy/lib/_arraysetops_impl.py, _unique1d: NaN are looked for where the type is float, complex or a time, and a row is")
print("          a structured type")
assert found == {True: (2, 3), False: (3, 3)}, f"changed: {found}"
print("as described")
PYTHON
