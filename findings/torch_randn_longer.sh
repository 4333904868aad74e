#!/usr/bin/env bash
# torch 2.14.1, on a CPU: with the same seed the 16 numbers of randn(16) and the first 16 of randn(17) have one in common.
#
# What: randn, rand, randint and exponential_ of n and of n + 1 numbers, each from the same seed; two calls of 8 and one of 16; a
#   matrix and its transpose, filled by normal_; and rand(1) behind them.
# Guess: a generator gives one number after another, so more of them begin alike, as with numpy, and as randint and rand do it.
# Seen: up to 15 numbers randn does. From 16 on normal numbers are made in blocks of 16, by pairs eight places apart, and the last 16
#   are drawn once more: randn(17) keeps the first number of randn(16), randn(33) the first 17 of randn(32). 8 and 8 are not 16.
#   A tensor that does not lie in one piece gets other numbers than one that does. The generator stands elsewhere, too.
# For this project: a head's new rows begin at zero or at means (learner/model/classifier.py), and orders are drawn by numpy. What is drawn
#   by randn has one size (learner/model/backbones/parts.py), so no class's start hangs on how many classes there are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import torch

DRAWN = {
    "randn": torch.randn,
    "rand": torch.rand,
    "randint": lambda count: torch.randint(0, 1000, (count,)),
    "exponential_": lambda count: torch.empty(count).exponential_(),
    "numpy": lambda count: torch.from_numpy(np.random.default_rng(0).standard_normal(count)),
}


def seeded(draw):
    torch.manual_seed(0)
    return draw()


def in_common(draw, count):
    """How many of the first numbers stay when one more is drawn."""
    fewer, more = seeded(lambda: draw(count)), seeded(lambda: draw(count + 1))
    return int((fewer == more[:count]).long().cumprod(0).sum())


print(f"torch {torch.__version__}: of n numbers, those with which n + 1 begin")
found = {}
for name, draw in DRAWN.items():
    found[name] = {count: in_common(draw, count) for count in (8, 14, 15, 16, 32, 100)}
    print(f"expected: all; seen: {found[name]} ({name})")
halves = seeded(lambda: torch.cat([torch.randn(8), torch.randn(8)]))
whole = seeded(lambda: torch.randn(16))
in_one_piece = seeded(lambda: torch.empty(4, 8).normal_())
turned = seeded(lambda: torch.empty(8, 4).t().normal_())
behind = [seeded(lambda count=count: (torch.randn(count), torch.rand(1)))[1].item() for count in (16, 17)]
print(f"          8 and 8 are 16: {torch.equal(halves, whole)}; a matrix as its transpose: {torch.equal(in_one_piece, turned)}")
print("source:   aten/src/ATen/native/cpu/DistributionTemplates.h, normal_fill: from 16 numbers on, in one piece; 'Recompute the last 16")
print("          values'")
for name in ("rand", "randint", "exponential_", "numpy"):
    assert all(kept == count for count, kept in found[name].items()), f"changed: {name} {found[name]}"
assert found["randn"] == {8: 8, 14: 14, 15: 0, 16: 1, 32: 17, 100: 84}, f"changed: {found['randn']}"
assert not torch.equal(halves, whole) and not torch.equal(in_one_piece, turned), "changed: halves or transpose"
assert behind[0] != behind[1]
print("as described")
PYTHON
