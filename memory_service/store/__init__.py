"""The store: buffers of records under byte budgets, over an index and segments. Knows no HTTP.

store.py        the one door: create, fork, import, find, delete
directory.py    where it lies: who holds it, its index and segments, what is on its way in or out
buffer.py       the door of a buffer: push, change, read, snapshots
reads.py        records, pages and batches of one
changes.py      what is asked of a buffer, as a change
pushes.py       pushes that wait at the same time, judged one after another
commits.py      a change made: records, transaction, another state; room on the disk
compactor.py    segments rewritten, so that what is dead takes no room
writer.py       records on their way to segments, and taken back
idempotency.py  answers to pushes, kept for who asks again
erasures.py     records erased from every file; wiping.py does it to one buffer, receipts.py keeps what was answered
names.py        names of classes beside the index, for a repair
runs.py         reports of runs; report_places.py keeps them in files, or in an index that is a database
room.py         how much of the disk things may take, and what all buffers may promise
contents.py     the present state, and what is kept beside it for readers
loading.py      a state of what index and segments say
exports.py      whole buffers on their way out
forks.py        buffers that start from another one's segments
drawn.py        a batch that is sent while it is read
lent.py         a batch that a process of the same machine reads by itself
pure/           values, and decisions as functions of them: state, change, eviction, draws, queries, compaction
index/          what is where: the port (base), and its implementation in SQL
segments/       files of records: the port (base), local files, and the bytes in them
transfer/       whole buffers and stores as files: export, import, backup
admin/          done to a store beside serving it: inspect, verify, repair
"""

from memory_service.store.buffer import Buffer
from memory_service.store.store import Store

__all__ = ["Buffer", "Store"]
