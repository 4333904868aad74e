#!/usr/bin/env bash
# webdataset 1.0.2 x torch 2.14.1: with shardshuffle, shards come in one order for all epochs, also without a seed.
#
# What: 20 shards of five samples each; three epochs of WebDataset(shardshuffle=20) without a seed, with one, and with detshuffle=True; by itself,
#   and in a DataLoader with two workers, new ones for each epoch and persistent ones.
# Guess: another order in each epoch; with a seed, the same three orders again in the next run. detshuffle is for the latter.
# Seen: one order, drawn when the data set is made, for all epochs. detshuffle counts epochs in the object itself, so that it gives other orders
#   alone or in persistent workers, and the first one for ever in workers that are made anew, as they are by default.
# For this project: whose new data come so sees old and new ones meet in the same way in each epoch; docs/howto/mixed-loader.md says it.
#   Replayed ones are drawn anew for each step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 webdataset==1.0.2 numpy==2.4.6

cat > "$folder/shards.py" <<'PYTHON'
import sys
from importlib.metadata import version

import torch
import webdataset
from torch.utils.data import DataLoader

SHARDS, EPOCHS = 20, 3


def data(folder, **given):
    return webdataset.WebDataset(f"{folder}/{{00..{SHARDS - 1}}}.tar", shardshuffle=SHARDS, **given).decode()


def orders(loader):
    """How many different orders the epochs have; each of them has every sample once."""
    epochs = [[int(sample["cls"]) for sample in loader] for _ in range(EPOCHS)]
    assert all(sorted(epoch) == list(range(5 * SHARDS)) for epoch in epochs), "samples are missing"
    return len({tuple(epoch) for epoch in epochs})


def main(folder):
    for shard in range(SHARDS):
        with webdataset.TarWriter(f"{folder}/{shard:02}.tar") as writer:
            for number in range(5 * shard, 5 * shard + 5):
                writer.write({"__key__": f"{number:03}", "cls": number})
    print(f"webdataset {version('webdataset')}, torch {torch.__version__}")
    print(f"expected: {EPOCHS} orders in {EPOCHS} epochs")
    found = {}
    for name, given in (("no seed", {}), ("a seed", {"seed": 1}), ("detshuffle", {"seed": 1, "detshuffle": True})):
        found[name] = orders(data(folder, **given))
        for kept in (False, True):
            loader = DataLoader(data(folder, **given), batch_size=None, num_workers=2, persistent_workers=kept)
            found[name, kept] = orders(loader)
        print(f"seen:     {name}: {found[name]} alone, {found[name, False]} with new workers, {found[name, True]} with persistent ones")
    print("source:   webdataset/compat.py: seed = random.randint(...) once, where none is given; webdataset/filters.py: _shuffle makes a")
    print("          random.Random(seed) at each epoch, detshuffle counts self.epoch")
    assert all(found[key] == 1 for key in found if key[0] in ("no seed", "a seed") or key in ("no seed", "a seed")), f"changed: {found}"
    assert found["detshuffle"] == EPOCHS and found["detshuffle", True] == EPOCHS, f"changed: {found}"
    assert found["detshuffle", False] == 1, f"changed: {found}"
    print("as described")


if __name__ == "__main__":
    main(sys.argv[1])
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/shards.py" "$folder"
