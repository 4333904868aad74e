#!/usr/bin/env bash
# torch 2.14.1: a DataLoader's worker sends a row with the whole tensor that it is a view of, and can be written to from outside.
#
# What: batch_size=None, one worker, a data set of 100 rows of 80 kB in one numpy array. It gives a row in three ways:
#   torch.from_numpy(array[i]), torch.from_numpy(array)[i], and the row of a tensor that it keeps. In a second run the
#   training process sets each row to zero in place after it came.
# Guess: the ways are the same: 80 kB go to the training process, and the worker, another process, keeps its numbers.
# Seen: in the second and third way 8 MB belong to each row; the second copies all of them for each row, which takes many
#   times as long. In the third the next epoch is all zeros: the first row that is sent moves the data set's own memory
#   into memory that both processes share. With batch_size=2 rows are stacked, that is copied, and nothing of it is seen.
# For this project: batches come ready from ReplayDataset, so batch_size=None is the rule. Each of its tensors has memory of
#   its own and no more than it shows; a test in tests/client/test_dataset.py holds that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/rows.py" <<'PYTHON'
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

ROWS, LENGTH = 100, 20_000
ROW_BYTES = 4 * LENGTH


class Rows(Dataset):
    def __init__(self, way):
        self.array = np.ones((ROWS, LENGTH), np.float32)
        self.tensor = torch.from_numpy(self.array.copy())
        self.way = way

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        if self.way == "from_numpy(array[i])":
            return torch.from_numpy(self.array[i])
        return (torch.from_numpy(self.array) if self.way == "from_numpy(array)[i]" else self.tensor)[i]


def measure(way, batch_size):
    """Bytes of the memory behind the first row or batch, seconds of an epoch, and the sum of the second epoch."""
    loader = DataLoader(Rows(way), batch_size=batch_size, num_workers=1, persistent_workers=True)
    started = time.perf_counter()
    held = []
    for batch in loader:
        held.append(batch.untyped_storage().nbytes())
        batch.zero_()
    seconds = time.perf_counter() - started
    return max(held), seconds, sum(float(batch.sum()) for batch in loader) / (ROWS * LENGTH)


if __name__ == "__main__":
    print(f"torch {torch.__version__}: {ROWS} rows of {ROW_BYTES} bytes, from one worker")
    print(f"expected: {ROW_BYTES} bytes a row, and the second epoch as the first: a mean of 1.0")
    seen = {}
    for way in ("from_numpy(array[i])", "from_numpy(array)[i]", "tensor[i]"):
        for batch_size in (None, 2):
            seen[way, batch_size] = measure(way, batch_size)
            held, seconds, mean = seen[way, batch_size]
            print(f"seen:     {way}, batch_size={batch_size}: {held} bytes, {seconds:.2f} s, second epoch's mean {mean}")
    print("source:   torch/multiprocessing/reductions.py, reduce_tensor and reduce_storage: _share_fd_cpu_ moves the storage")
    for (way, batch_size), (held, seconds, mean) in seen.items():
        whole = batch_size is None and way != "from_numpy(array[i])"
        assert held == ROW_BYTES * (ROWS if whole else batch_size or 1), f"changed: {way}, {batch_size}: {held} bytes"
        emptied = batch_size is None and way == "tensor[i]"
        assert mean == (0.0 if emptied else 1.0), f"changed: {way}, {batch_size}: mean {mean}"
    slow, fast = seen["from_numpy(array)[i]", None][1], seen["from_numpy(array[i])", None][1]
    assert slow > fast, f"changed: {slow:.2f} and {fast:.2f} s"
    print("as described")
PYTHON
cd "$folder" && venv/bin/python -W ignore rows.py
