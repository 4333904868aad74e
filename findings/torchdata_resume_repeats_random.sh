#!/usr/bin/env bash
# torchdata 0.11.0: a StatefulDataLoader that goes on from a state draws the epoch's first random numbers once more.
#
# What: a data set gives eight rows, each with a random number from torch, numpy and random, as an augmentation draws them in
#   a worker: once by index (Dataset), once as an iterable with a state of its own. The loader's state is taken after four
#   rows, and a new loader goes on from it, after another torch.manual_seed.
# Guess: the random numbers of the run that was not interrupted, since the state is to continue it; or fresh ones from
#   the new seed.
# Seen: rows 5 to 8 get the random numbers of rows 1 to 4, from all three generators and whatever the seed. The state holds
#   the seed of the epoch's workers, and not how far their generators were. An iterable without a state gets the right
#   ones: it is run through from the start.
# For this project: what its data sets draw follows from their seed and the step, so that goes on exactly. docs/client.md
#   says what holds for random transforms that are laid over them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchdata==0.11.0 torch==2.14.1 numpy==2.4.6

cat > "$folder/resume.py" <<'PYTHON'
import random
from importlib.metadata import version

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS, STOP = 8, 4


def row(number):
    return number, (round(float(torch.rand(())), 4), round(np.random.rand(), 4), round(random.random(), 4))


class ByIndex(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return row(index + 1)


class Plain(IterableDataset):
    def __init__(self):
        self.given = 0

    def __iter__(self):
        while self.given < ROWS:
            self.given += 1
            yield row(self.given)
        self.given = 0


class WithState(Plain):
    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


def plain(given):
    """A row as it was, since torch makes lists of tuples."""
    number, drawn = given
    return int(number), tuple(map(float, drawn))


def loader(kind):
    return StatefulDataLoader(kind(), batch_size=None, num_workers=1)


def run(kind):
    """The whole run, and what comes after the state that was taken in it, with two seeds."""
    torch.manual_seed(0)
    first, whole, state = loader(kind), [], None
    for given in first:
        whole.append(plain(given))
        if len(whole) == STOP:
            state = first.state_dict()
    resumed = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        again = loader(kind)
        again.load_state_dict(state)
        resumed[seed] = [plain(given) for given in again]
    return whole, resumed


if __name__ == "__main__":
    print(f"torchdata {version('torchdata')}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"expected: rows {STOP + 1} to {ROWS} go on with the random numbers of the whole run, or with fresh ones")
    seen = {kind: run(kind) for kind in (ByIndex, WithState, Plain)}
    for number, drawn in seen[ByIndex][0]:
        print(f"seen:     ByIndex, the whole run, row {number}: {drawn}")
    for kind, (whole, resumed) in seen.items():
        for seed, rows in resumed.items():
            number, drawn = rows[0]
            of = [i for i, other in whole if other == drawn]
            print(f"          {kind.__name__}, resumed with seed {seed}, row {number}: {drawn}, as row {of} had")
    print("source:   torchdata/stateful_dataloader/stateful_dataloader.py: the state has _base_seed, and __init__ takes it from")
    print("          there; worker.py seeds all three generators with it, whatever has been given of the epoch")
    for kind, (whole, resumed) in seen.items():
        before, after = [drawn for _, drawn in whole[:STOP]], [drawn for _, drawn in whole[STOP:]]
        assert not set(before) & set(after)
        for seed, rows in resumed.items():
            assert [number for number, _ in rows] == list(range(STOP + 1, ROWS + 1)), f"changed: {kind.__name__}, rows"
            wanted = after if kind is Plain else before
            assert [drawn for _, drawn in rows] == wanted, f"changed: {kind.__name__}, random numbers with seed {seed}"
    print("as described")
PYTHON
cd "$folder" && venv/bin/python -W ignore resume.py
