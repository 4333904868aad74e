"""The store: buffers of records under byte budgets, in SQLite and Zarr segments. Knows no HTTP.

store.py      the one door: open, lock, create, find, delete
buffer.py     one buffer: push, read, sample, query, stats
index.py      SQL tables and transactions
segments.py   segment files: write, read, sweep
columns.py    the live rows in memory
eviction.py   which records stay (pure)
sampler.py    which records are drawn (pure)
query.py      filters, sorting and cursors in SQL
compaction.py which segments to rewrite (pure)
"""

from memory_service.store.buffer import Buffer
from memory_service.store.store import Store

__all__ = ["Buffer", "Store"]
