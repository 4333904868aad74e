#!/usr/bin/env bash
# zarr 3.1.6: a shard is read before it is written over, its index at each access, and neighbours one by one.
#
# What: requests that reach the store while an array of two shards, ten chunks each, is written and read.
# Guess: writing a whole shard reads nothing; an open array keeps the index of a shard; chunks that lie side by side
#   come in one range.
# Seen: a shard that is there is fetched in full though each byte of it is written anew. Each read of a part fetches
#   the index again, and each chunk is a request of its own. So a loop over rows costs two requests a row.
# For this project: with an object store each request is a round trip. A segment's arrays are one chunk each, and a
#   record is one range of it (docs/decisions/0001-one-contiguous-body-per-record.md), not a chunk of a shard.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.storage import MemoryStore, WrapperStore


class Counted(WrapperStore):
    """A store that notes what is asked of it."""

    asked: list[str] = []

    async def get(self, key, prototype, byte_range=None):
        part = "all" if byte_range is None else "index" if isinstance(byte_range, SuffixByteRequest) else "range"
        self.asked.append(part)
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key, value):
        self.asked.append("set")
        return await self._store.set(key, value)


def asked(act):
    Counted.asked.clear()
    act()
    return sorted(Counted.asked)


VALUES = np.arange(100, dtype=np.int32)
store = Counted(MemoryStore())
sharded = zarr.create_array(store, name="sharded", shape=(100,), chunks=(5,), shards=(50,), dtype="int32")
plain = zarr.create_array(store, name="plain", shape=(100,), chunks=(50,), dtype="int32")
for array in (sharded, plain):
    array[:] = VALUES
seen = {
    "write both chunks of 50 again": asked(lambda: plain.set_basic_selection(slice(None), VALUES)),
    "write both shards of 50 again": asked(lambda: sharded.set_basic_selection(slice(None), VALUES)),
    "read a whole shard": asked(lambda: sharded[:50]),
    "read its first element": asked(lambda: sharded[0]),
    "and again": asked(lambda: sharded[0]),
    "read 5 of its 10 chunks, side by side": asked(lambda: sharded[:25]),
    "read the last element of 5 chunks": asked(lambda: sharded.oindex[[4, 9, 14, 19, 24]]),
}
print(f"zarr {zarr.__version__}")
print("expected: no get before a write; the index once; one range for 5 chunks side by side")
for name, requests in seen.items():
    print(f"seen:     {name}: {', '.join(requests)}")
print("source:   zarr/codecs/sharding.py: _encode_partial_single begins with _load_full_shard_maybe; _decode_partial_single with")
print("          _load_shard_index_maybe, then a get for each chunk")
assert list(seen.values()) == [
    ["set"] * 2,
    ["all"] * 2 + ["set"] * 2,
    ["all"],
    ["index", "range"],
    ["index", "range"],
    ["index"] + ["range"] * 5,
    ["index"] + ["range"] * 5,
], "changed"
print("as described")
PYTHON
