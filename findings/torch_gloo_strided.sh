#!/usr/bin/env bash
# torch 2.14.1, gloo: all_reduce of two columns of a matrix adds up other numbers, and writes over their neighbours.
#
# What: on two ranks a matrix of 3 x 4, of which two columns (a view) are added up, and once sent from the first rank, by
#   all_reduce and broadcast. all_gather of the same view, and send, for comparison.
# Guess: the columns are added up in the matrix, as `columns += other` would do it; or an error, as NCCL and send give it.
# Seen: neither. Six numbers in a row are added up from where the view begins, gaps and all: the columns' last numbers are not,
#   and others are that nobody named. all_gather is right, send refuses.
# For this project: learners join what they add up in one new tensor (learner/world.py), which is contiguous.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/columns.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2


def of(rank):
    """A matrix, and two of its columns as a view."""
    matrix = torch.arange(12.0).reshape(3, 4) + 100 * rank
    return matrix, matrix[:, 1:3]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    found = {}
    found["all_reduce"], columns = of(rank)
    dist.all_reduce(columns)
    found["broadcast"], columns = of(rank)
    dist.broadcast(columns, src=0)
    _, columns = of(rank)
    gathered = [torch.zeros(columns.shape) for _ in range(RANKS)]
    dist.all_gather(gathered, columns)
    found["all_gather"] = torch.stack(gathered)
    try:
        dist.isend(columns, 1 - rank)
        found["send"] = "taken"
    except RuntimeError as error:
        found["send"] = str(error)
    dist.barrier()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    mp.spawn(work, (folder,), nprocs=RANKS)
    second = torch.load(folder / "1.pt")
    expected = {name: of(1)[0] for name in ("all_reduce", "broadcast")}
    expected["all_reduce"][:, 1:3] += of(0)[1]
    expected["broadcast"][:, 1:3] = of(0)[1]
    print(f"torch {torch.__version__}, the matrix of the second rank")
    for name, matrix in expected.items():
        print(f"{name}, expected: {matrix.int().tolist()}")
        print(f"{name}, seen:     {second[name].int().tolist()}")
    print(f"send: {second['send']}")
    print("source: torch/csrc/distributed/c10d/ProcessGroupGloo.cpp: gloo gets data_ptr and numel of the tensor, and no strides;")
    print("        pytorch/pytorch#192920 says so of broadcast, reduce and scatter")
    assert torch.equal(second["all_gather"], torch.stack([of(rank)[1] for rank in range(RANKS)])), "changed: all_gather"
    assert "contiguous" in second["send"], "changed: send"
    # Six numbers in a row, from the second on.
    for name, in_a_row in (("all_reduce", of(0)[0] + of(1)[0]), ("broadcast", of(0)[0])):
        seen = of(1)[0].flatten()
        seen[1:7] = in_a_row.flatten()[1:7]
        assert torch.equal(second[name].flatten(), seen), f"changed: {name}"
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -I "$folder/columns.py" "$folder"
