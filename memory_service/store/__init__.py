"""The store: buffers of records under byte budgets, in SQLite and Zarr segments. Knows no HTTP.

store.py       the one door: open, lock, create, fork, find, delete
buffer.py      one buffer: push, change, read, sample, snapshots
pushes.py      pushes that wait at the same time, judged one after another
commits.py     one change: files, transaction, picture in memory; room on disk
contents.py    what a buffer holds, in memory
columns.py     rows of records as arrays
index.py       SQL tables and transactions; migrations/ their changes through time
rows.py        SQL statements
segments.py    segment files: append, seal, read
intents.py     names of files that are to be made or to go
generation.py  which index the files are of
opening.py     whether index and files belong together
leftovers.py   what a crash has left, and what is nobody's to remove
quarantine.py  where that goes
recovery.py    sealed segments taken into an index that does not know them
owner.py       what a sealed segment says of its buffer
layout.py      the bytes of a segment file (pure)
files.py       every operation on files that can fail
ledger.py      bytes on disk (pure)
eviction.py    which records stay (pure)
sampler.py     which records are drawn (pure)
query.py       filters, sorting and cursors (pure)
compaction.py  which segment to rewrite (pure)
snapshots.py   names, differences, forks
stats.py       figures
model.py       values that the store takes and gives
"""

from memory_service.store.buffer import Buffer
from memory_service.store.store import Store

__all__ = ["Buffer", "Store"]
