"""Bounds on request bodies, held while they are read."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_format import MEDIA_TYPE
from memory_service.problems import BodyTooLargeError, problem_response


class BodyLimit:
    """ASGI middleware that refuses a body over its limit before, or as soon as, that is known.

    Args:
        arrow_bytes: limit of bodies of type ``application/vnd.apache.arrow.stream``.
        other_bytes: limit of all others.
    """

    def __init__(self, app: ASGIApp, *, arrow_bytes: int, other_bytes: int) -> None:
        self._app = app
        self._arrow_bytes = arrow_bytes
        self._other_bytes = other_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = (
            self._arrow_bytes if is_arrow(headers.get(b"content-type", b"").decode("latin-1")) else self._other_bytes
        )
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            error = BodyTooLargeError(limit)
            response = problem_response("batch_too_large", error.detail, details={"limit": limit})
            await response(scope, receive, send)
            return
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyTooLargeError(limit)
            return message

        await self._app(scope, bounded_receive, send)


def is_arrow(content_type: str) -> bool:
    """Whether a Content-Type or Accept header names Arrow streams."""
    kinds = (part.split(";")[0].strip().lower() for part in content_type.split(","))
    return MEDIA_TYPE in kinds
