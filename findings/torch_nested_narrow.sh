#!/usr/bin/env bash
# torch 2.14.1: sum, mean and maximum over all of a narrowed nested tensor count what was cut away.
#
# What: torch.nested.narrow with the jagged layout takes 3, 2 and 4 numbers of three rows of eight; sum, mean, max and amin over all of it,
#   of its clone, and of contiguous(); by hand for comparison.
# Guess: those of the nine numbers. Or an error, as along one dimension ("not supported for non-contiguous nested tensors").
# Seen: those of all 24. unbind() gives the nine, exp() and clone() keep the view, and so the wrong sum; contiguous() has the right one.
# For this project: what has different lengths is padded, with a mask of what is valid (client/tensors.py), and reduced with the mask.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import torch

STARTS, LENGTHS = [1, 0, 2], [3, 2, 4]
padded = torch.arange(24.0).view(3, 8)
rows = torch.nested.narrow(padded, 1, torch.tensor(STARTS), torch.tensor(LENGTHS), layout=torch.jagged)
own = torch.cat([row[start : start + length] for row, start, length in zip(padded, STARTS, LENGTHS)])
ASKED = {"sum": lambda x: x.sum(), "mean": lambda x: x.mean(), "max": lambda x: x.max(), "amin": lambda x: x.amin()}

print(f"torch {torch.__version__}: {[row.tolist() for row in rows.unbind()]} of rows of eight")
assert torch.equal(torch.cat(rows.unbind()), own), "changed: unbind"
for name, ask in ASKED.items():
    right, seen, cloned, packed = (float(ask(x)) for x in (own, rows, rows.clone(), rows.contiguous()))
    print(f"{name}: expected {right:g}; seen {seen:g}, of its clone {cloned:g}, of contiguous() {packed:g}")
    assert seen == cloned == float(ask(padded)) and packed == right, f"changed: {name}"
    assert seen != right, f"changed: {name}"
assert float(rows.exp().sum()) == float(padded.exp().sum()), "changed: exp"
try:
    rows.sum(dim=1)
except RuntimeError as error:
    print(f"sum(dim=1): {str(error).splitlines()[0]}")
else:
    raise AssertionError("changed: sum along the ragged dimension")
print("source: torch/nested/_internal/ops.py: sum_default, mean_default and others reduce all values; lengths are not looked at")
print("as described")
PYTHON
