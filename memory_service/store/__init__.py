"""The store: buffers of records under byte budgets, in SQLite and Zarr segments. Knows no HTTP.

store.py       the one door: open, lock, create, fork, find, delete
buffer.py      one buffer: push, change, read, sample, snapshots
pushes.py      pushes that wait at the same time, judged one after another
commits.py     one change: files, transaction, picture in memory; room on disk
contents.py    what a buffer holds, in memory
columns.py     rows of records as arrays
index.py       SQL tables and transactions; migrations/ their changes through time
rows.py        SQL statements
segments.py    segment files: append, seal, read, sweep
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
