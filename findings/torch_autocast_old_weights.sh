#!/usr/bin/env bash
# torch 2.14.1: within one torch.autocast block a layer goes on with the weights that it had at first, whatever is loaded or learned.
#
# What: a linear layer in bfloat16 on the CPU. Three sets of weights are loaded and evaluated in turn, and a regression is
#   learned for 30 steps, each with the autocast block around all of it and around each forward pass.
# Guess: the same numbers. The block chooses the types of operations; weights that change in place have a version counter,
#   by which autograd sees that.
# Seen: around all, each set of weights gives what the first one gave, under no_grad too, and the loss stays where it was
#   while the weights move. Autocast keeps the rounded copy of each leaf that requires a gradient, by its address, until
#   the outermost block ends, and asks for no version. With cache_enabled=False, or frozen weights, all is as guessed.
# For this project: the learner opens a block for each forward pass (learner/model/classifier.py), and holds frozen weights
#   as autocast would round them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import contextlib

import torch

torch.manual_seed(0)
INPUTS = torch.randn(64, 8)
TARGETS = INPUTS @ torch.randn(8, 1)


def block(cache=True):
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache)


def blocks(around, cache):
    """One block around all, or one for each pass."""
    return (block(cache), contextlib.nullcontext) if around == "all" else (contextlib.nullcontext(), block)


def evaluated(around, *, cache=True, frozen=False):
    """The sum of what the layer gives for weights of 1, 2 and 3."""
    layer = torch.nn.Linear(8, 1, bias=False).requires_grad_(not frozen)
    outer, inner = blocks(around, cache)
    sums = []
    with torch.no_grad(), outer:
        for value in (1.0, 2.0, 3.0):
            layer.load_state_dict({"weight": torch.full((1, 8), value)})
            with inner():
                sums.append(float(layer(torch.ones(1, 8)).sum()))
    return sums


def learned(around, *, cache=True):
    """The loss of the first and the last step, and that of the weights in the end."""
    layer = torch.nn.Linear(8, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    outer, inner = blocks(around, cache)
    losses = []
    with outer:
        for _ in range(30):
            with inner():
                loss = torch.nn.functional.mse_loss(layer(INPUTS).float(), TARGETS)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss))
    with torch.no_grad():
        last = float(torch.nn.functional.mse_loss(layer(INPUTS), TARGETS))
    return [round(value, 3) for value in (losses[0], losses[-1], last)]


sums = {
    "each pass": evaluated("pass"),
    "all": evaluated("all"),
    "all, cache_enabled=False": evaluated("all", cache=False),
    "all, frozen": evaluated("all", frozen=True),
}
losses = {
    "each pass": learned("pass"),
    "all": learned("all"),
    "all, cache_enabled=False": learned("all", cache=False),
}
print(f"torch {torch.__version__}")
print("expected: 8, 16 and 24 for the three sets of weights, and a loss that goes down, wherever the block is")
for around, seen in sums.items():
    print(f"seen:     block around {around}: {seen}")
for around, seen in losses.items():
    print(f"          block around {around}: loss at first {seen[0]}, in the last step {seen[1]}, of the weights then {seen[2]}")
print("source:   cached_cast in aten/src/ATen/autocast_mode.cpp: a cache by the tensor's address, cleared at the end of the")
print("          outermost block (torch/amp/autocast_mode.py, __exit__)")
for around, seen in sums.items():
    assert seen == ([8.0, 8.0, 8.0] if around == "all" else [8.0, 16.0, 24.0]), f"changed: evaluation, {around}: {seen}"
for around, (first, final, last) in losses.items():
    if around == "all":
        assert final == first and last > 2 * first, f"changed: learning, {around}"
    else:
        assert final < 0.1 * first, f"changed: learning, {around}"
print("as described")
PYTHON
