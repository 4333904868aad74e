"""Answers that are sent while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import anyio
import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_END: Final = memoryview(b"")


class PiecewiseResponse(Response):
    """An answer of known length, each piece of which is made in a thread while the one before is sent.

    Where a piece cannot be made, the answer ends early: its reader sees that it is shorter than announced, and the
    error goes to the server's log.

    Args:
        first: the first piece, made already.
        rest: the pieces behind it.
        num_bytes: of all pieces together.
        close: called at the end, whatever that is.
    """

    def __init__(
        self,
        first: memoryview,
        rest: Iterator[memoryview],
        *,
        num_bytes: int,
        close: Callable[[], object],
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(None, headers={**headers, "content-length": str(num_bytes)}, media_type=media_type)
        self._first = first
        self._rest = rest
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece = self._first
            while len(piece):
                piece = await self._send_and_make(piece, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            # Not before a thread that still makes a piece has ended: the task group waits for it.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._close)

    async def _send_and_make(self, piece: memoryview, send: Send) -> memoryview:
        """Send a piece; returns the next one."""
        made: list[memoryview] = []
        failed: list[Exception] = []

        async def make() -> None:
            try:
                made.append(await anyio.to_thread.run_sync(next, self._rest, _END))
            except Exception as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if failed:
            raise failed[0]
        return made[0]
