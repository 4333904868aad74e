"""What client and service say to each other on one machine: where a batch lies, in place of its bytes.

The service answers a draw with a row for each record (which file, where in it, how long, its CRC-32) and hands the
files over as descriptors (``SCM_RIGHTS``). The client reads them itself, closes them and says so. All else is asked
over HTTP: what is refused here is refused there in words.

A connection begins with :data:`PREFACE`, the service's ``HELO`` and, where the client has a key, ``AUTH``. Then each
draw is ``DRAW`` (JSON) from the client; ``ROWS`` with descriptors, or ``HTTP``, from the service; and behind ``ROWS``
the client's ``DONE``. docs/format.md has the bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from memory_format.api.terms import MAX_SAMPLE
from memory_format.body import MAX_BODY_BYTES
from memory_format.errors import FormatError
from memory_format.header import HEADER_DTYPE

PREFACE: Final = b"EXEMPLAR-LOCAL/1"
"""What a client sends first. No HTTP request begins so."""

REQUEST: Final = struct.Struct("<4sI")
"""Of what the client sends: kind, and the bytes that follow."""
ANSWER: Final = struct.Struct("<4sIQdIII")
"""Of what the service sends: kind, the bytes that follow, the buffer's version and when it was made, rows, rows of them
that only lend their text, and descriptors."""

HELO: Final = b"HELO"
"""The service is there; behind it the 32 characters that name this run of it."""
AUTH: Final = b"AUTH"
"""The key that the draws from now on come with, where the service asks for one."""
DRAW: Final = b"DRAW"
"""Draw: a sample's JSON with the buffer's name as ``buffer`` in it."""
ROWS: Final = b"ROWS"
DONE: Final = b"DONE"
"""The descriptors of the last answer are closed."""
HTTP: Final = b"HTTP"
"""This one is to be asked over HTTP; behind it, why."""

ROW_DTYPE: Final = np.dtype([*HEADER_DTYPE.descr, ("length", "<u4"), ("segment", "<u2")])
"""A record: its header, of which ``offset`` is the body's place in its file and ``learner`` the place of the learner's
id in the answer's list; the body's bytes; and in which of the answer's descriptors it lies."""

_HEADER: Final = np.dtype((np.void, HEADER_DTYPE.itemsize))
"""In one piece: numpy copies structures field by field, which takes four times as long."""

MOST_DESCRIPTORS: Final = 2048
"""Of one answer."""
AT_A_TIME: Final = 200
"""Descriptors that go with one message; Linux takes 253."""
MOST_ANSWER_BYTES: Final = 2 * MAX_SAMPLE * (ROW_DTYPE.itemsize + 4 + 65) + 1024
_MOST_BODIES_BYTES: Final = 2**31 - 1
"""As in an Arrow batch."""

_UINT: Final = np.dtype("<u4")
_SO_PEERCRED: Final[int | None] = getattr(socket, "SO_PEERCRED", None)
_UCRED: Final = struct.Struct("=iII")
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("=II")


@dataclass(frozen=True, eq=False)
class LentRows:
    """A batch as the places of its records."""

    version: int
    """Of the buffer, or of the snapshot."""
    created_at: float
    """Of the buffer: one of the same name that was made later has other records under these ids."""
    rows: NDArray[np.void]
    """``(B + D,)`` of :data:`ROW_DTYPE`: B records in drawing order, then D that only lend their text."""
    swapped: NDArray[np.uint32]
    """``(D,)``: which of the B carries the text of each of the D, ascending."""
    learner_ids: Sequence[str]
    num_segments: int
    """Files that they lie in: as many descriptors go with them."""

    @property
    def num_records(self) -> int:
        """B."""
        return len(self.rows) - len(self.swapped)


def encode_rows(lent: LentRows) -> bytes:
    """The ``ROWS`` that goes with the descriptors."""
    rest = b"".join(
        (lent.rows.tobytes(), lent.swapped.astype(_UINT, copy=False).tobytes(), "\n".join(lent.learner_ids).encode())
    )
    counts = len(lent.rows), len(lent.swapped), lent.num_segments
    return ANSWER.pack(ROWS, len(rest), lent.version, lent.created_at, *counts) + rest


