#!/usr/bin/env bash
# torch 2.14.1: a sequence that is all padding: 0 in training, NaN without gradients, NaN with weights, from one layer.
#
# What: nn.MultiheadAttention and nn.TransformerEncoderLayer on a batch in which key_padding_mask hides all of one
#   sequence: a sample without a word.
# Guess: the same from one layer for the same input: NaN, as a softmax over nothing gives, or zeros, always.
# Seen: with need_weights=False zeros where gradients are recorded and in training; in eval() under no_grad() NaN. With
#   need_weights=True always NaN. An encoder layer trains well, and its first evaluation is NaN. The encoder around it
#   makes nested tensors in eval(), and gives zeros for all of that sequence, through the last layer's norm even.
# For this project: no mask hides everything: a record keeps a patch at least, and the class tokens are never hidden.
#   The learner's attention is its own (learner/model/backbones/block.py), one for training and evaluation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import warnings

import torch
from torch import nn

# Nested tensors say that they are a prototype.
warnings.filterwarnings("ignore", message=".*nested tensors.*")
torch.manual_seed(0)
inputs = torch.randn(2, 5, 16)
hidden = torch.tensor([[False] * 5, [True] * 5])
attention = nn.MultiheadAttention(16, 2, batch_first=True)
layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
MODULES = {
    "attention, need_weights=False": (attention, lambda: attention(inputs, inputs, inputs, hidden, need_weights=False)[0]),
    "attention, need_weights=True": (attention, lambda: attention(inputs, inputs, inputs, hidden, need_weights=True)[0]),
    "encoder layer": (layer, lambda: layer(inputs, src_key_padding_mask=hidden)),
}
encoder = nn.TransformerEncoder(layer, 1)
MODULES["encoder of one layer"] = (encoder, lambda: encoder(inputs, src_key_padding_mask=hidden))


def kind(name, train, gradients):
    module, call = MODULES[name]
    module.train(train)
    with torch.set_grad_enabled(gradients):
        whole, nothing = call()
    assert whole.isfinite().all()
    return "NaN" if nothing.isnan().all() else "0" if not nothing.any() else "numbers"


MODES = {"train": (True, True), "eval": (False, True), "eval, no_grad": (False, False)}
seen = {name: [kind(name, *mode) for mode in MODES.values()] for name in MODULES}
print(f"torch {torch.__version__}")
print("expected: the same for", ", ".join(MODES))
for name, kinds in seen.items():
    print(f"seen:     {name}:", ", ".join(f"{mode} {value}" for mode, value in zip(MODES, kinds)))
print("source:   torch/nn/functional.py, multi_head_attention_forward: need_weights takes softmax, else")
print("          scaled_dot_product_attention, which gives 0 for a row that sees nothing; torch/nn/modules/activation.py and")
print("          transformer.py: without gradients _native_multi_head_attention and _transformer_encoder_layer_fwd")
assert seen == {
    "attention, need_weights=False": ["0", "0", "NaN"],
    "attention, need_weights=True": ["NaN", "NaN", "NaN"],
    "encoder layer": ["numbers", "numbers", "NaN"],
    "encoder of one layer": ["numbers", "numbers", "0"],
}, f"changed: {seen}"
print("as described")
PYTHON
