"""Bounds on request bodies, held while they are read."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_format import MEDIA_TYPE
from memory_service.http.errors import BodyTooLargeError, problem_response
from memory_service.http.media import media_type
from memory_service.settings import Settings

_IMPORT: Final = re.compile(r"/v1/buffers/[^/]+/import")
"""Where files arrive. The type alone does not tell: an Arrow stream is a batch to push as well."""


class BodyLimit:
    """ASGI middleware that refuses a body over its limit before, or as soon as, that is known.

    How far it may fall behind the least rate is also how long a pause between two pieces may be.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._seconds = settings.body_seconds
        self._least_rate = settings.least_rate
        self._file_bytes = settings.max_import_bytes
        self._batch_bytes = settings.max_body_bytes
        self._other_bytes = settings.max_json_bytes

    def _limit_of(self, path: str, content_type: str) -> int:
        if _IMPORT.fullmatch(path):
            return self._file_bytes
        return self._batch_bytes if media_type(content_type) == MEDIA_TYPE else self._other_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = self._limit_of(scope["path"], headers.get(b"content-type", b"").decode("latin-1"))
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            error = BodyTooLargeError(limit)
            response = problem_response("batch_too_large", error.detail, details={"limit": limit})
            await response(scope, receive, send)
            return
        received = 0
        complete = False
        left = self._seconds
        loop = asyncio.get_running_loop()

        async def bounded_receive() -> Message:
            nonlocal received, complete, left
            began = loop.time()
            try:
                # Behind the body comes nothing but the news that the client has gone.
                async with asyncio.timeout(None if complete else left):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body fell {self._seconds:g} s behind {self._least_rate} bytes a second"
                ) from None
            complete = not message.get("more_body", False)
            num_bytes = len(message.get("body", b""))
            received += num_bytes
            # What comes faster makes up for a pause before it, never for one to come.
            left = min(self._seconds, left - (loop.time() - began) + num_bytes / self._least_rate)
            if received > limit:
                raise BodyTooLargeError(limit)
            return message

        await self._app(scope, bounded_receive, send)
