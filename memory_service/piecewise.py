"""Answers that are sent while they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Pieces(Protocol):
    """What an answer is made of, piece by piece."""

    def next_piece(self, *, wait: bool = True) -> memoryview:
        """The next piece, empty behind the last.

        Args:
            wait: for the disk.

        Raises:
            BlockingIOError: without ``wait``, it is not at hand; nothing was taken.
        """

    def close(self) -> None:
        """Called at the end, whatever that is."""


class PiecewiseResponse(Response):
    """An answer of known length, each piece of which is made when the one before is on its way.

    Where a piece cannot be made, the answer ends early: its reader sees that it is shorter than announced, and the
    error goes to the server's log. Get it from :meth:`begin`.
    """

    def __init__(
        self, first: memoryview, rest: Pieces, *, num_bytes: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(None, headers={**headers, "content-length": str(num_bytes)}, media_type=media_type)
        self._first = first
        self._rest = rest

    @classmethod
    async def begin(cls, pieces: Pieces, *, num_bytes: int, headers: Mapping[str, str], media_type: str) -> Self:
        """Make the first piece, so that what is wrong with it can still be answered.

        Args:
            num_bytes: of all pieces together.

        Raises:
            whatever the first piece does; the pieces are closed then.
        """
        try:
            first = await _next(pieces)
        except BaseException:
            pieces.close()
            raise
        return cls(first, pieces, num_bytes=num_bytes, headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece = self._first
            while piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await _next(self._rest)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._rest.close()


async def _next(pieces: Pieces) -> memoryview:
    # What is in the page cache is read here: changing to a thread and back takes as long as that.
    try:
        return pieces.next_piece(wait=False)
    except BlockingIOError:
        return await anyio.to_thread.run_sync(pieces.next_piece)
