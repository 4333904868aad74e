#!/usr/bin/env bash
# torchrl 0.14.1: a ReplayBufferEnsemble of two buffers with p=[0.9, 0.1] gives batches of which a half or nothing is of the second.
#
# What: two buffers whose rows say which they are, an ensemble with p=[0.9, 0.1] and a batch of 100; how many rows of 200 batches
#   are of the second, by default and with num_buffer_sampled=100.
# Guess: some 10 in each batch: p are the shares of the buffers in what is sampled, row by row.
# Seen: 0, 50 or 100. By default as many buffers are drawn for a batch as there are, each for an equal part of it: over many batches the shares
#   are right, and four of five batches have no row of the second. With num_buffer_sampled=100 it is some 10.
# For this project: docs/howto/torchrl.md says it for who replays from two buffers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchrl==0.14.1 tensordict==0.14.3 numpy==2.4.6

cat > "$folder/ensemble.py" <<'PYTHON'
from collections import Counter
from importlib.metadata import version

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBufferEnsemble, TensorDictReplayBuffer

BATCH, BATCHES = 100, 200


def of_second(**given):
    """Rows of the second buffer in each batch."""
    torch.manual_seed(0)
    members = [TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=BATCH) for _ in range(2)]
    for number, member in enumerate(members):
        member.extend(TensorDict({"member": torch.full((5,), number)}, batch_size=[5]))
    both = ReplayBufferEnsemble(*members, p=[0.9, 0.1], batch_size=BATCH, **given)
    return [int(both.sample()["member"].sum()) for _ in range(BATCHES)]


if __name__ == "__main__":
    print(f"torchrl {version('torchrl')}, tensordict {version('tensordict')}, torch {torch.__version__}")
    print("expected: about 10 of 100 rows of each batch are of the second buffer")
    given, by_row = Counter(of_second()), of_second(num_buffer_sampled=BATCH)
    print(f"seen:     by default, rows: batches: {dict(sorted(given.items()))}")
    print(f"seen:     with num_buffer_sampled={BATCH}: {min(by_row)} to {max(by_row)} rows")
    print("source:   torchrl/data/replay_buffers/samplers/ensemble.py: torch.multinomial(p, num_buffer_sampled), batch_size // of it each")
    assert set(given) <= {0, 50, 100} and given[0] > 0.7 * BATCHES, f"changed: {given}"
    assert 0 <= min(by_row) and max(by_row) < 30 and len(set(by_row)) > 8, f"changed: {by_row}"
    print("as described")
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/ensemble.py" 2>/dev/null | grep -v Initialized
