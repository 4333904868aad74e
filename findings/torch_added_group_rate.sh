#!/usr/bin/env bash
# torch 2.14.1: parameters that join an optimizer behind a warm-up end at ten times the rate that they were given.
#
# What: an optimizer with a rate of 1.0, a scheduler over it, one step; then add_param_group with a rate of 1.0, as for a head that has
#   grown, and the steps that are left. The rates of both groups at the end, for each scheduler of torch.
# Guess: the new group follows the schedule from its own rate: both end alike. Or an error, as it was not there at the start.
# Seen: the schedulers that go on from the rate that is there multiply it by what is left of the rise: after LinearLR(0.1 to 1) the new
#   group has 4.7, or 10 if it joins before the first step; after ConstantLR(0.5) it has 2. Four others raise ValueError or KeyError at
#   the next step, not when it joins. Four do what one thinks.
# For this project: each phase has an optimizer and a schedule of its own (learner/training/loop.py, one_cycle), made when the head
#   has grown. Nothing joins later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import torch
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

STEPS = 8
MADE = {
    "LinearLR": lambda optimizer: schedulers.LinearLR(optimizer, 0.1, 1.0, STEPS),
    "ConstantLR": lambda optimizer: schedulers.ConstantLR(optimizer, 0.5, 4),
    "ChainedScheduler": lambda optimizer: schedulers.ChainedScheduler([schedulers.LinearLR(optimizer, 0.1, 1.0, STEPS)]),
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, 4, 0.5),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, STEPS),
    "PolynomialLR": lambda optimizer: schedulers.PolynomialLR(optimizer, STEPS),
    "ReduceLROnPlateau": lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=4),
    "LambdaLR": lambda optimizer: schedulers.LambdaLR(optimizer, lambda step: 0.9**step),
    "MultiplicativeLR": lambda optimizer: schedulers.MultiplicativeLR(optimizer, lambda step: 0.9),
    "CosineAnnealingWarmRestarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, STEPS),
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, 1.0, STEPS + 1),
}


def rates(name, join_at):
    """The rates of the first group and of the one that joins before that step, at the end; or the error."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = MADE[name](optimizer)
    try:
        for step in range(STEPS):
            if step == join_at:
                optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0})
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    except (ValueError, KeyError) as error:
        return type(error).__name__
    return tuple(round(float(group["lr"]), 2) for group in optimizer.param_groups)


print(f"torch {torch.__version__}: rates of the first group and of one that joins with 1.0, behind {STEPS} steps")
print("expected: both are alike, but for what the first has come down by before; or an error")
found = {}
for name in MADE:
    found[name] = (rates(name, 0), rates(name, 1))
    print(f"seen:     {name}: {found[name][0]} if it joins at the start, {found[name][1]} after a step")
print("source:   torch/optim/lr_scheduler.py: get_lr of LinearLR and ConstantLR multiplies the rate in each group by the quotient of two")
print("          steps; LambdaLR and others zip the groups with base_lrs, which has none for the new one")
assert found["LinearLR"][0] == (1.0, 10.0) and found["LinearLR"][1][1] > 4, f"changed: {found}"
assert found["ConstantLR"] == ((1.0, 2.0), (1.0, 2.0)), f"changed: {found}"
assert found["ChainedScheduler"][0] == (1.0, 10.0), f"changed: {found}"
assert {name for name, (first, _) in found.items() if isinstance(first, str)} == {*list(MADE)[7:]}, f"changed: {found}"
print("as described")
PYTHON
