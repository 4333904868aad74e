"""Answers that are sent while they are read.

What they read is kept for them by a lease. It ends where their client takes nothing for a while, or a change needs the
room: the answer then ends early, its reader sees that it is shorter than announced, and asks again. The same where a
piece cannot be read; the error goes to the server's log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import anyio
import anyio.to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from memory_format import MEDIA_TYPE
from memory_format.api.terms import VERSION_HEADER
from memory_service.store.drawn import Drawn
from memory_service.store.segments.readers import Lease, LeaseEndedError
from memory_service.store.transfer.export import Export

logger = logging.getLogger(__name__)

UNSENT: Final = "memory_service.unsent"
"""ASGI extension: a function that says how many bytes wait for the client (``memory_service.http.connections``)."""
_LOOKS: Final = 4
"""Within ``lease_seconds``."""


class DrawnResponse(Response):
    """A batch, each piece of which is read when the one before is on its way. Get it from :meth:`begin`."""

    def __init__(self, first: memoryview, drawn: Drawn, lease_seconds: float, sent: Callable[[], object]) -> None:
        headers = {VERSION_HEADER: str(drawn.version), "content-length": str(len(drawn.stream))}
        super().__init__(None, headers=headers, media_type=MEDIA_TYPE)
        self._first = first
        self._drawn = drawn
        self._lease_seconds = lease_seconds
        self._sent = sent

    @classmethod
    async def begin(cls, drawn: Drawn, lease_seconds: float, sent: Callable[[], object] = lambda: None) -> Self:
        """Read the first piece, so that what is wrong with it can still be answered. Raises as
        :meth:`Drawn.next_piece`; the batch is closed then.

        Args:
            sent: called when all of it is on its way.
        """
        try:
            return cls(await _next_piece(drawn), drawn, lease_seconds, sent)
        except BaseException:
            drawn.close()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        drawn = self._drawn
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if drawn.lease is None or len(self._first) == len(drawn.stream):
                # Nothing is read any more.
                await send({"type": "http.response.body", "body": self._first})
            else:
                body = _Body(drawn.lease, len(drawn.stream), partial(_next_piece, drawn), self._first)
                last = await body.send_but_last(scope, send, self._lease_seconds)
                drawn.close()
                await _send_last(last, send)
            self._sent()
        finally:
            drawn.close()


class ExportResponse(StreamingResponse):
    """An exported buffer. Where its length is not known, its end says that it is whole."""

    def __init__(self, file: Export, lease_seconds: float, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(file, headers=headers, media_type=media_type)
        self._file = file
        self._lease_seconds = lease_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            num_bytes = math.inf if self._file.num_bytes is None else self._file.num_bytes
            body = _Body(self._file.lease, num_bytes, partial(_next_of_file, self._file))
            last = await body.send_but_last(self._scope, send, self._lease_seconds)
        finally:
            # Also where the client has gone: what was kept for it is let go.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._file.close)
        await _send_last(last, send)


@dataclass
class _Body:
    """An answer's body that is sent while it is read, as long as the lease of what it reads lasts."""

    lease: Lease
    num_bytes: float
    """Infinite where that is not known: the last piece is empty then."""
    following: Callable[[], Awaitable[memoryview]]
    """Reads the next piece; nothing at the end."""
    first: memoryview | None = None
    """A piece that was read already."""

    async def send_but_last(self, scope: Scope, send: Send, lease_seconds: float) -> memoryview | None:
        """Send all but the last piece, as long as the lease lasts; returns that piece, or None where the answer was
        cut short.

        The last piece is read, and needs no lease. And its client may have all that was announced before the server
        knows that it is sent: to cut the connection then would be the end of the client's next request.
        """
        loop = asyncio.get_running_loop()
        lease = self.lease
        unsent: Callable[[], int] = scope.get("extensions", {}).get(UNSENT, lambda: 0)
        sending = False
        left_before = 0
        timer: asyncio.TimerHandle

        def look() -> None:
            # Now and then: to set a deadline for each piece takes as long as to send it.
            nonlocal timer, left_before
            left = unsent()
            if not sending or left < left_before:
                lease.progress()
            left_before = left
            if time.monotonic() - lease.progressed > lease_seconds:
                cancelled.cancel()
            else:
                timer = loop.call_later(lease_seconds / _LOOKS, look)

        with anyio.CancelScope() as cancelled:
            lease.on_end = partial(_wake, loop, cancelled)
            timer = loop.call_later(lease_seconds / _LOOKS, look)
            to_come = self.num_bytes
            try:
                piece = self.first or await self.following()
                while 0 < len(piece) < to_come:
                    to_come -= len(piece)
                    sending = True
                    lease.progress()
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    lease.progress()
                    sending = False
                    piece = await self.following()
                return piece
            except LeaseEndedError:
                cancelled.cancel()
            finally:
                timer.cancel()
                lease.on_end = None
        why = "a change needed the room" if lease.ended else f"its client took nothing for {lease_seconds:g} s"
        logger.warning("an answer was cut short: %s", why)
        return None


async def _send_last(piece: memoryview | None, send: Send) -> None:
    if piece is not None:
        await send({"type": "http.response.body", "body": piece})


def _wake(loop: asyncio.AbstractEventLoop, scope: anyio.CancelScope) -> None:
    # Of a server that has stopped meanwhile there is nothing to wake.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(scope.cancel)


async def _next_of_file(file: Export) -> memoryview:
    return memoryview(await anyio.to_thread.run_sync(next, file, b""))


async def _next_piece(drawn: Drawn) -> memoryview:
    # What is in the page cache is read here: changing to a thread and back takes as long as that.
    try:
        return drawn.next_piece(wait=False)
    except BlockingIOError:
        return await anyio.to_thread.run_sync(drawn.next_piece)
