#!/usr/bin/env bash
# zarr 3.1.6: an assignment to one field of a structured array sets all of its fields; zarr 2.18.7 sets the one.
#
# What: three records with an id and a loss, in format 2 and 3. One field is set by `array["loss"] = ...`, by the keyword `fields` of
#   `set_basic_selection` and three others that have it, and read by `array["loss"]`.
# Guess: the field is set and the other stays, as numpy does it and the keyword's documentation says; or there is an error.
# Seen: the new losses are the ids, too, each converted. Nothing is said. Reading one field raises an error. The source of zarr 3.4.2,
#   which needs Python 3.12, has the same lines.
# For this project: what many readers share has one array for each column, never records (docs/format.md, segments).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
install() {
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
}
install three zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6
install two zarr==2.18.7 numcodecs==0.15.1 numpy==2.4.6

cat > "$folder/field.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
import zarr

IS_THREE = version("zarr").startswith("3.")
RECORDS = np.array([(1, 0.5), (2, 1.5), (3, 2.5)], [("id", "<u4"), ("loss", "<f4")])
LOSSES = np.array([7, 8, 9], np.float32)
WAYS = {
    'array["loss"] = losses': lambda array: array.__setitem__("loss", LOSSES),
    'array["loss", 1:] = losses': lambda array: array.__setitem__(("loss", slice(1, None)), LOSSES[1:]),
    "set_basic_selection": lambda array: array.set_basic_selection(slice(None), LOSSES, fields="loss"),
    "set_orthogonal_selection": lambda array: array.set_orthogonal_selection([0, 2], LOSSES[::2], fields="loss"),
    "set_coordinate_selection": lambda array: array.set_coordinate_selection([0, 2], LOSSES[::2], fields="loss"),
    "set_mask_selection": lambda array: array.set_mask_selection(np.array([True, False, True]), LOSSES[::2], fields="loss"),
}


def new(format_number):
    if IS_THREE:
        array = zarr.create_array({}, shape=3, chunks=2, dtype=RECORDS.dtype, zarr_format=format_number)
    else:
        array = zarr.open_array({}, mode="w", shape=3, chunks=2, dtype=RECORDS.dtype)
    array[:] = RECORDS
    return array


seen = {}
for format_number in (2, 3) if IS_THREE else (2,):
    for name, way in WAYS.items():
        array = new(format_number)
        way(array)
        seen[f"format {format_number}, {name}"] = array[:]
    try:
        read = new(format_number)["loss"].tolist()
    except TypeError as error:
        read = f"TypeError: {error}"
    seen[f"format {format_number}, array['loss']"] = read
print(f"zarr {version('zarr')}; records {RECORDS.tolist()}, losses {LOSSES.tolist()}; expected: the ids stay 1, 2, 3")
for name, what in seen.items():
    print(f"seen: {name:38} {what if isinstance(what, (str, list)) else what.tolist()}")
    if isinstance(what, np.ndarray):
        kept = what["id"].tolist() == [1, 2, 3]
        assert kept is not IS_THREE, f"changed: {name}"
        assert what["loss"][2] == 9, f"changed: {name}"
        if IS_THREE:
            assert what["id"][2] == 9, f"changed: {name}"
    else:
        assert isinstance(what, str) is IS_THREE, f"changed: {name}"
PYTHON
"$folder/two/bin/python" -I -W ignore "$folder/field.py"
"$folder/three/bin/python" -I -W ignore "$folder/field.py"
echo "source: _set_selection in zarr/core/array.py checks \`fields\` and then leaves it out: the value is converted to the whole record's type, and numpy"
echo "        gives a number to every field; zarr 2 handed \`fields\` on to what writes a chunk"
echo "as described"
