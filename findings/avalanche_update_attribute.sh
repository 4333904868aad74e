#!/usr/bin/env bash
# Avalanche 0.6.0: update_data_attribute() of an attribute that is there already shows the old values.
#
# What: a data set with an attribute `targets` is asked for a copy with other targets, as the method's text offers:
#   "Return a new dataset with the added or replaced data attribute". The copy's `targets` are read, and those of its
#   subset.
# Guess: the new values in both.
# Seen: the copy has the old values; a subset or a concatenation of it has the new ones. So what a class-balanced buffer
#   counts of a data set is not what it counts of a part of it.
# For this project: learner/adapters/avalanche.py marks samples by an attribute of a name that no data set has, and never
#   replaces one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    avalanche-lib==0.6.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from avalanche.benchmarks.utils import DataAttribute, make_avalanche_dataset
from torch.utils.data import TensorDataset

data = make_avalanche_dataset(
    TensorDataset(torch.zeros(3, 1)), data_attributes=[DataAttribute([0, 1, 2], "targets")]
)
replaced = data.update_data_attribute("targets", [7, 8, 9])
seen, of_subset = list(replaced.targets), list(replaced.subset([0, 1, 2]).targets)
print(f"avalanche-lib {version('avalanche-lib')}: targets [0, 1, 2] replaced by [7, 8, 9]")
print("expected: [7, 8, 9], and the same of a subset of all")
print(f"seen:     {seen}, and {of_subset} of a subset of all")
print("source:   avalanche/benchmarks/utils/data.py, AvalancheDataset.update_data_attribute: the attribute of the object")
print("          is set only where it has none of that name")
assert seen == [0, 1, 2], f"changed: {seen}"
assert of_subset == [7, 8, 9], f"changed: {of_subset}"
print("as described")
PYTHON
