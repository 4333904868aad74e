"""Replay batches."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from memory_format import MEDIA_TYPE
from memory_service.piecewise import PiecewiseResponse
from memory_service.routes.common import ARROW_ANSWER, BufferDep, arrow_headers, arrow_response
from memory_service.schemas import SampleBody
from memory_service.store.drawn import Drawn

router = APIRouter(prefix="/v1/buffers/{name}", tags=["sample"])


@router.post("/sample", response_class=Response, responses={200: ARROW_ANSWER})
async def sample(buffer: BufferDep, wanted: SampleBody) -> Response:
    """Draw a batch, as an Arrow IPC stream in drawing order; ``Exemplar-Memory-Version`` says of which
    version.

    The same request on the same version gives the same batch, in any process, after any restart.
    """

    def begin() -> tuple[Drawn, Iterator[memoryview], memoryview]:
        drawn = buffer.draw(wanted.request())
        pieces = drawn.pieces()
        first = None
        try:
            first = next(pieces)
            return drawn, pieces, first
        finally:
            if first is None or len(first) == len(drawn.stream):
                drawn.close()

    drawn, pieces, first = await run_in_threadpool(begin)
    if len(first) == len(drawn.stream):
        return arrow_response(drawn.stream, None, drawn.version)
    return PiecewiseResponse(
        first,
        pieces,
        num_bytes=len(drawn.stream),
        close=drawn.close,
        headers=arrow_headers(None, drawn.version),
        media_type=MEDIA_TYPE,
    )
