#!/usr/bin/env bash
# torchmetrics 1.9.0: one wrong answer takes MulticlassAccuracy from 1.0 to 0.66, if it names a class of which there are no samples.
#
# What: 100 samples of two classes, of a model for ten; one is taken for a third class, or four are wrong, three of them such. MulticlassAccuracy as
#   it is by default (macro), with "micro", "weighted" and top_k=2, and scikit-learn 1.9.1's balanced_accuracy_score.
# Guess: macro is the mean of the classes' accuracies. A class without samples has none, and is left out: 0.99, 0.96.
# Seen: 0.66, and 0.384. A class is left out as long as nobody names it; then it counts as 0. So the number falls with how many classes
#   are named, and not with how many answers are wrong. With top_k=2 and the same answers it is 0.96: there such classes are
#   left out. balanced_accuracy_score leaves them out always.
# For this project: after a phase the model knows classes that a test has no samples of. Accuracy is that of all samples; and by
#   class, of the classes that have some (learner/run/evaluate.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchmetrics==1.9.0 scikit-learn==1.9.1 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
from importlib.metadata import version

import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.classification import MulticlassAccuracy

CLASSES = 10
target = torch.tensor([0] * 50 + [1] * 50)
one_wrong, four_wrong = target.clone(), target.clone()
one_wrong[0] = 2
four_wrong[:3], four_wrong[50] = torch.tensor([2, 3, 4]), 0


def scores(said):
    first = torch.nn.functional.one_hot(said, CLASSES).float()
    second = torch.nn.functional.one_hot(torch.full_like(said, CLASSES - 1), CLASSES) * 0.5
    return {
        "default": float(MulticlassAccuracy(CLASSES)(said, target)),
        "micro": float(MulticlassAccuracy(CLASSES, average="micro")(said, target)),
        "weighted": float(MulticlassAccuracy(CLASSES, average="weighted")(said, target)),
        "top_k=2": float(MulticlassAccuracy(CLASSES, top_k=2)(first + second, target)),
        "scikit-learn": float(balanced_accuracy_score(target, said)),
    }


print(f"torchmetrics {version('torchmetrics')}, torch {torch.__version__}, scikit-learn {version('scikit-learn')}")
found = {}
for name, said in (("none", target), ("1", one_wrong), ("4", four_wrong)):
    found[name] = {way: round(value, 3) for way, value in scores(said).items()}
    print(f"{name:4} of 100 wrong: expected {found[name]['scikit-learn']} (mean of two classes); seen: {found[name]}")
print("source: torchmetrics/utilities/compute.py, _adjust_weights_safe_divide: a class is left out where tp + fp + fn == 0, and with")
print("        top_k above 1 where tp + fn == 0")
assert found["none"]["default"] == 1.0
assert (found["1"]["default"], found["4"]["default"]) == (0.66, 0.384), f"changed: {found}"
assert (found["1"]["top_k=2"], found["4"]["top_k=2"]) == (0.99, 0.96), f"changed: {found}"
assert (found["1"]["scikit-learn"], found["4"]["scikit-learn"]) == (0.99, 0.96), f"changed: {found}"
print("as described")
PYTHON
