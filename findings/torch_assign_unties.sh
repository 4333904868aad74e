#!/usr/bin/env bash
# torch 2.14.1: load_state_dict(assign=True) parts weights that a model shares, even if its own state_dict is loaded.
#
# What: a small language model whose head is its embedding (one Parameter). Its own state_dict is loaded with and without assign=True, from
#   memory and from a file; then two steps of training.
# Guess: one Parameter stays one: both names of a state_dict are views of one storage, in memory as behind torch.load.
# Seen: two Parameters. What was loaded lies in one storage all the same, so that comparing them finds nothing, before or after; each gets
#   the gradient of its own use alone, and an optimizer steps twice, with two states, in the same numbers. From copies they drift apart.
# For this project: assign=True fills models made without values (learner/model/backbones/vilt.py, choose.py). None of them shares a
#   weight between two names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/assign.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
from torch import nn


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(12, 4)
        self.head = nn.Linear(4, 12, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        return self.head(self.words(tokens))


def after_two_steps(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    tokens = torch.arange(12)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens.roll(1)).backward()
        optimizer.step()
    return model.head.weight.detach().clone()


def main(folder):
    torch.manual_seed(0)
    first = Language()
    torch.save(first.state_dict(), folder / "model.pt")
    print(f"torch {torch.__version__}")
    print("expected: one Parameter, trained as before")
    results = {}
    for name, assign in (("copied", False), ("assigned", True), ("assigned copies", True)):
        state = torch.load(folder / "model.pt")
        if name == "assigned copies":
            state = {key: value.clone() for key, value in state.items()}
        model = Language()
        model.load_state_dict(state, assign=assign)
        count = len(list(model.parameters()))
        shared = model.head.weight.data_ptr() == model.words.weight.data_ptr()
        trained = after_two_steps(model)
        results[name] = (count, shared, trained, torch.equal(model.head.weight, model.words.weight))
        print(f"seen:     {name}: {count} parameters, one storage: {shared}, alike after two steps: {results[name][3]}")
    own = Language()
    own.load_state_dict(own.state_dict(), assign=True)
    away = float((results["assigned"][2] - results["copied"][2]).abs().max())
    print(f"seen:     the weights of the second end {away:.3f} away from those of the first, with a rate of 0.1")
    print("source:   torch/nn/modules/module.py, _load_from_state_dict: a Parameter is made of each tensor, by name, and set in its module")
    assert results["copied"][0] == 1 and results["copied"][3], "changed: copied"
    assert results["assigned"][:2] == (2, True) and results["assigned copies"][:2] == (2, False), f"changed: {results}"
    assert len(list(own.parameters())) == 2, "changed: its own state_dict"
    assert away > 0.02 and not results["assigned copies"][3], f"changed: {away}"
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/assign.py" "$folder"
