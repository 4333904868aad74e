#!/usr/bin/env bash
# numpy 2.4.6 takes more than ten times as long for SQLAlchemy's rows as for the same tuples.
#
# What: np.array() over a list of sqlalchemy.Row of three integers.
# Guess: as fast as over tuples. A Row unpacks, compares and prints like a tuple.
# Seen: a Row is no tuple, so numpy first asks each one whether it is an array, by three attributes. Row has a
#   __getattr__, which looks for a column of each name, finds none, and raises one error from another. That is where
#   the time goes: a plain Sequence without __getattr__ is several times as fast.
# For this project: opening a buffer with 500,000 deaths took 13.6 s, tuples 0.5 s. It went into
#   the store (store/rows.py, read_buffers): the database joins the numbers of a segment into one string.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 SQLAlchemy==2.1.9

"$folder/venv/bin/python" -I - <<'PYTHON'
import time
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

NUM_ROWS = 50_000


class Plain(Sequence):
    """As a Row, but without names for its values."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


class Asked:
    """Remembers which attributes it was asked for."""

    names: list[str] = []

    def __getattr__(self, name):
        self.names.append(name)
        raise AttributeError(name)


def seconds(values):
    taken = []
    for _ in range(3):
        start = time.process_time()
        array = np.array(values)
        taken.append(time.process_time() - start)
    assert array.shape == (NUM_ROWS, 3) and array.dtype == np.int64, (array.shape, array.dtype)
    return min(taken)


with sa.create_engine("sqlite://").connect() as connection:
    connection.execute(sa.text("CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER)"))
    numbers = [{"a": i, "b": 2 * i, "c": 3 * i} for i in range(NUM_ROWS)]
    connection.execute(sa.text("INSERT INTO t VALUES (:a, :b, :c)"), numbers)
    rows = connection.execute(sa.text("SELECT a, b, c FROM t")).all()
tuples = [tuple(row) for row in rows]
assert rows == tuples
np.array([Asked()])
of_rows, of_plain, of_tuples = seconds(rows), seconds([Plain(values) for values in tuples]), seconds(tuples)

print(f"numpy {np.__version__}, SQLAlchemy {sa.__version__}")
print("expected: rows take about as long as tuples")
print(f"seen:     {NUM_ROWS} tuples {of_tuples:.3f} s, rows {of_rows:.3f} s: x {of_rows / of_tuples:.0f}")
print(f"          plain Sequence objects {of_plain:.3f} s: x {of_plain / of_tuples:.0f}")
print("          numpy asks each for", ", ".join(Asked.names))
print("source:   numpy: _array_from_array_like in numpy/_core/src/multiarray/ctors.c, for all but lists and tuples")
print("          SQLAlchemy: BaseRow.__getattr__ in sqlalchemy/engine/_row_cy.py, which ends in _key_not_found in")
print("          sqlalchemy/engine/result.py; Row in sqlalchemy/engine/row.py is a Sequence, no tuple")
assert not isinstance(rows[0], tuple), "changed: a Row is a tuple now"
assert Asked.names, "changed: numpy asks for no attribute"
assert of_rows > 5 * of_tuples, "changed: rows take about as long as tuples"
assert of_rows > 2 * of_plain, "changed: it is not __getattr__ that takes the time"
print("as described")
PYTHON
