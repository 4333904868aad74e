"""Exemplars: push, list, look at one, see it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from memory_format import MEDIA_TYPE, FormatError, encode_batch
from memory_service.body import is_arrow
from memory_service.render import Dropped, to_png
from memory_service.routes.common import ARROW_ANSWER, VERSION_HEADER, BufferDep, arrow_response
from memory_service.schemas import ExemplarDetail, ExemplarInfo, ExemplarPage, ExemplarQuery, PushResponse

router = APIRouter(prefix="/v1/buffers/{name}/exemplars", tags=["exemplars"])

ExemplarId = Annotated[int, Path(ge=1, lt=2**63)]


async def read_arrow_body(request: Request) -> bytes:
    """The body of a push; :class:`~memory_service.body.BodyLimit` bounds it."""
    content_type = request.headers.get("content-type", "")
    if not is_arrow(content_type):
        raise HTTPException(415, f"a push is {MEDIA_TYPE}, not {content_type or 'without a Content-Type'}")
    return await request.body()


def read_idempotency_key(
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=10_000)] = None,
) -> str | None:
    if key is not None and not (1 <= len(key) <= 128 and key.isascii() and key.isprintable()):
        raise FormatError("an Idempotency-Key has 1..128 printable ASCII characters", code="invalid_request")
    return key


@router.post(
    "",
    response_model=PushResponse,
    openapi_extra={"requestBody": {"required": True, **ARROW_ANSWER}},
)
def push(
    buffer: BufferDep,
    key: Annotated[str | None, Depends(read_idempotency_key)],
    body: Annotated[bytes, Depends(read_arrow_body)],
) -> Response:
    """Push a batch of records (an Arrow IPC stream): all of it is judged, and kept or not, in one step.

    When this answers, what was kept is on disk. With an ``Idempotency-Key`` a repeated push changes nothing
    and gets the first answer, with ``Idempotency-Replayed: true``.
    """
    answer = buffer.push(body, idempotency_key=key)
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    return Response(answer.document, media_type="application/json", headers=headers)


@router.get("", response_model=ExemplarPage, responses={200: ARROW_ANSWER})
def query(
    buffer: BufferDep,
    query: Annotated[ExemplarQuery, Query()],
    response: Response,
    accept: Annotated[str, Header()] = "",
) -> ExemplarPage | Response:
    """List records: metadata as JSON, or with ``Accept: application/vnd.apache.arrow.stream`` whole records.

    ``next_cursor`` (or the header ``Exemplar-Memory-Next-Cursor``) leads to the next page.
    """
    if is_arrow(accept):
        records, next_cursor, version = buffer.query_records(query.query())
        return arrow_response(encode_batch(records), version, next_cursor)
    page, version = buffer.query(query.query())
    response.headers[VERSION_HEADER] = str(version)
    infos = [ExemplarInfo.of_row(row) for row in page.rows]
    return ExemplarPage(exemplars=infos, next_cursor=page.next_cursor, version=version)


@router.get("/{exemplar_id}")
def get_exemplar(buffer: BufferDep, exemplar_id: ExemplarId) -> ExemplarDetail:
    """One record: metadata, masks, tokens and the user's JSON."""
    return ExemplarDetail.of_record(buffer.get(exemplar_id))


@router.get(
    "/{exemplar_id}/image.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_image(
    buffer: BufferDep,
    exemplar_id: ExemplarId,
    dropped: Annotated[Dropped, Query()] = "grey",
    scale: Annotated[int, Query(ge=1, le=8)] = 1,
) -> Response:
    """One record as a picture, dropped patches flat."""
    return Response(to_png(buffer.get(exemplar_id), dropped=dropped, scale=scale), media_type="image/png")
