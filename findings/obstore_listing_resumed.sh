#!/usr/bin/env bash
# obstore 0.12.1: a listing of files that goes on behind the last name it saw leaves files out, or lists them twice.
#
# What: 1,000 objects in a LocalStore and in a MemoryStore. A listing is broken off after 200, and a second one begins behind the last
#   name that was seen, with `offset`, as one goes on in S3.
# Guess: both listings together have all 1,000 names, each once, in both stores.
# Seen: in memory they do. Of files, hundreds are in neither or in both: a LocalStore lists in the order in which the file system has
#   them, and `offset` leaves out what is smaller by name. That order is said to be nobody's promise; that `offset` goes by another
#   one is not said.
# For this project: objects are not listed, neither garbage nor segments, but by `verify`, which lists in one go
#   (docs/decisions/0022-segments-as-objects.md): `file://` is no other store than `s3://`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1

"$folder/venv/bin/python" -I - "$folder/objects" <<'PYTHON'
import pathlib
import random
import sys
from importlib.metadata import version

from obstore.store import LocalStore, MemoryStore

NUMBER, SEEN = 1000, 200
drawn = random.Random(0)
names = [f"segments/{drawn.getrandbits(48):012x}" for _ in range(NUMBER)]
pathlib.Path(sys.argv[1]).mkdir()


def listed(store, **options) -> list[str]:
    return [found["path"] for chunk in store.list("segments", **options) for found in chunk]


print(f"obstore {version('obstore')}")
print(f"expected: all {NUMBER:,} names once, by a listing of {SEEN} and another behind the last of them")
missing = {}
for kind, store in (("memory", MemoryStore()), ("files", LocalStore(sys.argv[1]))):
    for name in names:
        store.put(name, b"x")
    whole = listed(store)
    assert sorted(whole) == sorted(names), f"changed: {kind}, a listing in one go"
    first = whole[:SEEN]
    rest = listed(store, offset=first[-1])
    assert all(name > first[-1] for name in rest), f"changed: {kind}, what offset means"
    missing[kind] = len(set(names) - set(first) - set(rest))
    twice = len(set(first) & set(rest))
    print(f"seen:     {kind}: {missing[kind]} in neither, {twice} in both; in order of names: {whole == sorted(whole)}")
    if kind == "memory":
        assert (missing[kind], twice) == (0, 0), "changed: memory"
    else:
        # Which ones it takes is the file system's; that its order is that of names would be a rare chance.
        assert missing[kind] + twice > 0, "changed: files"
print("source:   object_store's local.rs walks directories as they are read, and list_with_offset filters what it finds by name;")
print("          its documentation: the order of what is returned is not guaranteed")
print("as described")
PYTHON
