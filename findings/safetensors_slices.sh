#!/usr/bin/env bash
# safetensors 0.8.0: get_slice does not end a slice where the tensor ends, and cannot read a tensor without rows.
#
# What: rows of a (5, 3) tensor by safe_open(...).get_slice(name)[...], beside numpy's; batches of two rows; a tensor (0, 3) by
#   get_slice and by get_tensor.
# Guess: slices as numpy, torch and h5py have them: cut off at the end, counted from the end by a minus, empty where nothing is left.
#   [-1], which works, makes one think so.
# Seen: [4:6] is an error, so the last batch of two is, too. [5:], [-2:] and [:-1] are errors, of two kinds. [:] of a tensor
#   without rows is an error, where get_tensor gives it.
# For this project: weights are read whole (load_file, learner/model/backbones/weights.py), and a buffer without records is a
#   valid one. Who cuts a file of features into batches ends the last slice at get_shape()[0], and asks for no empty one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

path = sys.argv[1] + "/rows.safetensors"
rows = np.arange(15, dtype=np.float32).reshape(5, 3)
save_file({"rows": rows, "none": rows[:0]}, path)
ASKED = {"0:2": True, "2:5": True, "-1": True, "4:6": False, "5:": False, "-2:": False, ":-1": False}
print(f"safetensors {version('safetensors')}, numpy {np.__version__}, a tensor {rows.shape}")
print("expected: each as numpy has it")
answers = {}
with safe_open(path, "np") as file:
    for asked in ASKED:
        places = eval(f"np.s_[{asked}]")
        try:
            found = file.get_slice("rows")[places]
            assert np.array_equal(found, rows[places])
            answers[asked] = True
            print(f"seen:     [{asked}]: as numpy")
        except (SafetensorError, OverflowError) as error:
            answers[asked] = False
            print(f"seen:     [{asked}]: numpy {rows[places].shape}, get_slice {type(error).__name__}: {str(error)[:90]}")
    whole = file.get_tensor("none").shape
    try:
        print(f"          [:] of {whole}: {file.get_slice('none')[:].shape}")
        raised = False
    except SafetensorError as error:
        print(f"seen:     [:] of {whole}, which get_tensor reads: {error}")
        raised = True
print("source:   safetensors/src/slice.rs: SliceOutOfRange where an end lies behind the tensor; bindings/python/src/lib.rs: the ends of a")
print("          slice are unsigned")
assert answers == ASKED, f"changed: {answers}"
assert raised and whole == (0, 3), "changed: a tensor without rows"
print("as described")
PYTHON
