#!/usr/bin/env bash
# torch 2.14.1: the number of threads that a thread sets before it first computes is forgotten when another thread sets its own.
#
# What: two threads call torch.set_num_threads(1), one of them after it has asked for the number once. The main thread calls
#   torch.set_num_threads(3). Then both ask.
# Guess: the same in both: 1 if the number is a thread's own, 3 if it is everybody's.
# Seen: 1 in the thread that had asked before, 3 in the other one. set_num_threads sets OpenMP's number for this thread and a number for
#   threads to come; a thread takes the latter when it first asks, or computes, even where it has set another in between.
# For this project: threads that each compute a batch (learner/abreast.py) are to have one of torch's threads, and had all of them: a step
#   took 200 ms, and 170 once each asks before it sets.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import sys
import threading

import torch

torch.set_num_threads(2)
is_set, is_set_elsewhere = threading.Barrier(3), threading.Event()
found = {}


def work(asks):
    if asks:
        torch.get_num_threads()
    torch.set_num_threads(1)
    is_set.wait()
    is_set_elsewhere.wait()
    found[asks] = torch.get_num_threads()


threads = [threading.Thread(target=work, args=(asks,)) for asks in (False, True)]
for thread in threads:
    thread.start()
is_set.wait()
torch.set_num_threads(3)
is_set_elsewhere.set()
for thread in threads:
    thread.join()
print(f"torch {torch.__version__}: two threads set 1, then the main thread sets 3")
print("expected: the same number in both")
print(f"seen:     {found[True]} where it had been asked for before, {found[False]} where not; {torch.get_num_threads()} in the main thread")
print("source:   aten/src/ATen/ParallelOpenMP.cpp of pytorch/pytorch, lazy_init_num_threads and init_num_threads")
sys.exit(0 if found == {True: 1, False: 3} else "changed")
PYTHON
echo "as described"
