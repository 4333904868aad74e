"""A buffer as one file, and the whole store as one: export, import, backup."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import Query, Request
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import Response, StreamingResponse

from memory_format import FormatError
from memory_format.api.answers import BufferInfo
from memory_format.api.fields import Name
from memory_format.api.forms import FORMS
from memory_format.api.requests import Flag
from memory_format.api.terms import BACKUP_MEDIA_TYPE
from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.convert import buffer_info
from memory_service.http.media import chosen
from memory_service.http.openapi import NO_ROOM, RECORD_CODES, refusals
from memory_service.http.routes.common import (
    BufferDep,
    BufferName,
    GrantDep,
    Router,
    StoreDep,
    expect_media_type,
    headers_only,
)
from memory_service.http.streaming import ExportResponse
from memory_service.store.transfer.backup import Archive

router = Router(prefix="/v1")

_FILE: Final = {"schema": {"type": "string", "format": "binary"}}
_TYPES: Final = {form.media_type: name for name, form in FORMS.items()}
_FILES: Final[dict[str, Any]] = {"content": dict.fromkeys(_TYPES, _FILE)}
_IMPORTED: Final = [form.media_type for name, form in FORMS.items() if name != "parquet"]
_TAR: Final[dict[str, Any]] = {"content": {BACKUP_MEDIA_TYPE: _FILE}}


@router.get(
    "/buffers/{name}/export",
    tags=["transfer"],
    response_class=StreamingResponse,
    responses={200: _FILES},
    openapi_extra=needs("read") | refusals("unknown_buffer", "unknown_snapshot", "invalid_query", "not_acceptable"),
)
async def export(
    request: Request,
    buffer: BufferDep,
    snapshot: Annotated[Name | None, Query(description="Export what the buffer held at this snapshot.")] = None,
    png: Annotated[Flag, Query(description="With each record's picture as PNG, in a column of a table.")] = False,
) -> Response:
    """The buffer as one file: a Zarr store in a ZIP, or by ``Accept`` a table with a row a record, as an Arrow stream
    or file or as Parquet. An answer that is shorter than it says, or breaks off, failed on the way."""
    kind = chosen(", ".join(request.headers.getlist("accept")), list(_TYPES))
    if kind is None:
        words = f"a buffer is exported as {', '.join(_TYPES)}; Accept takes none of them"
        raise FormatError(words, code="not_acceptable")
    form = _TYPES[kind]
    file = await run_in_threadpool(buffer.export, snapshot, form, png=png)
    name = buffer.name if snapshot is None else f"{buffer.name}-{snapshot}"
    headers = {"Content-Disposition": f'attachment; filename="{name}{FORMS[form].suffix}"', "Vary": "Accept"}
    if file.num_bytes is not None:
        headers["Content-Length"] = str(file.num_bytes)
    if request.method == "HEAD":
        await run_in_threadpool(file.close)
        return headers_only(kind, headers)
    return ExportResponse(file, request.app.state.lease_seconds, headers, kind)


@router.post(
    "/buffers/{name}/import",
    tags=["transfer"],
    status_code=201,
    openapi_extra=needs("admin")
    | {"requestBody": {"required": True, "content": dict.fromkeys(_IMPORTED, _FILE)}}
    | refusals("buffer_exists", "invalid_export", "invalid_budget", *RECORD_CODES, *NO_ROOM),
)
async def import_buffer(name: BufferName, request: Request, store: StoreDep, grant: GrantDep) -> BufferInfo:
    """Make a buffer of an exported file: same exemplar ids, version, settings and bytes. Of tables an Arrow stream and
    an Arrow file are taken, whatever has written them again, if the schema's metadata is still there."""
    expect_media_type(request, "an export, which MemoryClient.import_buffer makes of Parquet, too,", *_IMPORTED)
    # Before a large body is read.
    store.expect_free(name)
    announced = request.headers.get("content-length", "")
    admission: Admission = request.app.state.admission
    admission.imports.expect_place()
    incoming = store.receive(int(announced) if announced.isascii() and announced.isdigit() else 0)
    try:
        async for piece in request.stream():
            await admission.receiving.run(partial(incoming.write, piece))
        buffer = await admission.imports.run(
            partial(store.import_buffer, name, incoming.path, trusted=grant.is_trusted, made_by=grant.maker)
        )
    finally:
        with anyio.CancelScope(shield=True):
            await admission.receiving.run(incoming.discard)
    return buffer_info(buffer)


@router.get(
    "/backup",
    tags=["backup"],
    response_class=StreamingResponse,
    responses={200: _TAR},
    openapi_extra=needs("admin", all_buffers=True) | refusals("disk_limit_exceeded"),
)
async def backup(request: Request, store: StoreDep) -> Response:
    """All of the store as it is now, as a tar file of its directory; an answer that is shorter than it says failed on
    the way."""
    headers = {"Content-Disposition": 'attachment; filename="memory.tar"'}
    if request.method == "HEAD":
        # How long it would be only a copy of the index says.
        return headers_only(BACKUP_MEDIA_TYPE, headers)
    archive = await run_in_threadpool(store.archive)
    headers["Content-Length"] = str(archive.num_bytes)
    return StreamingResponse(_all(archive), media_type=BACKUP_MEDIA_TYPE, headers=headers)


async def _all(archive: Archive) -> AsyncIterator[bytes]:
    try:
        async for piece in iterate_in_threadpool(archive):
            yield piece
    finally:
        # Also where the client has gone: what was kept for it is let go.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(archive.close)
