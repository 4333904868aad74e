#!/usr/bin/env bash
# timm 1.0.31: the attn_mask of a ViT does not reach its pooling; hidden patches are in the answer all the same.
#
# What: VisionTransformer with each kind of pooling, on two pictures that differ in their lower half only. attn_mask
#   hides the patches of that half from all.
# Guess: the answers are equal: what nobody may look at has no influence.
# Seen: they are with global_pool="token" only. "avg", "avgmax" and "max" take the mean or maximum over hidden patches too,
#   and the attention pooling "map" looks at them. No error, no warning.
# For this project: masked patches are not in the sequence at all (learner/backbones), so nothing pools them. A backbone of
#   one's own that hides them by a mask needs the class token, or a pooling that is told.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    timm==1.0.31 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

SIDE, PATCH = 64, 16
POOLINGS = ("token", "avg", "avgmax", "max", "map")
PREFIX = 1
torch.manual_seed(0)
first = torch.randn(1, 3, SIDE, SIDE)
second = first.clone()
second[:, :, SIDE // 2 :] = torch.randn(1, 3, SIDE // 2, SIDE)
num_patches = (SIDE // PATCH) ** 2
visible = torch.ones(1, 1, PREFIX + num_patches, PREFIX + num_patches, dtype=torch.bool)
visible[..., PREFIX + num_patches // 2 :] = False


def differences(pooling):
    """Largest difference of the answers, with the mask and without."""
    model = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, embed_dim=48, depth=2, num_heads=3, num_classes=5, global_pool=pooling
    ).eval()
    with torch.no_grad():
        return [float((model(first, attn_mask=mask) - model(second, attn_mask=mask)).abs().max()) for mask in (visible, None)]


seen = {pooling: differences(pooling) for pooling in POOLINGS}
print(f"timm {timm.__version__}, torch {torch.__version__}")
print("expected: no difference with the mask")
for pooling, (hidden, open_) in seen.items():
    print(f"seen:     {pooling}: difference {hidden:.2g} with the mask, {open_:.2g} without")
print("source:   timm/models/vision_transformer.py, VisionTransformer.forward: attn_mask goes to forward_features;")
print("          forward_head and pool take none")
for pooling, (hidden, open_) in seen.items():
    assert open_ > 1e-4, f"{pooling}: the pictures do not differ"
    assert (hidden == 0) == (pooling == "token"), f"changed: {pooling}: {hidden}"
print("as described")
PYTHON
