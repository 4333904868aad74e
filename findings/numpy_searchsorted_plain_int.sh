#!/usr/bin/env bash
# numpy 2.4.6: searchsorted finds a Python int in uint64 through float64: at a wrong place, and a thousand times slower.
#
# What: the place of 2^53 + 1 among uint64 numbers, asked for as a Python int and as np.uint64; the same with int64; and one look-up
#   in ten million numbers, timed. `==` and isin for comparison.
# Guess: since numpy 2 a Python int takes the array's type (NEP 50), as it does in `==`, `+` and np.where. A look-up takes some
#   microseconds.
# Seen: the place before. Both sides become float64, where 2^53 + 1 is 2^53, and so all of the array is copied at each call: some
#   10 ms for ten million. np.uint64(n) is found where it is, at once. searchsorted makes an array of the number first, of
#   int64, and uint64 with int64 is float64. np.append, np.concatenate and np.intersect1d do so too; isin and insert do not.
# For this project: ids are uint64. Both sides of every searchsorted are (store/reads.py says so where an id
#   comes from a request).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import statistics
import time

import numpy as np

FIRST = 2**53
ids = np.array([FIRST, FIRST + 1, FIRST + 2], np.uint64)
many = np.arange(10_000_000, dtype=np.uint64)


def seconds(number):
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        found = int(np.searchsorted(many, number))
        taken.append(time.perf_counter() - start)
        assert found == 5_000_000
    return statistics.median(taken)


as_int, as_uint64 = int(np.searchsorted(ids, FIRST + 1)), int(np.searchsorted(ids, np.uint64(FIRST + 1)))
among_int64 = int(np.searchsorted(ids.astype(np.int64), FIRST + 1))
slow, quick = seconds(5_000_000), seconds(np.uint64(5_000_000))
print(f"numpy {np.__version__}: 2^53 + 1 among 2^53, 2^53 + 1, 2^53 + 2 as uint64")
print(f"expected: place 1; `==` says {(ids == FIRST + 1).tolist()}, isin {np.isin(ids, [FIRST + 1]).tolist()}")
print(f"seen:     place {as_int} of the Python int, {as_uint64} of np.uint64; {among_int64} of the Python int among int64")
print(f"          one look-up in ten million: {slow * 1e6:,.0f} us for the int, {quick * 1e6:,.1f} us for np.uint64")
print(f"          np.append(ids, 5): {np.append(ids, 5).dtype}; np.insert(ids, 0, 5): {np.insert(ids, 0, 5).dtype}")
print(f"          np.intersect1d(ids, [2^53 + 1]): {len(np.intersect1d(ids, [FIRST + 1]))} numbers, not 1")
print("source:   PyArray_SearchSorted in numpy/_core/src/multiarray/item_selection.c: PyArray_DescrFromObject of the number, which is")
print("          int64, joined with the array's type: no ufunc, and so no NEP 50")
assert (as_int, as_uint64, among_int64) == (0, 1, 1), "changed: places"
assert (ids == FIRST + 1).tolist() == np.isin(ids, [FIRST + 1]).tolist() == [False, True, False]
assert np.append(ids, 5).dtype == np.float64 and np.insert(ids, 0, 5).dtype == np.uint64, "changed: append or insert"
assert len(np.intersect1d(ids, [FIRST + 1])) == 2, "changed: intersect1d"
assert slow > 20 * quick, f"changed: {slow} s and {quick} s"
print("as described")
PYTHON
