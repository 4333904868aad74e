"""Replay batches."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from memory_format.api.requests import SampleBody
from memory_service.http.admission import Admission
from memory_service.http.convert import draw_of
from memory_service.http.openapi import refusals
from memory_service.http.routes.common import BATCH, Router, get_buffer, get_store, json_operation, read_json
from memory_service.http.streaming import DrawnResponse

router = Router(prefix="/v1/buffers/{name}", tags=["sample"])


@router.post(
    "/sample",
    response_class=Response,
    responses={200: BATCH},
    openapi_extra=json_operation(SampleBody, "name")
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
    version.

    The same request on the same version gives the same batch, in any process, after any restart.
    """
    buffer = await get_buffer(request.path_params["name"], await get_store(request))
    wanted = draw_of(await read_json(request, SampleBody))
    admission: Admission = request.app.state.admission
    try:
        async with admission.turn():
            drawn = buffer.draw(wanted, wait=False)
    except BlockingIOError:
        drawn = await run_in_threadpool(buffer.draw, wanted)
    return await DrawnResponse.begin(drawn, request.app.state.lease_seconds)
