#!/usr/bin/env bash
# torch 2.14.1: fused optimisers on a CPU take a gradient of another layout than its parameter's for other numbers.
#
# What: a parameter whose axes are swapped before it is flattened, as a convolution's that is used as a linear map of patches. Its
#   gradient by torch.autograd.grad is given to `.grad` as it comes, for one step of Adam, AdamW, SGD and Adagrad, fused=True or not.
# Guess: the same step. The gradient has the shape and the numbers of the parameter, and every other function of torch heeds strides;
#   on CUDA it is an error about the layout (pytorch/pytorch#106951).
# Seen: fused, each number of the gradient moves another number of the parameter, and nothing is said. `backward()` lays gradients out as
#   their parameters before it hands them over; `autograd.grad` does not.
# For this project: a training step adds up the gradients of several threads (learner/training/train.py), in tensors that are laid
#   out as their parameters. A test of what training learns failed; all tests of gradients passed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import sys

import torch

INPUTS = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, -3.0])
EXPECTED = [[-1, -1, -1], [1, 1, 1]]


def moved(kind, fused, laid_out=False):
    """Which way each number of the parameter went."""
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = kind([weight], lr=0.1, fused=fused)
    (gradient,) = torch.autograd.grad(weight.T.flatten() @ INPUTS, [weight])
    assert gradient.shape == weight.shape and gradient.stride() != weight.stride()
    assert torch.sign(-gradient).tolist() == EXPECTED
    weight.grad = gradient.contiguous() if laid_out else gradient
    optimizer.step()
    return weight.detach().sign().int().tolist()


print(f"torch {torch.__version__}: a step by a gradient that is positive in the first row and negative in the second")
print(f"expected: the parameter moves by {EXPECTED}")
as_described = True
for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    plain, fused, laid_out = moved(kind, False), moved(kind, True), moved(kind, True, laid_out=True)
    print(f"seen:     {kind.__name__}: {plain}; fused {fused}; fused, the gradient made contiguous {laid_out}")
    as_described &= plain == laid_out == EXPECTED != fused
print("source:   aten/src/ATen/native/cpu/Fused{Adam,SGD,Adagrad}Kernel.cpp of pytorch/pytorch: data_ptr and numel, no stride is asked for")
sys.exit(0 if as_described else "changed")
PYTHON
echo "as described"
