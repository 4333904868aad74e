"""The whole store as one file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import anyio.to_thread
from fastapi import Request
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse

from memory_format.api.terms import BACKUP_MEDIA_TYPE
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import Router, StoreDep, headers_only
from memory_service.store.admin.backup import Archive

router = Router(prefix="/v1", tags=["backup"])

_TAR: Final[dict[str, Any]] = {"content": {BACKUP_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/backup", response_class=StreamingResponse, responses={200: _TAR}, openapi_extra=refusals("disk_limit_exceeded")
)
async def backup(request: Request, store: StoreDep) -> Response:
    """All of the store as it is now, as a tar file of its directory; an answer that is shorter than it says failed on
    the way."""
    headers = {"Content-Disposition": 'attachment; filename="memory.tar"'}
    if request.method == "HEAD":
        # How long it would be only a copy of the index says.
        return headers_only(BACKUP_MEDIA_TYPE, headers)
    archive = await run_in_threadpool(store.archive)
    return StreamingResponse(
        _all(archive),
        media_type=BACKUP_MEDIA_TYPE,
        headers={**headers, "Content-Length": str(archive.num_bytes)},
    )


async def _all(archive: Archive) -> AsyncIterator[bytes]:
    try:
        async for piece in iterate_in_threadpool(archive):
            yield piece
    finally:
        # Also where the client has gone: what was kept for it is let go.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(archive.close)
