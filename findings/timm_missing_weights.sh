#!/usr/bin/env bash
# timm 1.0.31: with another number of classes, a file that lacks a block's weights loads without a word.
#
# What: create_model(..., pretrained=True, pretrained_cfg_overlay={"file": ...}) of a file from which one block's attention
#   was taken out; with the file's number of classes, and with num_classes=0, as everybody does who wants features.
# Guess: the first raises an error that names the weights, and so does the second: only the classifier is another one.
# Seen: the first does. The second returns a model whose block has random weights; no error, no warning.
# For this project: a file is loaded as one of a model without classes, which is strict (learner/model/backbones).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    timm==1.0.31 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

FOLDER="$folder" "$folder/venv/bin/python" -I - <<'PYTHON'
import os
import warnings

import timm
import torch

LACKS = "blocks.3.attn.qkv.weight"
path = os.path.join(os.environ["FOLDER"], "weights.pth")
state = timm.create_model("test_vit").state_dict()
trained = state.pop(LACKS)
torch.save(state, path)


def loaded(**options):
    """What came of it: an error, warnings, or whether the missing weights are those that were trained."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay={"file": path}, **options)
        except RuntimeError as error:
            return f"error that names them: {LACKS in str(error)}", len(caught)
    return f"a model, its {LACKS} as trained: {torch.equal(model.state_dict()[LACKS], trained)}", len(caught)


print(f"timm {timm.__version__}, torch {torch.__version__}")
print(f"expected: an error that names {LACKS}, whatever the number of classes")
same, other = loaded(), loaded(num_classes=0)
print(f"seen:     as many classes as in the file: {same[0]}")
print(f"seen:     num_classes=0: {other[0]}, {other[1]} warnings")
print("source:   timm/models/_builder.py, load_pretrained: another number of classes sets strict = False for all weights,")
print("          and missing ones are told by logging.info alone")
assert same[0] == "error that names them: True", "changed: as many classes"
assert other == (f"a model, its {LACKS} as trained: False", 0), "changed: num_classes=0"
print("as described")
PYTHON
