#!/usr/bin/env bash
# tensordict 0.14.3: what is no tensor comes back from memmap as another value: infinity and NaN as None, a tuple as a list.
#
# What: numbers, tuples, dictionaries and bytes as NonTensorData of a TensorDict, written with memmap and read with load_memmap; with
#   orjson, which is taken where it is installed, and with Python's json.
# Guess: the same values: it keeps bytes and a dictionary with the key 1, so it pickles what JSON does not hold.
# Seen: with orjson nan, inf and -inf are None, without a word; with json they stay, in a file that is no JSON. (1, 2) is [1, 2] with
#   both. It asks by type alone what JSON can write, and a float, a tuple and a set are taken to be that; a set is an error then.
# For this project: rows of torchrl's buffers are tensors (learner/adapters/torchrl.py), and scores that are not finite are refused. Who
#   dumps such a buffer keeps numbers as tensors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 tensordict==0.14.3 orjson==3.13.0 numpy==2.4.6

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from tensordict import NonTensorData, TensorDict
from tensordict.utils import get_json_backend, set_json_backend

folder = Path(sys.argv[1])
VALUES = {  # as it was given, as it comes back with orjson, and with json
    "nan": (math.nan, None, math.nan),
    "inf": (math.inf, None, math.inf),
    "-inf in a list": ([-math.inf, 1.5], [None, 1.5], [-math.inf, 1.5]),
    "tuple": ((1, 2), [1, 2], [1, 2]),
    "key that is a number": ({1: "a"}, {1: "a"}, {1: "a"}),
    "bytes": (b"a", b"a", b"a"),
    "float": (1.5, 1.5, 1.5),
}


def written_and_read(path, value):
    rows = TensorDict({"x": torch.zeros(2), "given": NonTensorData(value, batch_size=[2])}, [2])
    rows.memmap(path)
    return TensorDict.load_memmap(path)["given"]


print(f"tensordict {version('tensordict')}, torch {torch.__version__}, orjson {version('orjson')}")
assert get_json_backend().__name__ == "orjson", "changed: orjson is not taken by itself"
for place, backend in enumerate(("orjson", "json"), 1):
    set_json_backend(backend)
    for number, (name, described) in enumerate(VALUES.items()):
        found = written_and_read(folder / f"{backend}{number}", described[0])
        print(f"{backend:6} {name}: expected {described[0]!r}; seen {found!r}")
        assert repr(found) == repr(described[place]), f"changed: {found!r}"
print("source: tensordict/utils.py, _is_json_serializable: by type; tensordict/_utils_key_json.py: orjson, which writes null for what is")
print("        not finite, where it is installed")
print("as described")
PYTHON
