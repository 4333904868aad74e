#!/usr/bin/env bash
# torch 2.14.1: WeightedRandomSampler without replacement draws what has a weight of zero.
#
# What: 1,000 samples, 90 of them with a weight, are drawn from: 100 of them, without replacement.
# Guess: an error, since there are only 90, as numpy's choice and random.sample have it. A weight of 0 means never.
# Seen: the 90, and ten of weight 0 that nobody chose: mostly neighbours, as they are left over by a partial sort. Only more
#   draws than samples are an error.
# For this project: BufferDataset goes with torch's samplers, and the example gives them scores (docs/client.md). A draw by
#   score that the service makes is an error where fewer have a positive score (store/pure/sampler.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

SAMPLES, WITH_WEIGHT = 1000, 90
weights = torch.zeros(SAMPLES)
weights[torch.arange(WITH_WEIGHT) * 11] = 1.0


def of_no_weight(number, seed):
    """Which places of weight 0 are drawn."""
    sampler = WeightedRandomSampler(weights, number, replacement=False, generator=torch.Generator().manual_seed(seed))
    drawn = list(sampler)
    assert len(drawn) == len(set(drawn)) == number
    return sorted(place for place in drawn if not weights[place])


print(f"torch {torch.__version__}: 100 of {SAMPLES} samples, {WITH_WEIGHT} of which have a weight")
print("expected: an error")
seen = [of_no_weight(100, seed) for seed in range(5)]
for seed, places in enumerate(seen[:2]):
    print(f"seen:     seed {seed}: {places} have weight 0")
try:
    np.random.default_rng(0).choice(SAMPLES, 100, replace=False, p=weights.double().numpy() / WITH_WEIGHT)
except ValueError as error:
    print(f"          numpy {np.__version__}: {error}")
else:
    raise AssertionError("changed: numpy draws what has no weight")
print("source:   multinomial_out in aten/src/ATen/native/Distributions.cpp: the largest of weight / exponential number, where")
print("          those of weight 0 are all equal and last; torch.multinomial asks for enough weights and looks at none")
assert all(len(places) == 10 for places in seen), f"changed: {seen}"
assert of_no_weight(WITH_WEIGHT, 0) == []
print("as described")
PYTHON
