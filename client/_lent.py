"""Reading a batch from files that the service has handed over, each record checked against its CRC-32."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format import Batch, checksum
from memory_format.body import swap_text
from memory_format.lending import LentRows, headers_of

_CONTROL_BYTES: Final = socket.CMSG_SPACE(4 * 253) if hasattr(socket, "CMSG_SPACE") else 0
_CUT_SHORT: Final = int(socket.MSG_CTRUNC) if hasattr(socket, "MSG_CTRUNC") else 0
_CLOSE_ON_EXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class NotReadError(Exception):
    """What was handed over is not what it should be; the message says how."""


def read_lent(lent: LentRows, descriptors: Sequence[int]) -> Batch:
    """Read a batch: the one that :func:`memory_format.read_batch` gives for the same draw over HTTP.

    Raises:
        FormatError: a body is too short for its text.
        NotReadError, OSError: as :func:`read_rows`.
    """
    return _with_texts(lent, read_rows(lent, descriptors, lent.rows))


def read_rows(lent: LentRows, descriptors: Sequence[int], rows: NDArray[np.void]) -> Batch:
    """Read records as they are stored.

    Args:
        descriptors: of the files that the rows name.
        rows: some of those of ``lent``.

    Raises:
        NotReadError: a file ends before a record does, or a record is not what its CRC says.
        OSError: a file cannot be read.
    """
    lengths = rows["length"].tolist()
    # Not zeroed: all of it is read, or none of it is used.
    target = memoryview(np.empty(sum(lengths), dtype=np.uint8)).cast("B")  # type: ignore[arg-type]
    places = zip(rows["segment"].tolist(), rows["offset"].tolist(), lengths, rows["crc32"].tolist(), strict=True)
    bodies: list[memoryview] = []
    read, crc32, at = os.preadv, checksum.crc32, 0
    for which, offset, length, crc in places:
        body = target[at : at + length]
        at += length
        if read(descriptors[which], (body,), offset) != length:
            _read_all(descriptors[which], body, offset)
        # While it is in the processor's cache.
        if crc32(body) != crc:
            raise NotReadError(f"the record at byte {offset} of its file is damaged")
        bodies.append(body)
    learner_ids = [lent.learner_ids[code] for code in rows["learner"].tolist()]
    return Batch(headers_of(rows), learner_ids, bodies)


def _with_texts(lent: LentRows, read: Batch) -> Batch:
    """The batch, in which some records carry another one's text."""
    headers, learner_ids, bodies = read.headers, read.learner_ids, read.bodies
    count = lent.num_records
    for place, donor in zip(lent.swapped.tolist(), range(count, len(headers)), strict=True):
        headers[place], changed = swap_text(headers[place], bodies[place], headers[donor], bodies[donor])
        bodies[place] = memoryview(changed)
        headers["crc32"][place] = checksum.crc32(changed)
    return Batch(headers[:count], learner_ids[:count], bodies[:count])


def _read_all(descriptor: int, body: memoryview, offset: int) -> None:
    done = 0
    while done < len(body):
        count = os.preadv(descriptor, (body[done:],), offset + done)
        if count == 0:
            raise NotReadError(f"its file ends {len(body) - done} bytes before the record at byte {offset} does")
        done += count


# Descriptors, and processes that are forked while there are some.

_forking = threading.Lock()
"""Held while descriptors arrive and go: a process that is forked meanwhile would keep some, and not know which."""
_held: dict[int, list[int]] = {}


@contextmanager
def closing_descriptors() -> Iterator[list[int]]:
    """A list for :func:`receive`. What is in it is closed at the end; in a process that is forked before, at once."""
    found: list[int] = []
    _held[id(found)] = found
    try:
        yield found
    finally:
        with _forking:
            _close(found)
            del _held[id(found)]


def receive(connection: socket.socket, most: int, descriptors: list[int]) -> bytes:
    """What has come on a Unix socket, which can be read; what was handed over with it is added to ``descriptors``.

    Raises:
        NotReadError: not all of that could be taken.
        OSError: the connection broke.
    """
    with _forking:
        piece, control, flags, _ = connection.recvmsg(most, _CONTROL_BYTES, _CLOSE_ON_EXEC)
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i", data[: len(data) // 4 * 4])
                descriptors += found
                if not _CLOSE_ON_EXEC:
                    for number in found:
                        os.set_inheritable(number, False)
    if flags & _CUT_SHORT:
        raise NotReadError("not all descriptors could be taken: too many files are open here (ulimit -n)")
    return piece


def _close(descriptors: list[int]) -> None:
    for number in descriptors:
        with suppress(OSError):
            os.close(number)
    descriptors.clear()


def _forget_the_parents() -> None:
    for found in _held.values():
        _close(found)
    _held.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forget_the_parents)
