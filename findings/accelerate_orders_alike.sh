#!/usr/bin/env bash
# accelerate 1.15.0: with use_seedable_sampler, all shuffled loaders of one length go through it in one order, whatever generator they have.
#
# What: two DataLoaders over ten rows each, shuffled, with generators of the seeds 1 and 2, prepared with and without
#   use_seedable_sampler=True; two epochs of both.
# Guess: two orders, as by their generators; seedable is that they are the same in the next run and on all ranks.
# Seen: one order, in each epoch anew: the sampler has the one seed of torch (or data_seed) plus the epoch, and the loader's generator is not
#   asked, though its docstring says so. So row n of the one always meets row n of the other. Trainer of transformers 5.24.0 has it by default.
# For this project: what is replayed is drawn by the seed of its ReplayDataset, step by step, not by a second shuffled loader;
#   docs/howto/huggingface.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check accelerate==1.15.0 torch==2.14.1 numpy==2.4.6

cat > "$folder/orders.py" <<'PYTHON'
from importlib.metadata import version

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader

EPOCHS = 2


def orders(**given):
    """The order of each loader in each epoch."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**given))
    loaders = [
        accelerator.prepare(DataLoader(range(10), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 2)
    ]
    return [[torch.cat(list(loader)).tolist() for loader in loaders] for _ in range(EPOCHS)]


if __name__ == "__main__":
    print(f"accelerate {version('accelerate')}, torch {torch.__version__}")
    print("expected: two orders in each epoch, by the two generators")
    found = {}
    for name, given in (("by default", {}), ("seedable", {"use_seedable_sampler": True}), ("data_seed", {"use_seedable_sampler": True, "data_seed": 5})):
        found[name] = orders(**given)
        for epoch, (first, second) in enumerate(found[name]):
            print(f"seen:     {name}, epoch {epoch}: {first} and {second}")
    print("source:   accelerate/data_loader.py: prepare_data_loader puts a SeedableRandomSampler in place of a RandomSampler; its __iter__ seeds")
    print("          its generator by epoch + initial_seed, which is data_seed or torch.random.initial_seed()")
    assert all(first != second for first, second in found["by default"]), "changed: by default"
    assert all(first == second for name in ("seedable", "data_seed") for first, second in found[name]), f"changed: {found}"
    assert found["seedable"][0] != found["seedable"][1], "changed: epochs"
    print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/orders.py" 2>/dev/null
