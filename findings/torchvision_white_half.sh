#!/usr/bin/env bash
# torchvision 0.29.1, torch 2.14.1: white pixels of a float16 or bfloat16 picture become black uint8.
#
# What: the 256 grey levels as shares of 1 in float32, float16 and bfloat16, turned into uint8 by v2's to_dtype(scale=True) and by
#   convert_image_dtype.
# Guess: each comes back, or the next level where the type is too coarse; 1.0 is 255 in any case.
# Seen: float32 gives all 256. In float16 and bfloat16 1.0 comes back as 0, and so do the levels that round to it; float16 has 16
#   wrong levels, bfloat16 128. No error, no warning. The product with 255.999 is made in the picture's own type, where it is 256, and
#   256 wraps.
# For this project: pictures stay uint8 until a backbone normalises them in float32 (learner/model/backbones/vilt.py), and nothing goes back.
#   Who augments under autocast and stores what came out of it turns it into float32 first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import warnings

import torch
import torchvision
from torchvision.transforms import functional as first
from torchvision.transforms.v2 import functional as second

warnings.simplefilter("error")
WAYS = {
    "to_dtype": lambda picture: second.to_dtype(picture, torch.uint8, scale=True),
    "convert_image_dtype": lambda picture: first.convert_image_dtype(picture, torch.uint8),
}
levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
print("expected: 0 and 255 come back in every type")
seen = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    picture = levels.float().div(255).to(dtype)
    assert picture.max() == 1 and picture.min() == 0
    for name, way in WAYS.items():
        back = way(picture)
        seen[dtype, name] = (int(back.flatten()[0]), int(back.flatten()[255]), int((back != levels).sum()))
        print("seen:     {1:>9} by {0}: black {2}, white {3}, {4} of 256 levels wrong".format(name, str(dtype)[6:], *seen[dtype, name]))
print("source:   torchvision/transforms/v2/functional/_misc.py, to_dtype_image: image.mul(max_value + 1.0 - eps).to(dtype), eps 1e-3;")
print("          _functional_tensor.py, convert_image_dtype, has the same")
for (dtype, name), found in seen.items():
    assert found == {torch.float32: (0, 255, 0), torch.float16: (0, 0, 16), torch.bfloat16: (0, 0, 128)}[dtype], f"changed: {dtype}, {name}"
print("as described")
PYTHON
