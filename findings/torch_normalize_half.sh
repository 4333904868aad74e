#!/usr/bin/env bash
# torch 2.14.1: F.normalize of a zero vector is zero in float32, float64 and bfloat16, and NaN in float16.
#
# What: normalize, cosine_similarity and cosine_embedding_loss of vectors of zeros, in each type; layer_norm and rms_norm with an eps of
#   1e-12 for comparison.
# Guess: zero: the eps of 1e-12, or 1e-8, is there for that, and the others do their work in float32.
# Seen: NaN in float16 alone. The eps is rounded to the vector's type, where it is 0: the smallest float16 is 6e-8. layer_norm and
#   rms_norm are 0 in all types. One sample without features makes its loss, and all weights, NaN.
# For this project: autocast is bfloat16, never float16, and features are float32 before a head normalizes them
#   (learner/model/classifier.py). Who trains in float16 on a card without bfloat16 does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import torch
import torch.nn.functional as F

ASKED = {
    "normalize": lambda zeros: F.normalize(zeros),
    "normalize, p=1": lambda zeros: F.normalize(zeros, p=1),
    "cosine_similarity": lambda zeros: F.cosine_similarity(zeros, torch.ones_like(zeros)),
    "cosine_embedding_loss": lambda zeros: F.cosine_embedding_loss(zeros, torch.ones_like(zeros), -torch.ones(len(zeros))),
    "layer_norm": lambda zeros: F.layer_norm(zeros, zeros.shape[1:], eps=1e-12),
    "rms_norm": lambda zeros: F.rms_norm(zeros, zeros.shape[1:], eps=1e-12),
}
print(f"torch {torch.__version__}, vectors of zeros")
found = {}
for name, ask in ASKED.items():
    for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        found[name, kind] = float(ask(torch.zeros(2, 4, dtype=kind)).flatten()[0])
    print(f"expected: 0 in all; seen: {[found[name, kind] for kind in (torch.float64, torch.float32, torch.bfloat16)]}, ", end="")
    print(f"and {found[name, torch.float16]} in float16 ({name})")
print(f"          1e-12 as float16: {torch.tensor(1e-12).half().item()}, as bfloat16: {torch.tensor(1e-12).bfloat16().item():.1e}")
print("source:   torch/nn/functional.py, normalize: input.norm(...).clamp_min(eps), in the type of the input")
nan = {key for key, value in found.items() if value != value}
names = {"normalize", "normalize, p=1", "cosine_similarity", "cosine_embedding_loss"}
assert nan == {(name, torch.float16) for name in names}, f"changed: {nan}"
print("as described")
PYTHON
