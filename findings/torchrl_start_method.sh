#!/usr/bin/env bash
# torchrl 0.14.1: to import it makes "spawn" the start method of the whole process, for loaders of other libraries too.
#
# What: a data set of one's own in torch's DataLoader with a worker, in two processes on Linux. One of them imports torchrl
#   first and does nothing with it.
# Guess: torchrl uses a context of its own for its processes, as its comments say. The loader's workers are forked in both.
# Seen: after the import multiprocessing.get_start_method() is "spawn", and the loader's worker is a new interpreter. There
#   what the program had in memory is gone, and scripts without `if __name__ == "__main__"` stop working. A start method
#   that was chosen before the import is left alone; one that is chosen after it is a RuntimeError.
# For this project: tests choose the platform's start method before anything is imported. A forked worker ends by
#   os._exit; a spawned one ends through the interpreter's end, where a thread of the queue that drops a tensor at that
#   moment waits for the interpreter for ever, inside a C++ destructor: the process aborts (torch 2.14.1, seen in one of
#   some thousand ends; nothing here provokes it).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torchrl==0.14.1 tensordict==0.14.3 torch==2.14.1 numpy==2.4.6

cat >"$folder/loads.py" <<'PYTHON'
"""Prints the start method, and what a loader's worker finds of a change that the program made in memory."""
import multiprocessing
import sys

import torch
from torch.utils.data import DataLoader, Dataset

CHANGED = []


class Numbers(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return len(CHANGED)


if __name__ == "__main__":
    for step in sys.argv[1:]:
        if step == "torchrl":
            import torchrl  # noqa: F401
        else:
            multiprocessing.set_start_method(step)
    CHANGED.append("by the program")
    (found,) = DataLoader(Numbers(), batch_size=None, num_workers=1)
    print(multiprocessing.get_start_method(), int(found))
PYTHON

cat >"$folder/check.py" <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version

if sys.platform != "linux" or sys.version_info >= (3, 14):
    sys.exit("needs Linux and Python before 3.14, where the default is to fork")


def run(*steps):
    done = subprocess.run([sys.executable, "-W", "ignore", sys.argv[1], *steps], capture_output=True, text=True)
    return done.stdout.split()[-2:] if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


seen = {steps: run(*steps) for steps in [(), ("torchrl",), ("fork", "torchrl"), ("torchrl", "fork")]}
print(f"torchrl {version('torchrl')}, torch {version('torch')}: start method, and whether the worker sees the change")
print("expected: ['fork', '1'] in each")
for steps, result in seen.items():
    print(f"seen:     {' then '.join(steps) or 'nothing before'}: {result}")
print("source:   torchrl/__init__.py calls set_start_method with _utils._get_default_mp_start_method(): spawn if none is set")
assert seen[()] == ["fork", "1"], "changed"
assert seen["torchrl",] == ["spawn", "0"], "changed"
assert seen["fork", "torchrl"] == ["fork", "1"], "changed"
assert seen["torchrl", "fork"] == "RuntimeError: context has already been set", "changed"
print("as described")
PYTHON
"$folder/venv/bin/python" -I "$folder/check.py" "$folder/loads.py"
