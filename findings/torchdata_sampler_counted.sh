#!/usr/bin/env bash
# torchdata 0.11.0: a StatefulDataLoader with one of torch's samplers goes on in the second epoch with the first one's order.
#
# What: ten samples in batches of two, and a sampler with a generator of its own. The loader's state is taken after two
#   batches of the second epoch. A new loader, made as the first was, goes on from it.
# Guess: the other six samples of that epoch. The loader is one that keeps its state, and the state is loaded without a word.
# Seen: the last six of the first epoch, so some samples come twice and others never; weighted ones are not those that were
#   drawn. A sampler of torch's has no state: the loader keeps how many samples it gave, and skips as many of a new
#   round, which a new generator begins as it began the first. In the first epoch this is right. It is always
#   right with shuffle=True or torchdata's own RandomSampler.
# For this project: docs/client.md says which samplers go on. ReplayDataset has a state of its own, and no sampler.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchdata==0.11.0 torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
import torchdata.stateful_dataloader.sampler
from torch.utils.data import RandomSampler, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

SAMPLES, TAKEN = 10, 2
DATA = TensorDataset(torch.arange(SAMPLES))


def generator():
    return torch.Generator().manual_seed(0)


HOW = {
    "RandomSampler": lambda: {"sampler": RandomSampler(DATA, generator=generator())},
    "SubsetRandomSampler": lambda: {"sampler": SubsetRandomSampler(range(SAMPLES), generator=generator())},
    "WeightedRandomSampler": lambda: {"sampler": WeightedRandomSampler([1.0] * SAMPLES, SAMPLES, generator=generator())},
    "torchdata's RandomSampler": lambda: {
        "sampler": torchdata.stateful_dataloader.sampler.RandomSampler(DATA, generator=generator())
    },
    "shuffle=True": lambda: {"shuffle": True, "generator": generator()},
}


def interrupted(how, epoch):
    """Of one epoch: what was taken, what comes after the state was loaded, and what would have come."""
    loader = StatefulDataLoader(DATA, batch_size=2, **how())
    for _ in range(epoch):
        list(loader)
    batches = iter(loader)
    taken = [next(batches)[0].tolist() for _ in range(TAKEN)]
    state = loader.state_dict()
    expected = [batch[0].tolist() for batch in batches]
    resumed = StatefulDataLoader(DATA, batch_size=2, **how())
    resumed.load_state_dict(state)
    return taken, [batch[0].tolist() for batch in resumed], expected


print(f"torchdata {version('torchdata')}, torch {torch.__version__}: interrupted after {TAKEN} batches of the second epoch")
for name, how in HOW.items():
    taken, seen, expected = interrupted(how, 1)
    first_epoch = interrupted(how, 0)[2]
    print(f"expected: {name}: after {taken} come {expected}")
    print(f"seen:     {name}: after {taken} come {seen}")
    of_torch = name.endswith("Sampler") and "torchdata" not in name
    assert interrupted(how, 0)[1] == first_epoch, f"changed: {name} in the first epoch"
    assert (seen == expected) is not of_torch, f"changed: {name}: {seen}"
    assert not of_torch or seen == first_epoch, f"changed: {name}: {seen}"
print("source:   _BatchSamplerIterator.load_state_dict in torchdata/stateful_dataloader/sampler.py: a sampler without a state")
print("          is begun anew, and as many samples as samples_yielded says are skipped")
print("as described")
PYTHON
