#!/usr/bin/env bash
# torch 2.14.1: .item() of a DTensor's sum, maximum or norm is this rank's share, and each rank has another.
#
# What: a DTensor of six rows over two ranks of gloo; float() and .item() of its sum, maximum and norm on each rank, a comparison with
#   a bound by if; and the same through full_tensor().
# Guess: one number, the same on all ranks: a DTensor stands for the whole, and what has to be summed up for that is, as in
#   print(tensor.full_tensor()) or tensor + 1. An error, if that must be asked for.
# Seen: the number of this rank's rows. So ranks that stop at a bound, or clip by a norm read with .item(), go different ways. (A
#   comparison as tensors, bool(total > bound), is right.)
# For this project: numbers of ranks are added up as numbers (learner/world.py, total).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/item.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

WHOLE = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
ASKED = {"sum": torch.sum, "max": torch.max, "norm": torch.linalg.vector_norm}


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shards = distribute_tensor(WHOLE, init_device_mesh("cpu", (2,)), [Shard(0)])
    found = {name: (ask(shards).item(), float(ask(shards)), ask(shards).full_tensor().item()) for name, ask in ASKED.items()}
    found["sum() > 50"] = (shards.sum().item() > 50, float(shards.sum()) > 50, bool(shards.sum() > 50))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    mp.spawn(work, (folder,), nprocs=2)
    ranks = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    print(f"torch {torch.__version__}, two ranks with three of {WHOLE.tolist()} each")
    for name in ranks[0]:
        right = WHOLE.sum().item() > 50 if ">" in name else ASKED[name](WHOLE).item()
        seen = [found[name][0] for found in ranks]
        print(f"{name}: expected {right} on both; seen {seen} by rank with .item(), {ranks[0][name][2]} as whole tensors")
        assert seen == [found[name][1] for found in ranks], "changed: float() differs from .item()"
        assert seen[0] != seen[1], f"changed: {seen}"
        assert all(abs(found[name][2] - right) < 1e-4 for found in ranks), "changed: whole tensors"
    print("source: torch/distributed/tensor/_sharding_prop.py: _local_scalar_dense is a special case that is answered from the local tensor,")
    print("        though its strategy in _ops/_tensor_ops.py asks for a replicated one")
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/item.py" "$folder"
