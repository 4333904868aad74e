"""A buffer as one file, piece by piece. The same records make the same bytes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format.checksum import crc32_of_all
from memory_format.header import HEADER_DTYPE
from memory_service.store.admin.exported import BufferDescription, pieces
from memory_service.store.pure.columns import Columns, headers_of_rows
from memory_service.store.segments.layout import Entry, local_header, small_entry, zarr_documents, zip_directory
from memory_service.store.segments.readers import Lease


class Export(Iterator[bytes]):
    """A buffer's file on its way out, piece by piece. Close it, or read it to its end: what it shows is kept for it.

    Args:
        view: the records.
        learner_ids: what ``view["learner"]`` points into.
        read: positions in the view -> their bodies end to end.
        let_go: called once, when nothing more is read.
        lease: for which what it shows is kept.
    """

    def __init__(
        self,
        view: Columns,
        learner_ids: list[str],
        description: BufferDescription,
        read: Callable[[NDArray[np.int64]], memoryview],
        let_go: Callable[[], object],
        lease: Lease,
    ) -> None:
        self.lease = lease
        lengths = view["length"].astype(np.int64)
        head, tail = _frame(view, learner_ids, description, lengths)
        self.num_bytes = len(head) + int(lengths.sum()) + len(tail)
        self._pieces = _in_pieces(head, lengths, read, tail)
        # Also where nobody reads it or closes it.
        self._let_go = weakref.finalize(self, let_go)
        self._let_go.atexit = False

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except BaseException:
            self._let_go()
            raise

    def close(self) -> None:
        self._pieces.close()
        self._let_go()


def _frame(
    view: Columns, learner_ids: list[str], description: BufferDescription, lengths: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """What goes before the bodies and behind them."""
    codes, first_use = np.unique(view["learner"], return_index=True)
    # In the order in which they come: it does not depend on what else the buffer has held.
    codes = codes[np.argsort(first_use)]
    columns: dict[str, NDArray[Any]] = {}
    headers = headers_of_rows(view.take(np.arange(view.num_records)))
    for name in HEADER_DTYPE.names or ():
        columns[name] = np.ascontiguousarray(headers[name])
    columns["offset"] = (np.cumsum(lengths) - lengths).astype(np.uint64)
    place = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.uint16)
    place[codes] = np.arange(len(codes))
    columns["learner"] = place[view["learner"]]
    kinds = {name: (values.dtype.str, len(values)) for name, values in columns.items()}
    kinds["body"] = ("|u1", int(lengths.sum()))
    attributes = {"exemplar_memory_buffer": description.model_dump()}
    small = zarr_documents(kinds, [learner_ids[code] for code in codes.tolist()], attributes)
    small |= {f"{name}/c/0": values.tobytes() for name, values in columns.items()}

    head = bytearray()
    entries = []
    for name, data in small.items():
        entry, piece = small_entry(name, data, len(head))
        entries.append(entry)
        head += piece
    # Every body is checked against its CRC when it is read, so theirs together is known before.
    body = Entry(
        "body/c/0", int(lengths.sum()), crc32_of_all(0, columns["crc32"].tolist(), lengths.tolist()), len(head)
    )
    head += local_header(body.name, body.size, body.crc32)
    return bytes(head), zip_directory([*entries, body], len(head) + body.size)


def _in_pieces(
    head: bytes, lengths: NDArray[np.int64], read: Callable[[NDArray[np.int64]], memoryview], tail: bytes
) -> Generator[bytes, None, None]:
    yield head
    for first, last in pieces(lengths):
        yield bytes(read(np.arange(first, last)))
    yield tail
