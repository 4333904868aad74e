#!/usr/bin/env bash
# torch 2.14.1: a uint8 tensor that holds 255 equals -1, nothing in it is below 256, and clamp(min=-1) makes 255 of all.
#
# What: comparisons of uint8 and uint32 tensors with Python numbers that their type does not have, clamp, maximum, where and
#   masked_fill; numpy 2.4.6 for comparison.
# Guess: compared as numbers, as Python and numpy do it; and what cannot be stored is an error, as in numpy, and as clamp(max=300) is.
# Seen: the number is turned into the tensor's type first, without a check of a comparison's bounds: == -1 finds 255, == 300 finds 44, < 256 is
#   False and > -1 too. Negative numbers pass the check that others do not: clamp(min=-1) and where(..., -1) give 255. isin with a
#   number is wrong and with a tensor right.
# For this project: pictures and masks are uint8 here, and class ids unsigned. No -1 marks anything in them, and what is compared with them is
#   of their range (client/tensors.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import numpy as np
import torch

VALUES = [0, 44, 200, 255]
ASKED = {
    "x == -1": lambda x: x == -1,
    "x == 300": lambda x: x == 300,
    "x < 256": lambda x: x < 256,
    "x > -1": lambda x: x > -1,
    "x.clip(-1, None)": lambda x: x.clip(-1, None),
    "x.clip(None, 300)": lambda x: x.clip(None, 300),
}
FOUND = {
    "x == -1": [False, False, False, True],
    "x == 300": [False, True, False, False],
    "x < 256": [False] * 4,
    "x > -1": [False] * 4,
    "x.clip(-1, None)": [255] * 4,
    "x.clip(None, 300)": "RuntimeError",
}


def answer(ask, values):
    try:
        return ask(values).tolist()
    except (RuntimeError, OverflowError) as error:
        return type(error).__name__


print(f"torch {torch.__version__}, numpy {np.__version__}: uint8 {VALUES}")
ours, theirs = torch.tensor(VALUES, dtype=torch.uint8), np.array(VALUES, dtype=np.uint8)
for text, ask in ASKED.items():
    print(f"{text}: expected {answer(ask, theirs)} (numpy), seen {answer(ask, ours)}")
    assert answer(ask, ours) == FOUND[text], f"changed: {text}"
    assert answer(ask, theirs) != FOUND[text], f"changed: {text} of numpy"
large = torch.from_numpy(np.array([0, 2**32 - 1], dtype=np.uint32))
print(f"uint32 [0, 2**32 - 1] == -1: seen {(large == -1).tolist()}")
assert (large == -1).tolist() == [False, True], "changed: uint32"
assert torch.where(ours > 100, ours, -1).tolist() == [255, 255, 200, 255], "changed: where"
assert ours.masked_fill(ours > 100, -1).tolist() == [0, 44, 255, 255], "changed: masked_fill"
assert torch.isin(ours, -1).tolist() == [False, False, False, True], "changed: isin with a number"
assert torch.isin(ours, torch.tensor([-1])).tolist() == [False] * 4, "changed: isin with a tensor"
assert (ours == torch.tensor([-1])).tolist() == [False] * 4, "changed: a tensor with a dimension"
print("source:   ATen/native/BinaryOps.cpp and TensorIterator: a wrapped number does not raise the type of a tensor with dimensions, and is")
print("          cast to it; the check of overflow, c10/util/TypeCast.h and overflows(), lets what is negative pass for unsigned types")
print("as described")
PYTHON
