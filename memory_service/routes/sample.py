"""Replay batches."""

from __future__ import annotations

from fastapi import APIRouter, Response

from memory_service.routes.common import ARROW_ANSWER, BufferDep, arrow_response
from memory_service.schemas import SampleBody

router = APIRouter(prefix="/v1/buffers/{name}", tags=["sample"])


@router.post("/sample", response_class=Response, responses={200: ARROW_ANSWER})
def sample(buffer: BufferDep, wanted: SampleBody) -> Response:
    """Draw a batch, as an Arrow IPC stream in drawing order; ``Exemplar-Memory-Version`` says of which
    version.

    The same request on the same version gives the same batch, in any process, after any restart.
    """
    batch, version = buffer.sample(wanted.request())
    return arrow_response(batch, None, version)
