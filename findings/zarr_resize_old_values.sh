#!/usr/bin/env bash
# zarr 3.1.6: values that resize() cut off are there again when the array grows.
#
# What: an array of ten numbers, made smaller, then as large as before.
# Guess: what was cut off is gone, and new elements are the fill value, as in HDF5.
# Seen: chunks that lie outside as a whole are deleted. One that lies on the edge keeps all its values, and shows them
#   again. With shards it is the whole shard on the edge. tensorstore 0.1.86 does the same.
# For this project: a record is never removed by making an array smaller; compaction writes a new segment, and a sealed
#   one never changes (docs/format.md). Else what was deleted would still lie in the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6 tensorstore==0.1.86 h5py==3.16.0

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import tensorstore
import zarr

root = Path(sys.argv[1])
VALUES = np.arange(10, dtype=np.int32)
FILL = -1


def of_zarr(name, **layout):
    array = zarr.create_array(root / name, shape=(10,), dtype="int32", fill_value=FILL, **layout)
    array[:] = VALUES
    array.resize((3,))
    array.resize((10,))
    return array[:].tolist()


def of_tensorstore():
    grid = {"name": "regular", "configuration": {"chunk_shape": [4]}}
    metadata = {"shape": [10], "data_type": "int32", "fill_value": FILL, "chunk_grid": grid}
    kvstore = {"driver": "file", "path": str(root / "tensorstore")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}, create=True).result()
    array.write(VALUES).result()
    for length in (3, 10):
        array = array.resize(exclusive_max=[length]).result()
    return array.read().result().tolist()


def of_hdf5():
    with h5py.File(root / "array.h5", "w") as file:
        array = file.create_dataset("a", data=VALUES, chunks=(4,), maxshape=(None,), fillvalue=FILL)
        array.resize((3,))
        array.resize((10,))
        return array[:].tolist()


print(f"zarr {zarr.__version__}, tensorstore {version('tensorstore')}, h5py {h5py.__version__}: 10 elements, then 3, then 10")
print("expected: [0, 1, 2, -1, -1, -1, -1, -1, -1, -1]")
chunks, shards = of_zarr("chunks", chunks=(4,)), of_zarr("shards", chunks=(2,), shards=(8,))
other, hdf5 = of_tensorstore(), of_hdf5()
print(f"seen:     zarr, chunks of 4:                {chunks}")
print(f"          zarr, chunks of 2 in shards of 8: {shards}")
print(f"          tensorstore, chunks of 4:         {other}")
print(f"          HDF5, chunks of 4:                {hdf5}")
print("source:   zarr/core/array.py, _resize: keys are deleted, or the metadata alone is written")
assert chunks == [0, 1, 2, 3] + [FILL] * 6, "changed: zarr with chunks"
assert shards == [0, 1, 2, 3, 4, 5, 6, 7] + [FILL] * 2, "changed: zarr with shards"
assert other == chunks, "changed: tensorstore"
assert hdf5 == [0, 1, 2] + [FILL] * 7, "changed: HDF5"
print("as described")
PYTHON