def encode_message(kind: bytes, content: bytes = b"") -> bytes:
    """A ``HELO`` or an ``HTTP``."""
    return ANSWER.pack(kind, len(content), 0, 0.0, 0, 0, 0) + content


def decode_rows(answer: bytes | memoryview) -> LentRows:
    """A whole ``ROWS`` as what it says. Every number in it is looked at: nobody need read past a list or a file for it.

    Raises:
        FormatError: ``invalid_batch``: it is none.
    """
    if len(answer) < ANSWER.size:
        raise _bad(f"{len(answer)} bytes are too few")
    kind, length, version, created_at, num_rows, num_donors, num_segments = ANSWER.unpack_from(answer)
    if kind != ROWS or length != len(answer) - ANSWER.size:
        raise _bad(f"it is {kind!r} and announces {length} bytes, {len(answer) - ANSWER.size} follow")
    if not (num_donors <= num_rows - num_donors <= MAX_SAMPLE and 1 <= num_segments <= MOST_DESCRIPTORS):
        raise _bad(f"it has {num_rows} rows, {num_donors} of them for their text, in {num_segments} files")
    rows_end = ANSWER.size + num_rows * ROW_DTYPE.itemsize
    ids_at = rows_end + num_donors * _UINT.itemsize
    if ids_at > len(answer):
        raise _bad(f"{len(answer)} bytes are too few for {num_rows} rows")
    rows = np.frombuffer(answer, ROW_DTYPE, num_rows, ANSWER.size)
    swapped = np.frombuffer(answer, _UINT, num_donors, rows_end)
    try:
        learner_ids = bytes(answer[ids_at:]).decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise _bad("a learner id is no ASCII") from None
    if num_rows and (rows["segment"].max() >= num_segments or rows["learner"].max() >= len(learner_ids)):
        raise _bad("a row names a file or learner that is not there")
    if num_donors and (swapped[-1] >= num_rows - num_donors or (swapped[1:] <= swapped[:-1]).any()):
        raise _bad("the places of other texts do not ascend within the batch")
    if num_rows and (rows["length"].max() > MAX_BODY_BYTES or rows["length"].sum(dtype=np.int64) > _MOST_BODIES_BYTES):
        raise _bad("a record, or all of them, are larger than they may be")
    return LentRows(version, created_at, rows, swapped, learner_ids, num_segments)


def rows_of(columns: NDArray[np.void], learner: NDArray[Any], segment: NDArray[Any]) -> NDArray[np.void]:
    """``(N,)`` of :data:`ROW_DTYPE`.

    Args:
        columns: ``(N,)`` of a header's bytes, the field ``length``, and whatever else.
        learner, segment: ``(N,)``, as :data:`ROW_DTYPE` has them.
    """
    rows = np.empty(len(segment), ROW_DTYPE)
    rows.getfield(_HEADER)[:] = columns.getfield(_HEADER)
    rows["learner"], rows["segment"], rows["length"] = learner, segment, columns["length"]
    return rows


def headers_of(rows: NDArray[np.void]) -> NDArray[np.void]:
    """The headers in rows of :data:`ROW_DTYPE`, copied, ``offset`` and ``learner`` 0 as outside of segments."""
    headers = np.empty(len(rows), HEADER_DTYPE)
    headers.getfield(_HEADER)[:] = rows.getfield(_HEADER)
    headers["offset"] = headers["learner"] = 0
    return headers


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket, None where the system does not say."""
    try:
        if _SO_PEERCRED is not None:
            return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))[1])
        # struct xucred of macOS and the BSDs: version, user, groups.
        return int(_XUCRED.unpack_from(connection.getsockopt(0, _LOCAL_PEERCRED, 76))[1])
    except (OSError, struct.error):
        return None


def _bad(why: str) -> FormatError:
    return FormatError(f"this is no answer to a draw on this machine: {why}", code="invalid_batch")
