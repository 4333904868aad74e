#!/usr/bin/env bash
# torch 2.14.1, gloo: a sum of booleans over ranks adds up their bytes, and at 256, True is False.
#
# What: two ranks share a flag in one tensor that they add up at each step, True on both: its value and its byte after each of eight steps;
#   and with MAX.
# Guess: an error, or a logical or, as over NCCL (which takes the maximum of booleans). Then the flag stays True.
# Seen: bytes are added. After one step the byte is 2, which torch takes for True; after eight it has gone round to 0: False on both ranks.
#   So it is after one step of 256 ranks. With MAX it stays 1.
# For this project: ranks say what they used as Python objects (learner/world.py, add_gradients), not as sums of booleans.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/flag.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS, STEPS = 2, 8


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    found = []
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        flag = torch.tensor([True])
        for _ in range(STEPS):
            dist.all_reduce(flag, op)
            found.append((bool(flag), int(flag.view(torch.uint8))))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    mp.spawn(work, (folder,), nprocs=RANKS)
    first, second = [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]
    print(f"torch {torch.__version__}, {RANKS} ranks with a flag that is True on both, added up {STEPS} times")
    print("expected: True after each step, a byte of 1; or an error")
    print(f"seen:     {first[:STEPS]} (SUM: value and byte)")
    print(f"seen:     {first[STEPS:]} (MAX)")
    print("source:   torch/csrc/distributed/c10d/ProcessGroupGloo: at::kBool is dispatched to a function of uint8_t")
    assert first == second, f"changed: {second}"
    assert first[:STEPS] == [(step < STEPS, 2**step % 256) for step in range(1, STEPS + 1)], "changed: SUM"
    assert first[STEPS:] == [(True, 1)] * STEPS, "changed: MAX"
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -I "$folder/flag.py" "$folder"
