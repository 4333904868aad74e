#!/usr/bin/env bash
# icechunk 1.1.21: an array made in a group that another session deletes is committed, and found by nobody.
#
# What: one session makes an array in the group "phase", another deletes the group. Both commit, the second with
#   `rebase_with=ConflictDetector()`, in either order. Then the same where the second session wrote into an array that was there before.
# Guess: a conflict, in either order, as `NewNodeInInvalidGroup` is one of those that are named; for the old array, too.
# Seen: for the old array there is one. The new array is committed, in a group that there is not: neither the store's groups nor its members show
#   it, and who knows its path can open it. Whoever makes the group again has the old array in it at once, with its numbers.
# For this project: changes of a buffer come one after the other, each judged by what is there when its turn comes; two histories are never merged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check icechunk==1.1.21 zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import asyncio
from importlib.metadata import version

import icechunk
import zarr

# A rebase that fails is logged as a warning, and here it is asked for.
icechunk.set_logs_filter("error")


def make(group):
    group["phase"].create_array("new", shape=2, chunks=2, dtype="i4")[:] = 7


def write(group):
    group["phase/old"][:] = 7


def delete(group):
    del group["phase"]


def both(change, deletes_first):
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    phase = zarr.create_group(session.store).create_group("phase")
    phase.create_array("old", shape=2, chunks=2, dtype="i4")[:] = 5
    session.commit("the group and an array")
    changing, deleting = repository.writable_session("main"), repository.writable_session("main")
    change(zarr.open_group(changing.store))
    delete(zarr.open_group(deleting.store))
    first, second = (deleting, changing) if deletes_first else (changing, deleting)
    first.commit("first")
    try:
        second.commit("second", rebase_with=icechunk.ConflictDetector())
    except icechunk.RebaseFailedError as error:
        return f"conflict: {error.conflicts[0].conflict_type}", repository
    return "no conflict", repository


async def keys_of(store):
    return sorted([key async for key in store.list()])


print(f"icechunk {version('icechunk')}, zarr {version('zarr')}; expected: a conflict, each time")
for deletes_first in (False, True):
    order = "after the group was deleted" if deletes_first else "before the group was deleted"
    told, _ = both(write, deletes_first)
    print(f"seen: an old array written, committed {order}: {told}")
    assert told.startswith("conflict: "), f"changed: {told}"
    told, repository = both(make, deletes_first)
    print(f"seen: a new array made, committed {order}: {told}")
    assert told == "no conflict", f"changed: {told}"
    store = repository.readonly_session("main").store
    keys, members = asyncio.run(keys_of(store)), [name for name, _ in zarr.open_group(store, mode="r").members(max_depth=None)]
    by_path = zarr.open_array(store, path="phase/new", mode="r")[:].tolist()
    print(f"      keys {keys}, members {members}, by its path {by_path}")
    assert keys == ["phase/new/c/0", "phase/new/zarr.json", "zarr.json"], f"changed: {keys}"
    assert members == [], f"changed: {members}"
    assert by_path == [7, 7], f"changed: {by_path}"
    session = repository.writable_session("main")
    again = zarr.open_group(session.store).create_group("phase")
    print(f"      the group made again holds {list(again.array_keys())}")
    assert list(again.array_keys()) == ["new"], "changed: the group made again"
print("source: ConflictDetector.solve in icechunk/src/conflicts/detector.rs: new_nodes_implicit_conflicts looks whether an ancestor is an array, and")
print("        deletes_of_updated_groups whether the group's own metadata were changed; nobody looks whether the ancestor is there")
print("as described")
PYTHON
