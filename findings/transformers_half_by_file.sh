#!/usr/bin/env bash
# transformers 5.24.0: from_pretrained makes a float16 model of a float16 checkpoint, and AutoModel.from_config of its configuration too.
#
# What: a small CLIPVisionModel saved in float16: the type of its weights by from_pretrained, by AutoModel.from_pretrained, by the class and
#   by AutoModel.from_config of its configuration; and how much of a step of 1e-4 is left in a weight of 1.0.
# Guess: float32, as torch's default type says, and as it was up to version 4; a type of one's own by dtype=.
# Seen: float16, but by the class with its configuration: float32. Pictures in float32 are cast to it without a word, so it computes; an
#   optimizer of such weights loses every step below 0.0005 of a weight.
# For this project: dtype=torch.float32 where checkpoints are loaded (learner/model/backbones/vilt.py, of_transformers.py). They were float16
#   before, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.14.1 numpy==2.4.6

cat > "$folder/half.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import AutoModel, CLIPVisionConfig, CLIPVisionModel

SIZES = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def main(folder):
    CLIPVisionModel(CLIPVisionConfig(**SIZES)).half().save_pretrained(folder)
    config = CLIPVisionConfig.from_pretrained(folder)
    seen = {
        "from_pretrained": CLIPVisionModel.from_pretrained(folder),
        "AutoModel.from_pretrained": AutoModel.from_pretrained(folder),
        "AutoModel.from_config": AutoModel.from_config(config),
        "CLIPVisionModel(config)": CLIPVisionModel(config),
        "from_pretrained(dtype=torch.float32)": CLIPVisionModel.from_pretrained(folder, dtype=torch.float32),
    }
    types = {name: model.dtype for name, model in seen.items()}
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; the default type is {torch.get_default_dtype()}")
    print("expected: torch.float32 from each")
    for name, found in types.items():
        print(f"seen:     {found} ({name})")
    answer = seen["from_pretrained"](pixel_values=torch.rand(1, 3, 32, 32)).last_hidden_state.dtype
    weight = torch.nn.Parameter(torch.ones(1, dtype=types["from_pretrained"]))
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=1e-4).step()
    print(f"seen:     float32 pictures are answered in {answer}; a weight of 1.0 is {float(weight)} after a step of 0.0001")
    print("source:   transformers/modeling_utils.py: from_pretrained's dtype is 'auto' where none is given: that of the configuration")
    half = ["from_pretrained", "AutoModel.from_pretrained", "AutoModel.from_config"]
    assert [name for name, found in types.items() if found == torch.float16] == half, f"changed: {types}"
    assert answer == torch.float16 and float(weight) == 1.0, f"changed: {answer}, {float(weight)}"
    print("as described")


if __name__ == "__main__":
    main(sys.argv[1])
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/half.py" "$folder/model" 2>/dev/null
