#!/usr/bin/env bash
# numpy 2.4.6: np.fromstring(text, dtype, sep=" ") turns a number that does not fit into another one, without a word.
#
# What: text of whole numbers, read with np.fromstring in its text mode, which is not the deprecated binary mode.
# Guess: a number outside the type is an error, as with np.array and np.loadtxt.
# Seen: of 64 bits it becomes the nearest that fits, of fewer it loses its high bits: "300" as uint8 is 44.
#   -1 as an unsigned number is an error, and so is everything that is no number.
# For this project: the store (store/rows.py, read_buffers) reads ids and versions so, as uint64. Those are the
#   index's own and have at most 63 bits; what comes from outside must be judged before it is read in this way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import warnings

import numpy as np

warnings.simplefilter("error")
READERS = {
    "np.fromstring": lambda text, dtype: np.fromstring(text, dtype, sep=" ")[0],
    "np.loadtxt": lambda text, dtype: np.loadtxt([text], dtype=dtype, ndmin=1)[0],
    "np.array": lambda text, dtype: np.array([text], dtype=dtype)[0],
    "np.array of int": lambda text, dtype: np.array([int(text)], dtype=dtype)[0],
}
CASES = (
    ("300", np.uint8, 44),
    ("4294967296", np.uint32, 0),
    ("18446744073709551616", np.uint64, 2**64 - 1),
    ("9223372036854775808", np.int64, 2**63 - 1),
)


def read(name, text, dtype):
    try:
        return int(READERS[name](text, dtype))
    except (OverflowError, ValueError) as error:
        return type(error).__name__


print(f"numpy {np.__version__}")
print("expected: an error, as from the others")
for text, dtype, _ in CASES:
    print(f"seen:     {text} as {dtype.__name__}:", ", ".join(f"{name} {read(name, text, dtype)}" for name in READERS))
print("          -1 as uint64: np.fromstring", read("np.fromstring", "-1", np.uint64))
print("source:   numpy/_core/src/multiarray/arraytypes.c.src, the functions @fname@_fromstr: strtol and the like, whose")
print("          ERANGE nobody asks for, and a cast to the smaller type; the documentation of np.fromstring says nothing")
for text, dtype, value in CASES:
    for name in READERS:
        seen = read(name, text, dtype)
        if name == "np.fromstring":
            assert seen == value, f"changed: np.fromstring makes {seen} of {text} as {dtype.__name__}"
        else:
            assert isinstance(seen, str), f"changed: {name} makes {seen} of {text} as {dtype.__name__}"
assert read("np.fromstring", "-1", np.uint64) == "ValueError", "changed: -1 is taken as unsigned"
print("as described")
PYTHON
