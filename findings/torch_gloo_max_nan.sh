#!/usr/bin/env bash
# torch 2.14.1, gloo: the maximum over ranks loses a NaN, and with it the maximum, element by element in another way.
#
# What: four ranks hold eight equal numbers each: 0, 1, NaN and 3 by rank. all_reduce with MAX, MIN and SUM; torch.stack(...).amax
#   of the same for comparison.
# Guess: NaN everywhere, as amax, maximum and SUM say it. If NaN were passed over, 3 everywhere.
# Seen: MAX is [1, 1, 1, 1, nan, nan, 3, 3], on all ranks. Gloo takes std::max, which gives its first argument where it cannot
#   compare: NaN stays, or goes and takes what came before it along. The ring gives each piece of the tensor another order.
# For this project: learners add up over ranks and take no maxima (learner/world.py); a check for NaN over ranks is a sum.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat > "$folder/maximum.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

NAN = float("nan")
OF_RANKS = [0.0, 1.0, NAN, 3.0]
LENGTH = 8


def of(rank):
    return torch.full((LENGTH,), OF_RANKS[rank])


def work(rank, folder):
    torch.set_num_threads(1)
    world = len(OF_RANKS)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {}
    for name in ("MAX", "MIN", "SUM"):
        found[name] = of(rank)
        dist.all_reduce(found[name], getattr(dist.ReduceOp, name))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    mp.spawn(work, (folder,), nprocs=len(OF_RANKS))
    first, *others = [torch.load(folder / f"{rank}.pt") for rank in range(len(OF_RANKS))]
    alone = torch.stack([of(rank) for rank in range(len(OF_RANKS))])
    print(f"torch {torch.__version__}, {len(OF_RANKS)} ranks with {LENGTH} times {OF_RANKS}")
    print(f"expected: {alone.amax(0).tolist()} (torch.amax)")
    for name, values in first.items():
        print(f"seen:     {values.tolist()} ({name})")
    print("source:   gloo/math.h, max and min: std::max and std::min; gloo/allreduce.cc: a ring over pieces of the tensor")
    same = [torch.equal(values.nan_to_num(-1), one[name].nan_to_num(-1)) for one in others for name, values in first.items()]
    assert all(same), "changed: ranks differ"
    assert alone.amax(0).isnan().all() and first["SUM"].isnan().all(), "changed: SUM or amax"
    assert first["MAX"].nan_to_num(-1).tolist() == [1, 1, 1, 1, -1, -1, 3, 3], "changed: MAX"
    assert 0 < int(first["MIN"].isnan().sum()) < LENGTH, "changed: MIN"
    print("as described")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
PYTHON
"$folder/venv/bin/python" -I "$folder/maximum.py" "$folder"
