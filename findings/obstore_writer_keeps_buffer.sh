#!/usr/bin/env bash
# obstore 0.12.1: a file written piece by piece out of one buffer holds the last piece again and again.
#
# What: ten pieces of 1,000 bytes, each read into the same bytearray (`readinto`) and given to the writer of `open_writer`, which its
#   documentation calls buffered. To a local directory and to memory; also its asyncio twin, a generator given to `put`, and `put` itself.
#   The same by the files of Python, fsspec and pyarrow.
# Guess: `write` takes the bytes before it returns: whoever buffers copies. A buffer may be filled anew then, as with every file of Python.
# Seen: the writer holds on to the buffer, not to its bytes, until it has 10 MB or is closed. The file has the right length, and the last
#   piece ten times. A generator that fills one buffer anew gives the same. In a MemoryStore an object goes on to change with the buffer
#   that it was put from, under the same ETag, as long as it has less than 5 MB. `bytes`, which nobody can change, are right everywhere.
# For this project: what goes into a bucket is one `bytes`, made for it and never changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1 fsspec==2026.9.0 pyarrow==26.0.1 numpy==2.4.6

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import asyncio
import io
import sys
from importlib.metadata import version
from pathlib import Path

import fsspec
import obstore
import pyarrow.fs
from obstore.store import LocalStore, MemoryStore

PIECE = 1_000
SOURCE = b"".join(bytes([letter]) * PIECE for letter in b"abcdefghij")
LAST_TEN_TIMES = b"j" * len(SOURCE)
folder = Path(sys.argv[1], "objects")
folder.mkdir()
local, memory = LocalStore(folder), MemoryStore()


def pieces(as_bytes=False):
    source, buffer = io.BytesIO(SOURCE), bytearray(PIECE)
    while source.readinto(buffer):
        yield bytes(buffer) if as_bytes else buffer


def by_writer(store, as_bytes=False):
    with obstore.open_writer(store, "object") as file:
        for piece in pieces(as_bytes):
            file.write(piece)


async def by_asyncio(store):
    async with obstore.open_writer_async(store, "object") as file:
        for piece in pieces():
            await file.write(piece)


def by_file(file):
    with file:
        for piece in pieces():
            file.write(piece)


def read(store):
    return bytes(obstore.get(store, "object").bytes())


seen = {}
for name, store in (("a directory", local), ("memory", memory)):
    by_writer(store)
    seen[f"obstore, writer, {name}"] = read(store)
    asyncio.run(by_asyncio(store))
    seen[f"obstore, asyncio's writer, {name}"] = read(store)
    obstore.put(store, "object", pieces())
    seen[f"obstore, put of a generator, {name}"] = read(store)
    by_writer(store, as_bytes=True)
    seen[f"obstore, writer given bytes, {name}"] = read(store)
by_file((folder / "plain").open("wb"))
seen["Python's open"] = (folder / "plain").read_bytes()
by_file(fsspec.filesystem("memory").open("plain", "wb"))
seen["fsspec, memory"] = fsspec.filesystem("memory").cat("plain")
by_file(pyarrow.fs.LocalFileSystem().open_output_stream(str(folder / "arrow"), buffer_size=1 << 20))
seen["pyarrow, buffered"] = (folder / "arrow").read_bytes()

print(f"obstore {version('obstore')}, fsspec {version('fsspec')}, pyarrow {version('pyarrow')}; expected: abcdefghij, a thousand times each")
for name, content in seen.items():
    print(f"seen: {name:42} {content[::PIECE].decode()}, {len(content)} bytes")
put = {}
for size in (PIECE, 4 << 20, 6 << 20):
    buffer = bytearray(b"a" * size)
    obstore.put(memory, "object", buffer)
    tag = obstore.head(memory, "object")["e_tag"]
    buffer[:] = b"z" * size
    put[size] = read(memory)[:1].decode()
    assert obstore.head(memory, "object")["e_tag"] == tag
    print(f"seen: an object of {size} bytes in memory, after its buffer was filled with z: {put[size]}")
print("source: write in obstore/src/buffered.rs, which gives object_store's BufWriter the buffer itself, as Bytes: BufWriter.put takes it for immutable")
for name, content in seen.items():
    keeps = name.startswith("obstore") and "given bytes" not in name
    assert content == (LAST_TEN_TIMES if keeps else SOURCE), f"changed: {name}"
assert list(put.values()) == ["z", "z", "a"], f"changed: {put}"
print("as described")
PYTHON
