#!/usr/bin/env bash
# zarr 3.1.6: where a position is assigned twice, any of its values stays, once there are several chunks.
#
# What: 1,000 positions among 10 are assigned the numbers 1 to 1,000, by vindex, by oindex and by plain brackets, into arrays of
#   chunks of 10, 5 and 1. The same with numpy and with TensorStore 0.1.86.
# Guess: what is assigned last stays, as numpy's documentation has it, however the array is chunked.
# Seen: with one chunk it does. With two chunks 7 of 10 places hold some earlier value, with ten chunks 8 of 10, without a word. The positions are grouped by chunk with a sort that is not stable. TensorStore keeps the last.
# For this project: a change that names an exemplar twice is refused, by the client and by the service (client/_changes.py,
#   store/updates.py): which of two values is meant is nothing that libraries agree on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 tensorstore==0.1.86 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import tensorstore
import zarr

PLACES = 10
positions = np.random.default_rng(0).integers(0, PLACES, 1000)
values = np.arange(1, 1001)
last = np.zeros(PLACES, np.int64)
last[positions] = values


def by_zarr(chunk, way):
    array = zarr.create_array({}, shape=(PLACES,), chunks=(chunk,), dtype="int64")
    (getattr(array, way) if way else array)[positions] = values
    return array[:]


def by_tensorstore(chunk):
    grid = {"name": "regular", "configuration": {"chunk_shape": [chunk]}}
    metadata = {"shape": [PLACES], "data_type": "int64", "chunk_grid": grid}
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": metadata}
    array = tensorstore.open(spec, create=True).result()
    array[positions] = values
    return array.read().result()


print(f"zarr {zarr.__version__}, numpy {np.__version__}, TensorStore {version('tensorstore')}")
print(f"expected: {last.tolist()} (numpy)")
wrong = {}
for chunk in (10, 5, 1):
    assert np.array_equal(by_tensorstore(chunk), last), f"changed: TensorStore, {chunk}"
    for way in ("vindex", "oindex", ""):
        found = by_zarr(chunk, way)
        wrong[chunk, way] = int((found != last).sum())
        print(f"seen:     {found.tolist()} ({way or 'brackets'}, chunks of {chunk}: {wrong[chunk, way]} are not the last)")
print("          TensorStore: the last, with any chunks")
print("source:   zarr/core/indexing.py: np.argsort(dim_sel_chunk) in IntArrayDimIndexer and np.argsort(chunks_raveled_indices) in")
print("          CoordinateIndexer, without kind='stable'")
assert {key[0] for key, count in wrong.items() if not count} == {10}, f"changed: {wrong}"
assert all(count >= 3 for key, count in wrong.items() if key[0] != 10), f"changed: {wrong}"
print("as described")
PYTHON
