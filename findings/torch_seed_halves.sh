#!/usr/bin/env bash
# torch 2.14.1: on a CPU, seeds that differ only above bit 31 give the same numbers.
#
# What: generators with the seeds 7, 7 + 2^32 and 7 + 2^62, and with -1 and 2^32 - 1: their uniform and normal numbers, a permutation,
#   and the order of a DataLoader. numpy's default_rng with the same seeds for comparison.
# Guess: manual_seed takes 64 bits, initial_seed() gives them back, and the engine has a state of 2.5 KB: other seeds, other numbers.
# Seen: the engine is set up from the lower 32 bits alone. Hence there are 2^32 streams: of 77,000 seeds drawn from 64 bits, two are
#   alike as likely as not. Seeds of which the upper half counts runs or ranks are all alike.
# For this project: seeds of a purpose, phase and rank are hashed, so that their lower half differs too (learner/run/setup.py,
#   learner/training/train.py); never shifted together.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import numpy as np
import torch
from torch.utils.data import DataLoader

PAIRS = [(7, 7 + 2**32), (7, 7 + 2**62), (2**32 - 1, -1)]


def drawn(seed):
    """What a generator with that seed gives, in four ways."""
    new = lambda: torch.Generator().manual_seed(seed)  # noqa: E731
    loader = DataLoader(range(50), shuffle=True, generator=new())
    ways = {"rand": torch.rand(4, generator=new()), "randn": torch.randn(20, generator=new())}
    ways["randperm"] = torch.randperm(50, generator=new())
    ways["DataLoader"] = torch.cat(list(loader))
    return ways


print(f"torch {torch.__version__}, numpy {np.__version__}")
print("expected: other numbers, as from numpy")
for one, other in PAIRS:
    first, second = drawn(one), drawn(other)
    same = [way for way in first if torch.equal(first[way], second[way])]
    print(f"seen:     {one} and {other}: {first['rand'].tolist()[:2]} and {second['rand'].tolist()[:2]}; the same: {same}")
    assert len(same) == 4, f"changed: only {same}"
    assert torch.Generator().manual_seed(one).initial_seed() != torch.Generator().manual_seed(other).initial_seed()
    theirs = [np.random.default_rng(seed % 2**64).random() for seed in (one, other)]
    assert theirs[0] != theirs[1], "changed: numpy"
near = drawn(8)
assert not any(torch.equal(values, near[way]) for way, values in drawn(7).items()), "changed: 7 and 8 are alike"
print("source:   ATen/core/MT19937RNGEngine.h, init_with_uint32: the first word of the state is the seed & 0xffffffff")
print("as described")
PYTHON
