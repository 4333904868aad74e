"""What several routes share."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from memory_format import MEDIA_TYPE
from memory_service.store import Buffer, Store

VERSION_HEADER: Final = "Exemplar-Memory-Version"
CURSOR_HEADER: Final = "Exemplar-Memory-Next-Cursor"

ARROW_ANSWER: Final[dict[str, Any]] = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
"""For the OpenAPI document."""


# Coroutines: what is none is run in a thread of its own, which takes longer than the look-up.
async def get_store(request: Request) -> Store:
    store = request.app.state.store
    assert isinstance(store, Store), "the application's lifespan has not begun"
    return store


StoreDep = Annotated[Store, Depends(get_store)]


async def get_buffer(name: str, store: StoreDep) -> Buffer:
    """The buffer in the path; unknown names become ``unknown_buffer``."""
    return store.buffer(name)


BufferDep = Annotated[Buffer, Depends(get_buffer)]


def arrow_headers(next_cursor: str | None, version: int) -> dict[str, str]:
    headers = {VERSION_HEADER: str(version)}
    if next_cursor is not None:
        headers[CURSOR_HEADER] = next_cursor
    return headers


def arrow_response(data: memoryview, next_cursor: str | None, version: int) -> Response:
    return Response(data, media_type=MEDIA_TYPE, headers=arrow_headers(next_cursor, version))
