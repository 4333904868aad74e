#!/usr/bin/env bash
# torch 2.14.1: on a CPU, integers below some 260 million come from the lower half in 51.5 % of all draws.
#
# What: torch.randint over ranges about 2^28, and RandomSampler(replacement=True) over a data set of 260,301,048 rows: how often
#   the lower half of the range is drawn. numpy's Generator.integers for comparison.
# Guess: half of the time; what is drawn is uniform, as its documentation says.
# Seen: 51.5 % (30 standard deviations). A range below 2^28 is a remainder of 32 random bits, without drawing again: with 2^32 =
#   16.5 times the range each number of the lower half has 17 of them, and each of the upper half 16. From 2^28 on there are 64
#   bits, and no skew. It grows with the range: 0.1 % of a probability at 4 million, 6 % just below 2^28.
# For this project: which exemplars a draw gets is drawn with numpy, in the service and in the client alike. A sampler of torch over so
#   large a buffer is the user's, and docs/client.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
from itertools import islice

import numpy as np
import torch
from torch.utils.data import RandomSampler

UNEVEN = 2 * 2**32 // 33  # 2^32 is 16.5 times that
DRAWS = 1_000_000


def share(places, size):
    """How much of it is in the lower half, and by how many standard deviations that is no half."""
    lower = int((np.asarray(places) < size // 2).sum())
    return lower / len(places), abs(lower - len(places) / 2) / (len(places) / 4) ** 0.5


print(f"torch {torch.__version__}, numpy {np.__version__}")
print("expected: 0.500 in the lower half")
torch.manual_seed(0)
seen = {}
for size in (1_000_000, UNEVEN, 2**28, 2**29 + 2**28):
    seen[size] = share(torch.randint(size, (DRAWS,)), size)
    print(f"seen:     {seen[size][0]:.4f} of torch.randint below {size:,} ({seen[size][1]:.1f} standard deviations)")
sampler = RandomSampler(range(UNEVEN), replacement=True, num_samples=300_000)
sampled = share(list(islice(sampler, 300_000)), UNEVEN)
print(f"seen:     {sampled[0]:.4f} of RandomSampler over {UNEVEN:,} rows ({sampled[1]:.1f} standard deviations)")
theirs = share(np.random.default_rng(0).integers(UNEVEN, size=DRAWS), UNEVEN)
print(f"seen:     {theirs[0]:.4f} of numpy ({theirs[1]:.1f} standard deviations)")
print("source:   ATen/core/DistributionsHelper.h, uniform_int_from_to_distribution: 64 random bits from a range of 2^28 on, else 32;")
print("          ATen/core/TransformationHelper.h, uniform_int_from_to: the remainder")
assert 0.513 < seen[UNEVEN][0] < 0.517 and seen[UNEVEN][1] > 20, f"changed: {seen}"
assert 0.511 < sampled[0] < 0.519 and sampled[1] > 10, f"changed: {sampled}"
assert all(sigmas < 5 for size, (_, sigmas) in seen.items() if size != UNEVEN) and theirs[1] < 5, f"changed: {seen}"
print("as described")
PYTHON
