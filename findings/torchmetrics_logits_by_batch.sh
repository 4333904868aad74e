#!/usr/bin/env bash
# torchmetrics 1.9.0: the accuracy of the same eight answers is 1.0 in one batch, 0.625 in two, and 0.5 one by one.
#
# What: eight logits, of which six lie between 0 and 1, and their right labels, into BinaryAccuracy, BinaryAUROC and MultilabelAccuracy: at
#   once, in two batches, and one by one. The same after a sigmoid. Three classes for MulticlassCalibrationError.
# Guess: how the samples are cut into batches does not matter; that is what a metric with update and compute is for. Logits or
#   probabilities: it says which it takes, or finds out once.
# Seen: it finds out for each batch. One with a number outside of 0..1 is logits and goes through a sigmoid, any other is
#   probabilities: so 0.2 is a yes in one batch and a no in the next. AUROC, which knows order alone, falls from 1.0 to 0.75.
#   After a sigmoid all are 1.0, however they are cut.
# For this project: answers are the highest logit (learner/run/evaluate.py), and no number decides what numbers mean. Who measures
#   with torchmetrics gives it probabilities; the last batch of an epoch is small, and so the likelier to be mistaken.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
from importlib.metadata import version

import torch
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, MulticlassCalibrationError, MultilabelAccuracy

LOGITS = torch.tensor([0.2, 0.9, 0.4, 0.3, -1.0, 3.0, -2.0, 0.1])
LABELS = (LOGITS > 0).long()
OF_THREE = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.2, 0.8], [5.0, -1.0, 0.0], [0.5, 0.4, 0.45]])
CUTS = {"one batch": 1, "two": 2, "one by one": None}


def measured(metric, given, labels, number):
    """The metric of samples that come in so many batches; None = one by one."""
    for part, of_part in zip(given.chunk(number or len(given)), labels.chunk(number or len(given)), strict=True):
        metric.update(part, of_part)
    return round(float(metric.compute()), 3)


def by_cut(make, given, labels):
    return [measured(make(), given, labels, number) for number in CUTS.values()]


print(f"torchmetrics {version('torchmetrics')}, torch {torch.__version__}: {', '.join(CUTS)}")
pairs, of_pairs = LOGITS.reshape(4, 2), LABELS.reshape(4, 2)
three = OF_THREE.argmax(1)
found = {
    "BinaryAccuracy": by_cut(BinaryAccuracy, LOGITS, LABELS),
    "BinaryAUROC": by_cut(BinaryAUROC, LOGITS, LABELS),
    "MultilabelAccuracy": by_cut(lambda: MultilabelAccuracy(2), pairs, of_pairs),
    "MulticlassCalibrationError": by_cut(lambda: MulticlassCalibrationError(3), OF_THREE, three),
}
after = {
    "BinaryAccuracy": by_cut(BinaryAccuracy, LOGITS.sigmoid(), LABELS),
    "BinaryAUROC": by_cut(BinaryAUROC, LOGITS.sigmoid(), LABELS),
    "MultilabelAccuracy": by_cut(lambda: MultilabelAccuracy(2), pairs.sigmoid(), of_pairs),
    "MulticlassCalibrationError": by_cut(lambda: MulticlassCalibrationError(3), OF_THREE.softmax(1), three),
}
for name, values in found.items():
    print(f"{name}: expected {after[name]} (of probabilities); seen {values} (of logits)")
print("source: torchmetrics/utilities/compute.py, normalize_logits_if_needed: 'If input tensor is outside the [0,1] we assume that logits are")
print("        provided', called with each batch in update")
assert all(len(set(values)) == 1 for values in after.values()), f"changed: {after}"
assert found["BinaryAccuracy"] == [1.0, 0.625, 0.5] and found["BinaryAUROC"] == [1.0, 0.917, 0.75], f"changed: {found}"
assert all(len(set(values)) > 1 for values in found.values()), f"changed: {found}"
print("as described")
PYTHON
