#!/usr/bin/env bash
# torch 2.14.1: over two ranks, the gradient of mse_loss of a sharded DTensor is twice what it is, and the loss of uneven shards another.
#
# What: mse_loss, huber_loss, binary_cross_entropy, l1_loss and the mean of squares written out, of DTensors with 4 or 5 rows over
#   two ranks of gloo: loss and gradient as full tensors, against those of plain tensors.
# Guess: a DTensor computes what a plain tensor does, whatever it is sharded over; what it cannot, is an error.
# Seen: the gradients of mse_loss, huber_loss and binary_cross_entropy are double with even shards, and so a step is; l1_loss and the mean
#   written out are right. With 5 rows the losses too are the mean of two means, of 3 and of 2 rows.
# For this project: ranks add up sums and divide them by the count of all (learner/training/train.py), with plain tensors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/losses.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional

LOSSES = {
    "mse_loss": functional.mse_loss,
    "huber_loss": functional.huber_loss,
    "binary_cross_entropy": functional.binary_cross_entropy,
    "l1_loss": functional.l1_loss,
    "squares": lambda said, right: (said - right).pow(2).mean(),
}


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    found = {}
    for rows in (4, 5):
        said, right = 0.05 + 0.9 * torch.rand(2, rows, 3)
        for name, loss in LOSSES.items():
            plain = said.clone().requires_grad_()
            plain_loss = loss(plain, right)
            plain_loss.backward()
            shards = distribute_tensor(said, mesh, [Shard(0)]).requires_grad_()
            shards_loss = loss(shards, distribute_tensor(right, mesh, [Shard(0)]))
            shards_loss.backward()
            grown = (shards.grad.full_tensor() / plain.grad).flatten()
            found[rows, name] = (float(shards_loss.full_tensor() / plain_loss), float(grown.min()), float(grown.max()))
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


def main(folder):
    mp.spawn(work, (folder,), nprocs=2)
    found = torch.load(folder / "found.pt")
    print(f"torch {torch.__version__}, two ranks: loss and gradient of a DTensor as multiples of the plain tensor's")
    print("expected: 1.0 everywhere")
    for (rows, name), (loss, least, most) in found.items():
        print(f"seen:     {rows} rows, {name}: loss {loss:.3f}, gradient {least:.3f} to {most:.3f}")
    print("source:   torch/distributed/tensor/_sharding_prop.py: what has no strategy of its own gets that of its decomposition, and then")
    print("          runs on each shard with the count of that shard, backwards too; nothing divides the gradient by the ranks")
    one = lambda value: abs(value - 1) < 1e-4  # noqa: E731
    for name in ("l1_loss", "squares"):
        assert all(one(value) for rows in (4, 5) for value in found[rows, name]), f"changed: {name}"
    for name in ("mse_loss", "huber_loss", "binary_cross_entropy"):
        loss, least, most = found[4, name]
        assert one(loss) and one(least / 2) and one(most / 2), f"changed: {name} of 4 rows"
        assert not one(found[5, name][0]) and found[5, name][2] > 1.5, f"changed: {name} of 5 rows"
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/losses.py" "$folder" 2>/dev/null
