"""The store: buffers of records under byte budgets, in SQLite and Zarr segments. Knows no HTTP.

store.py       the one door: open, lock, create, fork, find, delete
buffer.py      one buffer: push, change, read, sample, snapshots
pushes.py      pushes that wait at the same time, judged one after another
commits.py     one change: files, transaction, picture in memory; room on disk
contents.py    what a buffer holds, in memory
forks.py       buffers that start from another one's segments
drawn.py       a batch that is sent while it is read
quota.py       what all buffers may promise together
leftovers.py   what a crash has left, and what is nobody's to remove
pure/          decisions as functions of arrays: eviction, draws, queries, compaction, bytes on disk
index/         what is where: the port (base), and its implementation in SQL
segments/      files of records: append, seal, read, and the bytes in them
admin/         done to whole stores and buffers: verify, repair, backup, export, import
"""

from memory_service.store.buffer import Buffer
from memory_service.store.store import Store

__all__ = ["Buffer", "Store"]
