#!/usr/bin/env bash
# numpy 2.4.6: Philox(key=...) asks the system for entropy and throws it away.
#
# What: a generator whose whole state is given by its key and counter, one for each of many streams of random numbers.
# Guess: it is made of the key, and the same everywhere: neither the system is asked, nor does it take longer than a seed.
# Seen: each asks the system for 128 random bits, makes a seed sequence of them, and then takes the key in its place. That is
#   three times as long as with a seed sequence of one's own that hands out the key, which gives the same numbers.
# For this project: each draw has a generator of its own, keyed by buffer, version, seed and step. The sampler
#   (store/pure/sampler.py) hands the key over by a seed sequence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import secrets
import statistics
import time

asked = []
randbits = secrets.randbits


def counting(bits):
    asked.append(bits)
    return randbits(bits)


secrets.randbits = counting  # before numpy takes it

import numpy as np
from numpy.random.bit_generator import ISeedSequence

KEY = np.array([7, 8], dtype=np.uint64)


class Handed(ISeedSequence):
    def generate_state(self, n_words, dtype=np.uint32):
        return KEY


WAYS = {"Philox(key=KEY)": lambda: np.random.Philox(key=KEY), "Philox(Handed())": lambda: np.random.Philox(Handed())}
print(f"numpy {np.__version__}")
print("expected: a generator that is given its key asks for nothing")
numbers, counts, seconds = {}, {}, {way: [] for way in WAYS}
for way, make in WAYS.items():
    asked.clear()
    numbers[way] = make().random_raw(4).tolist()
    counts[way] = list(asked)
secrets.randbits = randbits
for _ in range(200):
    for way, make in WAYS.items():
        began = time.perf_counter()
        for _ in range(20):
            make()
        seconds[way].append((time.perf_counter() - began) / 20)
for way in WAYS:
    took = 1e6 * statistics.median(seconds[way])
    print(f"seen:     {way}: {sum(counts[way])} bits of the system's, {took:.1f} us, numbers {numbers[way][0]:#x}, ...")
print(f"          Philox(key=KEY).seed_seq is {np.random.Philox(key=KEY).seed_seq}")
print("source:   Philox.__init__ in numpy/random/_philox.pyx calls BitGenerator.__init__(self, None), which makes a SeedSequence of")
print("          the system's entropy; then it takes the key, and sets _seed_seq to None")
assert counts == {"Philox(key=KEY)": [128], "Philox(Handed())": []}, f"changed: {counts}"
assert numbers["Philox(key=KEY)"] == numbers["Philox(Handed())"], "changed: other numbers"
assert np.random.Philox(key=KEY).seed_seq is None, "changed: seed_seq"
print("as described")
PYTHON
