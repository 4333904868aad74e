#!/usr/bin/env bash
# torch 2.14.1 x datasets 5.2.0: a DataLoader goes past a data set that wraps another and hands on its attributes.
#
# What: a wrapper with __len__ and a __getitem__ of its own (a transform), and __getattr__ for all else, as wrappers have it; around a
#   Dataset of datasets, a Subset of torch, and a plain list. Its rows one by one, and from a DataLoader.
# Guess: the loader asks the wrapper's __getitem__ for each row: that is what a map-style data set has to have.
# Seen: around a Dataset or a Subset the rows come without the transform, from the list with it. The loader looks for __getitems__, which
#   __getattr__ finds in what is wrapped. A subclass of Subset that forgets __getitems__ is an error since a recent version; a wrapper
#   is not noticed. wrapper[0] is right, so is a test of it.
# For this project: a BufferDataset has __getitems__, and so a wrapper around it needs its own; docs/client.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 datasets==5.2.0 numpy==2.4.6

"$folder/venv/bin/python" -W ignore -I - <<'PYTHON'
import datasets
import torch
from torch.utils.data import DataLoader, Subset


class Negated:
    """The rows of another data set with their number turned round."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __len__(self):
        return len(self.wrapped)

    def __getitem__(self, place):
        return {"number": -self.wrapped[place]["number"]}

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


def main():
    rows = [{"number": number} for number in (1, 2, 3, 4)]
    of_datasets = datasets.Dataset.from_list(rows)
    print(f"torch {torch.__version__}, datasets {datasets.__version__}")
    print("expected: [-1, -2, -3, -4] from each")
    seen = {}
    for name, wrapped in (("list", rows), ("datasets", of_datasets), ("Subset of a list", Subset(rows, range(4)))):
        data = Negated(wrapped)
        assert [data[place]["number"] for place in range(4)] == [-1, -2, -3, -4]
        seen[name] = torch.cat([batch["number"] for batch in DataLoader(data, batch_size=2)]).tolist()
        print(f"seen:     {seen[name]} ({name})")
    print("source:   torch/utils/data/_utils/fetch.py, _MapDatasetFetcher.fetch: hasattr(dataset, '__getitems__')")
    assert seen == {"list": [-1, -2, -3, -4], "datasets": [1, 2, 3, 4], "Subset of a list": [1, 2, 3, 4]}, f"changed: {seen}"
    print("as described")


main()
PYTHON
