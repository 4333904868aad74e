#!/usr/bin/env bash
# torchrl 0.14.1: SamplerWithoutReplacement begins anew at each extend(), until the buffer is full.
#
# What: a replay buffer with 100 items. Ten batches of ten are drawn, and one item is added after each batch: in a buffer
#   that was full before, and in one with room.
# Guess: 100 different items in both, as the name says; what is added comes at the end, or in the next round.
# Seen: full: 100. With room: about 65, as with replacement; with shuffle=False it is the same ten items ten times. A new
#   length throws the order away that was drawn for the old one.
# For this project: learners push while others draw. So an epoch promises no round in which each exemplar comes once:
#   each batch is a draw of its own, by seed and step (docs/client.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchrl==0.14.1 tensordict==0.14.3 torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import logging

import torch
import torchrl
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

logging.getLogger("torchrl").setLevel(logging.WARNING)
ITEMS, BATCH = 100, 10


def drawn(capacity, *, add, shuffle=True):
    """Number of different items in the batches of one round."""
    torch.manual_seed(0)
    sampler = SamplerWithoutReplacement(shuffle=shuffle)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity), sampler=sampler, batch_size=BATCH)
    buffer.extend(TensorDict({"index": torch.arange(ITEMS)}, [ITEMS]))
    indices = []
    for number in range(ITEMS // BATCH):
        indices += buffer.sample()["index"].tolist()
        if add:
            buffer.extend(TensorDict({"index": torch.tensor([ITEMS + number])}, [1]))
    assert len(indices) == ITEMS
    return len(set(indices))


seen = {
    "full, nothing added": drawn(ITEMS, add=False),
    "with room, nothing added": drawn(10 * ITEMS, add=False),
    "full, one added after each batch": drawn(ITEMS, add=True),
    "with room, one added after each batch": drawn(10 * ITEMS, add=True),
    "with room, one added after each batch, shuffle=False": drawn(10 * ITEMS, add=True, shuffle=False),
}
print(f"torchrl {torchrl.__version__}: {ITEMS} draws from {ITEMS} items in batches of {BATCH}")
print(f"expected: {ITEMS} different ones, but for what was added")
for name, number in seen.items():
    print(f"seen:     {name}: {number}")
print("source:   torchrl/data/replay_buffers/samplers/random.py, SamplerWithoutReplacement.sample: a length of the storage other")
print("          than that of the last call makes a new order")
*whole, room, in_order = seen.values()
assert whole == [ITEMS] * 3, f"changed: {whole}"
assert room < 0.85 * ITEMS, f"changed: {room} with room"
assert in_order == BATCH, f"changed: {in_order} in order"
print("as described")
PYTHON
