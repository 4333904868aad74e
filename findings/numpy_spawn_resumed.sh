#!/usr/bin/env bash
# numpy 2.4.6: a generator that goes on from its `state` spawns the same children again.
#
# What: a generator draws and spawns a child, and its bit_generator.state is kept. Another one, of the same seed or of a new
#   one, is given that state, as a run does that goes on from a checkpoint. Both spawn their next child.
# Guess: they go on alike: the same numbers, and the same children.
# Seen: the numbers are the same. The child of the one that goes on is the first child once more, with the
#   numbers that were used before the checkpoint; with a new seed it is one that no run ever had. How many
#   children there were is kept beside the state, in the seed sequence. pickle and copy keep both.
# For this project: no checkpoint holds a generator of numpy's. Each draw is made anew from its seed and its step
#   (store/pure/sampler.py). Who keeps one that spawns pickles all of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import copy
import pickle

import numpy as np


def numbers(rng):
    return rng.integers(0, 1000, 3).tolist()


def from_state(rng, seed):
    other = np.random.default_rng(seed)
    other.bit_generator.state = rng.bit_generator.state
    return other


rng = np.random.default_rng(0)
numbers(rng)
first_child = numbers(rng.spawn(1)[0])
resumed = {
    "state, same seed": from_state(rng, 0),
    "state, new seed": from_state(rng, 1),
    "pickle": pickle.loads(pickle.dumps(rng)),
    "deepcopy": copy.deepcopy(rng),
}
expected = numbers(rng.spawn(1)[0]), numbers(rng)
seen = {name: (numbers(other.spawn(1)[0]), numbers(other)) for name, other in resumed.items()}
print(f"numpy {np.__version__}: the first child drew {first_child}")
print(f"expected: the next child draws {expected[0]}, its parent {expected[1]}")
for name, (child, parent) in seen.items():
    print(f"seen:     by {name}: the next child {child}, its parent {parent}")
print("source:   BitGenerator.spawn in numpy/random/bit_generator.pyx asks the seed sequence, whose n_children_spawned is not")
print("          part of `state` and is of `__reduce__`; numpy/numpy issue 27882")
assert expected[0] != first_child
assert seen["state, same seed"] == (first_child, expected[1]), f"changed: {seen}"
assert seen["state, new seed"][0] not in (first_child, expected[0]), f"changed: {seen}"
assert seen["state, new seed"][1] == expected[1], f"changed: {seen}"
assert seen["pickle"] == seen["deepcopy"] == expected, f"changed: {seen}"
print("as described")
PYTHON
