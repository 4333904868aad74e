#!/usr/bin/env bash
# torchmetrics 1.9.0: two metrics of a collection become one for good if their first batch happens to give them equal counts.
#
# What: a MetricCollection of MulticlassAccuracy with and without ignore_index=0, and of BinaryAccuracy with a threshold of 0.5 and of 0.9, over
#   three batches. The first has no sample of class 0, or scores near 0 and 1 alone. The same with compute_groups=False, by themselves,
#   and with the first batch last.
# Guess: metrics that can share counts are found by their class and settings: what differs in one stays apart.
# Seen: they are grouped by what they hold after the first update. From then on both figures are the first one's, without a word, and the
#   order of the same batches makes another result.
# For this project: tests go by class and phase, so that a first batch may lack a class. Each figure is counted from all answers
#   (learner/run/evaluate.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
from importlib.metadata import version

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

ROWS = 200


def classes(seed, lowest=0):
    """Classes that were said and that are right; none below the lowest."""
    said, right = torch.randint(lowest, 4, (2, ROWS), generator=torch.Generator().manual_seed(seed))
    return said, right


def scores(seed, is_sure=False):
    """Scores of yes, and what is right."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(2, (ROWS,), generator=generator)
    asked = torch.rand(ROWS, generator=generator)
    return (asked > 0.5) * 0.96 + 0.02 if is_sure else asked, right


def result(metric, batches):
    for said, right in batches:
        metric.update(said, right)
    found = metric.compute()
    return {name: round(float(value), 4) for name, value in found.items()} if isinstance(found, dict) else round(float(found), 4)


CASES = {
    "ignore_index": (
        lambda: {"all": MulticlassAccuracy(4, average="micro"), "some": MulticlassAccuracy(4, average="micro", ignore_index=0)},
        [classes(0, lowest=1), classes(1), classes(2)],
    ),
    "threshold": (
        lambda: {"likely": BinaryAccuracy(0.5), "sure": BinaryAccuracy(0.9)},
        [scores(0, is_sure=True), scores(1), scores(2)],
    ),
}
print(f"torchmetrics {version('torchmetrics')}, torch {torch.__version__}")
for name, (metrics, batches) in CASES.items():
    alone = {key: result(metric, batches) for key, metric in metrics().items()}
    together = result(MetricCollection(metrics()), batches)
    turned = result(MetricCollection(metrics()), [*batches[1:], batches[0]])
    apart = result(MetricCollection(metrics(), compute_groups=False), batches)
    print(f"{name}: expected {alone}; seen {together}; with the first batch last {turned}")
    assert apart == alone and turned == alone, f"changed: {turned}, {apart}"
    first, second = together.values()
    assert first == second and together != alone, f"changed: {together}"
print("source: torchmetrics/collections.py: _merge_compute_groups after the first update, by _equal_metric_states: equal names and values")
print("as described")
PYTHON
