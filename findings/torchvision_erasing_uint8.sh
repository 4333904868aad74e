#!/usr/bin/env bash
# torchvision 0.29.1, torch 2.14.1: RandomErasing(value="random") fills a uint8 picture with black and white, nearly nothing between.
#
# What: RandomErasing with value="random", of v2 and of v1, on a grey picture as uint8 and as float32.
# Guess: random pixels: noise over 0..255, or an error, as for other things that v2 cannot do with uint8.
# Seen: as float32 standard normal noise, for pictures that are normalised. As uint8 the same numbers, cut to whole ones: two thirds are 0,
#   negative ones wrap (on x86) to 255 and 254, and of the levels from 5 to 250 there is none. No error, no warning.
# For this project: its own augmentations drop patches and never fill them with noise (learner/training/augment.py). Adapters hand out
#   uint8: erase behind the normalisation, or with a number for value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import warnings

import torch
import torchvision
from torchvision.transforms import RandomErasing, v2

warnings.simplefilter("error")
GREY = 128
picture = torch.full((3, 128, 128), GREY, dtype=torch.uint8)
print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
print("expected: pixels of all levels in what was erased, or an error")
torch.manual_seed(0)
for name, kind in (("v2", v2.RandomErasing), ("v1", RandomErasing)):
    erase = kind(p=1, scale=(0.2, 0.3), value="random")
    erased = erase(picture)
    filled = erased[erased != GREY]
    assert filled.dtype == torch.uint8 and len(filled) > 5000
    middle = ((filled > 4) & (filled < 251)).float().mean()
    print(f"seen:     {name}, uint8: {filled.unique().tolist()}; {100 * (filled == 0).float().mean():.0f} % are 0")
    normal = erase(picture.float())
    noise = normal[normal != GREY]
    print(f"          {name}, float32: mean {noise.mean():.2f}, deviation {noise.std():.2f}")
    assert middle == 0, f"changed: {name}, levels between"
    # Elsewhere than on x86 negative ones may become 0, too.
    assert 0.6 < (filled == 0).float().mean() < 0.9, f"changed: {name}, share of 0"
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1, f"changed: {name}, float32"
print("source:   torchvision/transforms/v2/_augment.py, RandomErasing: torch.empty(..., dtype=torch.float32).normal_(), which erase() writes")
print("          into a clone of the picture")
print("as described")
PYTHON
