"""A buffer as one file: export and import."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import anyio
from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from memory_format.api.answers import BufferInfo
from memory_format.api.fields import Name
from memory_format.api.terms import EXPORT_MEDIA_TYPE
from memory_service.http.admission import Admission
from memory_service.http.convert import buffer_info
from memory_service.http.openapi import RECORD_CODES, refusals
from memory_service.http.routes.common import BufferDep, BufferName, Router, StoreDep, expect_media_type, headers_only
from memory_service.http.streaming import ExportResponse

router = Router(prefix="/v1/buffers/{name}", tags=["transfer"])

_ZIP: Final[dict[str, Any]] = {"content": {EXPORT_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: _ZIP},
    openapi_extra=refusals("unknown_buffer", "unknown_snapshot"),
)
async def export(
    request: Request,
    buffer: BufferDep,
    snapshot: Annotated[Name | None, Query(description="Export what the buffer held at this snapshot.")] = None,
) -> Response:
    """The buffer as one Zarr store in a ZIP; an answer that is shorter than it says failed on the way."""
    file = await run_in_threadpool(buffer.export, snapshot)
    name = f"{buffer.name}.zarr.zip" if snapshot is None else f"{buffer.name}-{snapshot}.zarr.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if request.method == "HEAD":
        await run_in_threadpool(file.close)
        return headers_only(EXPORT_MEDIA_TYPE, {**headers, "Content-Length": str(file.num_bytes)})
    return ExportResponse(file, request.app.state.lease_seconds, headers, EXPORT_MEDIA_TYPE)


@router.post(
    "/import",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, **_ZIP}}
    | refusals(
        "buffer_exists",
        "invalid_export",
        "invalid_budget",
        *RECORD_CODES,
        "budget_exceeded",
        "disk_limit_exceeded",
        "quota_exceeded",
    ),
)
async def import_buffer(name: BufferName, request: Request, store: StoreDep) -> BufferInfo:
    """Make a buffer of an exported file: same exemplar ids, version, settings and bytes."""
    expect_media_type(request, EXPORT_MEDIA_TYPE, "an export")
    # Before a large body is read.
    store.expect_free(name)
    announced = request.headers.get("content-length", "")
    admission: Admission = request.app.state.admission
    admission.expect_import()
    incoming = store.receive(int(announced) if announced.isascii() and announced.isdigit() else 0)
    try:
        async for piece in request.stream():
            await admission.receive(partial(incoming.write, piece))
        buffer = await admission.take_over(partial(store.import_buffer, name, incoming.path))
    finally:
        with anyio.CancelScope(shield=True):
            await admission.receive(incoming.discard)
    return buffer_info(buffer)
