#!/usr/bin/env bash
# torch 2.14.1: clip_grad_norm_ of float16 gradients makes all of them 0 once their norm is above 65,504.
#
# What: a layer of 100,000 float16 weights with gradients of 300 each, whose norm is 94,868, clipped to 1.0 and to 100; the same in
#   bfloat16 and float32, and in float16 in four layers.
# Guess: the norm is summed in float32 and handed out so; or it is infinite, and the gradients NaN or an error. Not a step of nothing.
# Seen: the norm is inf, and max_norm / inf is 0, so every gradient is 0, finite, and the step changes nothing but by momentum and
#   weight decay. A check for finite gradients behind it finds nothing. So it is with four layers that have a finite norm each.
# For this project: what is trained is float32, also where products are bfloat16 (learner/model/classifier.py), and so are the gradients that
#   learner/training/train.py clips.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import torch
from torch import nn

COUNT, EACH = 100_000, 300.0


def clipped(dtype, layers, foreach, most=100.0):
    """The norm that is returned, and the largest gradient behind it."""
    parameters = [nn.Parameter(torch.zeros(COUNT // layers, dtype=dtype)) for _ in range(layers)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, EACH)
    norm = float(nn.utils.clip_grad_norm_(parameters, most, foreach=foreach))
    return norm, max(float(parameter.grad.abs().max()) for parameter in parameters)


true = EACH * COUNT**0.5
print(f"torch {torch.__version__}: {COUNT:,} gradients of {EACH}, clipped to a norm of 100")
print(f"expected: a norm of {true:,.0f}, gradients of {EACH * 100 / true:.3f}")
seen = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for layers in (1, 4):
        seen[dtype, layers] = clipped(dtype, layers, None)
        assert clipped(dtype, layers, True) == seen[dtype, layers], "changed: foreach differs"
        print(f"seen:     a norm of {seen[dtype, layers][0]:,.0f}, gradients of {seen[dtype, layers][1]:.3f} ({dtype}, {layers} layers)")
print("source:   torch/nn/utils/clip_grad.py: the norms are of the gradients' type, and the factor is max_norm / (norm + 1e-6)")
assert all(found == (float("inf"), 0.0) for (dtype, _), found in seen.items() if dtype == torch.float16), f"changed: {seen}"
assert all(0.31 < found[1] < 0.32 for (dtype, _), found in seen.items() if dtype != torch.float16), f"changed: {seen}"
print("as described")
PYTHON
