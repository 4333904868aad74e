#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same metadata make another file at each call.
#
# What: save() of the same tensors, with and without a metadata dictionary of seven strings, twenty times.
# Guess: the same bytes each time. Tensors are put in order, by type and name, whatever the dictionary's order.
# Seen: without metadata they are; with it each call gives other bytes, in one process too. Read back all is equal.
# For this project: a checksum of such a file names one writing of it, not its weights. learner/model/backbones/weights.py
#   writes without metadata (_cached), so that the same weights are the same bytes on every machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import json

import numpy as np
import safetensors
from safetensors.numpy import load, save

TENSORS = {f"t{number}": np.full(3, number, dtype=np.float32) for number in range(5)}
METADATA = {name: name for name in ("format", "model", "epochs", "seed", "date", "data", "licence")}
CALLS = 20


def header(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


plain = {save(TENSORS) for _ in range(CALLS)}
written = [save(TENSORS, metadata=METADATA) for _ in range(CALLS)]
print(f"safetensors {safetensors.__version__}, {CALLS} calls each")
print("expected: one file without metadata, one with it")
print(f"seen:     {len(plain)} without, {len(set(written))} with it, the order of names for instance:")
for data in written[:2]:
    print("         ", *header(data)["__metadata__"])
print("source:   safetensors/src/tensor.rs of huggingface/safetensors, struct Metadata: a HashMap, whose order is drawn anew for")
print("          each; issue 584 there")
assert len(plain) == 1, "changed: without metadata"
assert all(header(data)["__metadata__"] == METADATA for data in written), "changed: what is read"
assert all(np.array_equal(load(written[0])[name], TENSORS[name]) for name in TENSORS)
# Seven names have 5,040 orders; that all calls draw the same one is out of the question.
assert len(set(written)) > 1, "changed: the bytes are the same now"
print("as described")
PYTHON
