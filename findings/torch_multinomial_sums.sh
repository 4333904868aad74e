#!/usr/bin/env bash
# torch 2.14.1: on a CPU, torch.multinomial draws from ten million equal float32 weights some a third more often than others.
#
# What: torch.multinomial with replacement from 10,000,000 weights of 0.1, as float32 and as float64, and of 1.0; the share of each
#   tenth of the weights. Categorical with such probabilities, and WeightedRandomSampler, for comparison.
# Guess: each tenth has 10 %, within 0.1. Weights are normalised, so their scale says nothing.
# Seen: in float32 tenths have 8.6 to 11.5 %. The cumulative weights are one running sum in the type of the weights: from some
#   thousands on, 0.1 is added as 0.09375, 0.125 or what else is left of it. With weights of 1.0 all sums are exact. In float64 it is right;
#   WeightedRandomSampler turns weights into float64.
# For this project: shares of a draw are computed in float64 by numpy. For draws of one's own, docs/client.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
from itertools import islice

import torch
from torch.utils.data import WeightedRandomSampler

WEIGHTS, DRAWS = 10_000_000, 1_000_000


def tenths(places):
    return [round(float(share), 4) for share in torch.bincount(places // (WEIGHTS // 10), minlength=10) / len(places)]


def even(shares):
    return max(abs(share - 0.1) for share in shares) < 0.002


print(f"torch {torch.__version__}: {DRAWS:,} draws from {WEIGHTS:,} equal weights, the share of each tenth")
print("expected: 0.1 of each, within 0.002")
torch.manual_seed(0)
tenth = torch.full((WEIGHTS,), 0.1)
seen = {
    "float32, 0.1": tenths(torch.multinomial(tenth, DRAWS, replacement=True)),
    "float32, 1.0": tenths(torch.multinomial(torch.ones(WEIGHTS), DRAWS, replacement=True)),
    "float64, 0.1": tenths(torch.multinomial(tenth.double(), DRAWS, replacement=True)),
    "WeightedRandomSampler": tenths(torch.tensor(list(islice(WeightedRandomSampler(tenth, DRAWS), DRAWS)))),
    "Categorical, 0.1": tenths(torch.distributions.Categorical(tenth).sample((DRAWS,))),
}
for name, shares in seen.items():
    print(f"seen:     {shares} ({name})")
print("source:   ATen/native/cpu/MultinomialKernel.cpp, multinomial_with_replacement_apply: a sum of scalar_t, one weight after the other")
assert not even(seen["float32, 0.1"]) and max(seen["float32, 0.1"]) / min(seen["float32, 0.1"]) > 1.25, "changed: float32"
assert not even(seen["Categorical, 0.1"]), "changed: Categorical"
assert all(even(seen[name]) for name in ("float32, 1.0", "float64, 0.1", "WeightedRandomSampler")), "changed: what was right"
print("as described")
PYTHON
