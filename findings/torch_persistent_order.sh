#!/usr/bin/env bash
# torch 2.14.1: persistent_workers=True gives the second epoch another order than the same seed does without it.
#
# What: eight rows, shuffle=True, a generator with the seed 0, three epochs: by DataLoader without workers, with one, with two, and with two
#   that are kept; and by torchdata 0.11.0's StatefulDataLoader. The same with torch.manual_seed in the place of the generator.
# Guess: the order is the sampler's, drawn in the main process from the generator. How many workers there are, and whether they are
#   kept, decides how fast it is, and what a transform of random numbers draws; not which row comes when.
# Seen: the first epoch is the same for all DataLoaders, and with any number of workers so are the others. With kept workers the second and
#   third are others: a seed for the workers is drawn from that generator as each epoch begins, and none where they are kept.
#   StatefulDataLoader has another order from the first epoch on, for its sampler draws otherwise; kept workers change it, too.
# For this project: a draw follows its seed and step, whatever loader there is. Places of a buffer's data set are drawn by a loader:
#   docs/client.md says what to keep as it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchdata==0.11.0 numpy==2.4.6

cat > "$folder/order.py" <<'PYTHON'
from importlib.metadata import version

import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS = list(range(8))
WORKERS = ((0, False), (1, False), (2, False), (2, True))


def epochs(loader_class, workers, kept, own_generator):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0) if own_generator else None
    loader = loader_class(
        ROWS, batch_size=None, shuffle=True, generator=generator, num_workers=workers, persistent_workers=kept
    )
    return [[int(row) for row in loader] for _ in range(3)]


def main():
    print(f"torch {torch.__version__}, torchdata {version('torchdata')}")
    for own_generator in (True, False):
        plain = epochs(DataLoader, 0, False, own_generator)
        print(f"expected: {plain} in all cases ({'a generator' if own_generator else 'manual_seed'})")
        found = {}
        for loader_class in (DataLoader, StatefulDataLoader):
            for workers, kept in WORKERS:
                seen = epochs(loader_class, workers, kept, own_generator)
                found[loader_class, workers, kept] = same = [one == other for one, other in zip(seen, plain, strict=True)]
                print(f"seen:     {loader_class.__name__}, {workers} workers{', kept' * kept}: the same {same}")
        stateful = [epochs(StatefulDataLoader, 2, kept, own_generator) for kept in (False, True)]
        same = [one == other for one, other in zip(*stateful, strict=True)]
        print(f"          StatefulDataLoader, 2 workers, and the same kept: the same {same}")
        assert same == [True, False, False], f"changed: {same}"
        for workers, kept in WORKERS:
            described = [True, not kept, not kept]
            assert found[DataLoader, workers, kept] == described, f"changed: DataLoader, {workers}, {kept}"
            assert not any(found[StatefulDataLoader, workers, kept]), f"changed: StatefulDataLoader, {workers}, {kept}"
    print("source: torch/utils/data/dataloader.py: _BaseDataLoaderIter.__init__ draws _base_seed from the loader's generator, and kept")
    print("        workers' iterator is made once; torchdata/stateful_dataloader/sampler.py has a RandomSampler of its own")
    print("as described")


if __name__ == "__main__":
    main()
PYTHON
"$folder/venv/bin/python" -W ignore -I "$folder/order.py"
