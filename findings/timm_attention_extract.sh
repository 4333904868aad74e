#!/usr/bin/env bash
# timm 1.0.31: AttentionExtract by hooks gives an empty dictionary for a ViT as it is made by default.
#
# What: timm's own tool for attention maps on a VisionTransformer, by its two methods, without further settings, after
#   set_fused_attn(False), and on a model that is made after that.
# Guess: one map of each block; a fused kernel that forms no map would be switched off, or be an error.
# Seen: hooks give {}: the fused kernel passes the hooked module by. method="fx" raises an error of names that were not
#   found. set_fused_attn(False) changes nothing for a model that is there, since each block asked when it was made.
# For this project: maps that nobody made must be noticed. The capture switches the kernel off in the block itself and
#   fails where nothing was caught (learner/model/vit.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    timm==1.0.31 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import timm
import torch
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract

BLOCKS, TOKENS = 2, 17


def made():
    return VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=BLOCKS, num_heads=3, num_classes=5).eval()


def maps(model, method):
    """Number of the maps that are caught; each is checked."""
    try:
        with torch.no_grad():
            caught = AttentionExtract(model, method=method)(torch.zeros(1, 3, 64, 64))
    except RuntimeError as error:
        return str(error)
    assert all(found.shape == (1, 3, TOKENS, TOKENS) for found in caught.values())
    return len(caught)


before = made()
seen = {("as made", method): maps(before, method) for method in ("hook", "fx")}
set_fused_attn(False)
seen |= {("after set_fused_attn(False)", method): maps(before, method) for method in ("hook", "fx")}
after = made()
seen |= {("made after it", method): maps(after, method) for method in ("hook", "fx")}
print(f"timm {timm.__version__}, torch {torch.__version__}: a ViT of {BLOCKS} blocks")
print(f"expected: {BLOCKS} maps, or an error that speaks of the fused kernel")
for (case, method), number in seen.items():
    print(f"seen:     {case}, {method}: {number}")
print("source:   timm/utils/attention_extract.py, AttentionExtract.forward gives what the hooks have; timm/layers/attention.py,")
print("          Attention.__init__ asks use_fused_attn() once, and forward passes attn_drop by where it is true")
for case in ("as made", "after set_fused_attn(False)"):
    assert seen[case, "hook"] == 0, f"changed: {case}, hook"
    assert "No node names found" in str(seen[case, "fx"]), f"changed: {case}, fx"
assert seen["made after it", "hook"] == seen["made after it", "fx"] == BLOCKS, "changed: made after it"
print("as described")
PYTHON
