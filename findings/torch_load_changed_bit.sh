#!/usr/bin/env bash
# torch 2.14.1: torch.load does not look at a checkpoint's CRC-32; a changed bit of a tensor loads without an error.
#
# What: a checkpoint, saved to a file, in which one bit of one number is turned.
# Guess: an error: the file is a ZIP with a CRC-32 of each member, and zipfile.testzip reports it.
# Seen: the wrong number, from a path, from memory and mapped, with weights_only and without.
# For this project: a run that goes on from its checkpoint would go on wrongly. It went into learner/run/checkpoint.py (load),
#   which lets zipfile look first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

path = Path(sys.argv[1]) / "checkpoint.pt"
torch.save({"weights": torch.arange(1000.0)}, path)
assert zipfile.ZipFile(path).testzip() is None
data = bytearray(path.read_bytes())
data[data.index(np.float32(500).tobytes()) + 2] ^= 1
path.write_bytes(data)
WAYS = {
    "a path": lambda: torch.load(path),
    "memory": lambda: torch.load(io.BytesIO(data)),
    "a path, mmap=True": lambda: torch.load(path, mmap=True),
    "a path, weights_only=False": lambda: torch.load(path, weights_only=False),
}


def read(load):
    try:
        return float(load()["weights"][500])
    except RuntimeError as error:
        return type(error).__name__


print(f"torch {torch.__version__}: one bit of 500.0 turned; zipfile finds wrong: {zipfile.ZipFile(path).testzip()}")
print("expected: an error, but for mmap")
seen = {name: read(load) for name, load in WAYS.items()}
for name, value in seen.items():
    print(f"seen:     from {name}: {value}")
print("source:   cmake/Dependencies.cmake of pytorch/pytorch: MINIZ_DISABLE_ZIP_READER_CRC32_CHECKS; the archive is read by")
print("          PyTorchStreamReader in caffe2/serialize/inline_container.cc")
assert zipfile.ZipFile(path).testzip() is not None
assert set(seen.values()) == {502.0}, f"changed: {seen}"
print("as described")
PYTHON
