"""Replay batches, whole or by id, and records by id."""

from __future__ import annotations

from functools import partial
from typing import Final

from fastapi import Request, Response
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from memory_format.api.answers import DrawnIds
from memory_format.api.requests import RecordsBody, SampleBody
from memory_format.api.terms import JSON_MEDIA_TYPE, VERSION_HEADER
from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.convert import draw_of
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import BATCH, DRAWN, Router, get_buffer, get_store, json_operation, read_json
from memory_service.http.streaming import DrawnResponse

router = Router(prefix="/v1/buffers/{name}", tags=["sample"])

_IDS: Final = TypeAdapter(DrawnIds)


@router.post(
    "/sample",
    response_class=Response,
    responses={200: DRAWN},
    openapi_extra=needs("read")
    | json_operation(SampleBody, "name")
    | refusals(
        "unknown_buffer",
        "unknown_snapshot",
        "no_matching_exemplars",
        "stale_version",
        "invalid_query",
        "batch_too_large",
    ),
)
async def sample(request: Request) -> Response:
    """Draw a batch, as an Arrow IPC stream in drawing order; ``Exemplar-Memory-Version`` says of which
    version. With ``"want": "ids"``, the ids of that batch and what may have changed of its records, in JSON.

    The same request on the same version gives the same batch, in any process, after any restart.
    """
    buffer = await get_buffer(request.path_params["name"], await get_store(request))
    body = await read_json(request, SampleBody)
    wanted = draw_of(body)
    admission: Admission = request.app.state.admission
    if body.want == "ids":
        try:
            async with admission.turn():
                ids = buffer.draw_ids(wanted, wait=False, expected=admission.expected)
        except BlockingIOError:
            ids = await run_in_threadpool(buffer.draw_ids, wanted)
        admission.lay_ahead(buffer, wanted)
        headers = {VERSION_HEADER: str(ids.version)}
        return Response(_IDS.dump_json(ids), media_type=JSON_MEDIA_TYPE, headers=headers)
    try:
        async with admission.turn():
            drawn = buffer.draw(wanted, wait=False, expected=admission.expected)
    except BlockingIOError:
        drawn = await run_in_threadpool(buffer.draw, wanted)
    sent = partial(admission.lay_ahead, buffer, wanted)
    return await DrawnResponse.begin(drawn, request.app.state.lease_seconds, sent)


@router.post(
    "/records",
    response_class=Response,
    responses={200: BATCH},
    openapi_extra=needs("read")
    | json_operation(RecordsBody, "name")
    | refusals("unknown_buffer", "unknown_snapshot", "batch_too_large"),
)
async def records(request: Request) -> Response:
    """Whole records by id, as an Arrow IPC stream in the order asked for; those that the buffer does not hold (any
    more) are left out."""
    buffer = await get_buffer(request.path_params["name"], await get_store(request))
    body = await read_json(request, RecordsBody)
    admission: Admission = request.app.state.admission
    try:
        async with admission.turn():
            found = buffer.fetch(body.exemplar_ids, snapshot=body.snapshot, wait=False)
    except BlockingIOError:
        found = await run_in_threadpool(buffer.fetch, body.exemplar_ids, snapshot=body.snapshot)
    return await DrawnResponse.begin(found, request.app.state.lease_seconds)
