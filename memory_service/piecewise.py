"""Batches that are sent while they are read."""

from __future__ import annotations

from typing import Self

import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from memory_format import MEDIA_TYPE
from memory_service.routes.common import arrow_headers
from memory_service.store.drawn import Drawn


class DrawnResponse(Response):
    """A batch, each piece of which is read when the one before is on its way.

    Where a piece cannot be read, the answer ends early: its reader sees that it is shorter than announced, and the
    error goes to the server's log. Get it from :meth:`begin`.
    """

    def __init__(self, first: memoryview, drawn: Drawn) -> None:
        headers = arrow_headers(None, drawn.version) | {"content-length": str(len(drawn.stream))}
        super().__init__(None, headers=headers, media_type=MEDIA_TYPE)
        self._first = first
        self._drawn = drawn

    @classmethod
    async def begin(cls, drawn: Drawn) -> Self:
        """Read the first piece, so that what is wrong with it can still be answered.

        Raises:
            StorageError: as :meth:`Drawn.next_piece`; the batch is closed then.
        """
        try:
            return cls(await _next_piece(drawn), drawn)
        except BaseException:
            drawn.close()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece = self._first
            while piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await _next_piece(self._drawn)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._drawn.close()


async def _next_piece(drawn: Drawn) -> memoryview:
    # What is in the page cache is read here: changing to a thread and back takes as long as that.
    try:
        return drawn.next_piece(wait=False)
    except BlockingIOError:
        return await anyio.to_thread.run_sync(drawn.next_piece)
