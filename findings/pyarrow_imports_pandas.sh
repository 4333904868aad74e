#!/usr/bin/env bash
# pyarrow 26.0.1: an array of Python's or numpy's numbers, and one made numpy's, imports pandas where that is installed.
#
# What: a column of four int32 is made by pa.array of a list, by pa.array of a numpy array and by Array.from_buffers, and read by
#   to_numpy, to_pylist and np.frombuffer of its buffer, each in a process of its own.
# Guess: pandas is imported where a data frame is asked for, to_pandas. Nothing else has to know of it.
# Seen: pa.array imports it for a list and for a numpy array of int32, and to_numpy does, though it copies nothing. from_buffers,
#   to_pylist and np.frombuffer do not. The process has some 50 MiB more from then on: pandas, and Arrow's functions and their
#   libraries, which pandas imports in its turn. Where pandas is absent all work as well.
# For this project: batches are made of buffers and read from them (the module of Arrow streams), so that service and client hold no
#   pandas.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6

cat > "$folder/imported.py" <<'PYTHON'
import json
import subprocess
import sys

BEGIN = """
import json, sys
import numpy as np, pyarrow as pa

def resident():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

numbers = np.arange(4, dtype=np.int32)
column = pa.Array.from_buffers(pa.int32(), 4, [None, pa.py_buffer(numbers)])
assert "pandas" not in sys.modules
before = resident()
"""
END = """
print(json.dumps([name in sys.modules for name in ("pandas", "pyarrow.compute")] + [resident() - before]))
"""
WAYS = {
    "pa.array([0, 1, 2, 3])": True,
    "pa.array(numbers)": True,
    "column.to_numpy()": True,
    "pa.Array.from_buffers(pa.int32(), 4, [None, pa.py_buffer(numbers)])": False,
    "column.to_pylist()": False,
    "np.frombuffer(column.buffers()[1], np.int32)": False,
}

print("expected: none of them imports pandas")
seen = {}
for way in WAYS:
    done = subprocess.run([sys.executable, "-c", BEGIN + way + END], capture_output=True, text=True, check=True)
    seen[way] = json.loads(done.stdout)
    pandas, functions, grown = seen[way]
    print(f"seen:     {way}: pandas {pandas}, pyarrow.compute {functions}, {grown:.0f} MiB more")
print("source:   _is_array_like and get_values in pyarrow/array.pxi ask pyarrow/pandas-shim.pxi, which imports; to_numpy")
print("          goes by way of C++'s ConvertArrayToPandas: InitPandasStaticData in arrow/python/helpers.cc")
for way, imports in WAYS.items():
    assert seen[way][:2] == [imports, imports], f"changed: {way}: {seen[way]}"
    assert (seen[way][2] > 20) == imports, f"changed: {way}: {seen[way][2]:.0f} MiB"
print("as described")
PYTHON
cd "$folder" && venv/bin/python imported.py
