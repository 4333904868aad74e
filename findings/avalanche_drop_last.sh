#!/usr/bin/env bash
# avalanche-lib 0.6.0: with drop_last=True nothing is replayed, as long as the memory is smaller than a batch.
#
# What: two experiences of 200 samples are learned in batches of 32, with ReplayPlugin(mem_size=M), by train(experience) and
#   by train(experience, drop_last=True). It is counted how many samples of the first come again in the second.
# Guess: each batch has 32 of the first experience, or all that there are. drop_last leaves out the last batch, which is too
#   small for a batch norm.
# Seen: with a memory of 20 or 31 and drop_last none comes, without an error or a warning, and the buffer is full all the same;
#   with 32 or more, 32 come with each batch. Memory is cut into batches of its own, and the only one is too small, and
#   dropped. Without drop_last all 20 come each time; of 100, however, 32, 32, 32, 4, and so on.
# For this project: a byte budget may keep fewer samples than were asked for, so this is met sooner than with Avalanche's
#   own buffers. docs/howto/avalanche.md says to give batch_size_mem.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    avalanche-lib==0.6.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6

cat > "$folder/replay.py" <<'PYTHON'
import logging
from importlib.metadata import version

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from torch.utils.data import TensorDataset

logging.captureWarnings(True)
SAMPLES, BATCH = 200, 32


class Count(SupervisedPlugin):
    """Counts, batch by batch, samples of the first experience in the second."""

    def __init__(self):
        super().__init__()
        self.old = []

    def after_training_iteration(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1:
            self.old.append(int((strategy.mb_y == 0).sum()))


def experience(label):
    data = TensorDataset(torch.randn(SAMPLES, 4), torch.full((SAMPLES,), label))
    data.targets = [label] * SAMPLES
    return as_classification_dataset(data)


def replayed(mem_size, **settings):
    """Samples in memory before the second experience, and how many of them come in each of its whole batches."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    replay, count = ReplayPlugin(mem_size=mem_size, **settings.pop("plugin", {})), Count()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        train_mb_size=BATCH,
        train_epochs=1,
        plugins=[replay, count],
        evaluator=EvaluationPlugin(),
    )
    first, second = benchmark_from_datasets(train=[experience(0), experience(1)]).train_stream
    strategy.train(first, **settings)
    kept = len(replay.storage_policy.buffer)
    strategy.train(second, **settings)
    return kept, count.old[: SAMPLES // BATCH]


batches = SAMPLES // BATCH
print(f"avalanche-lib {version('avalanche-lib')}: {SAMPLES} new samples in batches of {BATCH}")
seen = {}
for mem_size in (20, 31, 32, 100):
    for drop_last in (False, True):
        kept, old = seen[mem_size, drop_last] = replayed(mem_size, drop_last=drop_last)
        expected = f"expected {min(mem_size, BATCH)}"
        print(f"seen:     mem_size={mem_size}, drop_last={drop_last}: {kept} kept, {old} replayed in each batch; {expected}")
_, given = replayed(20, drop_last=True, plugin={"batch_size_mem": 20})
print(f"          mem_size=20, drop_last=True, batch_size_mem=20: {given} replayed in each batch")
print("source:   avalanche/training/plugins/replay.py hands drop_last on to ReplayDataLoader, and it to both samplers;")
print("          MultiDatasetSampler.__iter__ in avalanche/benchmarks/utils/data_loader.py leaves out a sampler of length 0")
for (mem_size, drop_last), (kept, old) in seen.items():
    assert kept == mem_size, f"changed: {kept} of {mem_size} are kept"
    if mem_size < BATCH:
        assert old == [0 if drop_last else mem_size] * batches, f"changed: {mem_size}, {drop_last}: {old}"
assert seen[32, True][1] == seen[100, True][1] == [BATCH] * batches, f"changed: {seen}"
assert given == [20] * batches, f"changed: {given}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python replay.py
