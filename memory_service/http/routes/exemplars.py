"""Exemplars: push, list, change, delete, look at one, see it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from fastapi import Depends, Header, Path, Query, Request, Response
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from memory_format import MEDIA_TYPE, Dropped, ErrorCode, FormatError
from memory_format.api import fields
from memory_format.api.answers import DeleteResponse, ExemplarDetail, ExemplarPage, PushResponse, UpdateResponse
from memory_format.api.contents import FieldCounts
from memory_format.api.fields import Fingerprint, Name
from memory_format.api.requests import (
    ERASE,
    CountQuery,
    DeleteQuery,
    Digits,
    ExemplarQuery,
    Flag,
)
from memory_format.api.terms import (
    JSON_MEDIA_TYPE,
    KEY_HEADER,
    MAX_KEY_LENGTH,
    MAX_SCALE,
    PICTURE_MEDIA_TYPE,
    REPLAYED_HEADER,
    REVISION_PATTERN,
    VERSION_HEADER,
    VOCABULARY_HEADER,
)
from memory_format.api.updates import ExemplarChange, ExemplarUpdate
from memory_format.parts import MAX_PICTURES
from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.convert import arrays_of, deletion_of, exemplar_detail, filter_of, query_of
from memory_service.http.media import prefers
from memory_service.http.openapi import MISFITS, NO_ROOM, RECORD_CODES, refusals
from memory_service.http.routes.common import (
    ARROW,
    JSON_BODY,
    PAGE,
    TAGGED,
    BufferDep,
    GrantDep,
    Router,
    StoreDep,
    arrow_response,
    expect_media_type,
    get_known_buffer,
    headers_only,
    in_known,
)
from memory_service.store import Buffer
from memory_service.store.png import to_png
from memory_service.store.pure.model import PushAnswer
from memory_service.store.reads import no_exemplar

router = Router(prefix="/v1/buffers/{name}/exemplars", tags=["exemplars"])

SnapshotName = Annotated[Name | None, Query(description="Look at what the buffer held at this snapshot.")]
VocabularyHeader = Annotated[
    Fingerprint | None, Header(alias=VOCABULARY_HEADER, description="Of the vocabulary that the token ids are of.")
]
ExemplarId = Annotated[fields.ExemplarId, Digits, Path()]

_PAGE: Final = TypeAdapter(ExemplarPage)
_OF_CHANGES: Final[tuple[ErrorCode, ...]] = (
    "precondition_failed",
    "invalid_record",
    "batch_too_large",
    "record_exceeds_budget",
    *NO_ROOM,
)


async def read_revision(
    request: Request,
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description="A revision, as `ETag` said it, or `*`.",
            json_schema_extra={"pattern": rf"^(\*|{REVISION_PATTERN.pattern})$", "minLength": 1},
        ),
    ] = None,
) -> int | None:
    if if_match is None or if_match == "*":
        return None
    found = REVISION_PATTERN.fullmatch(if_match)
    if found is None or len(request.headers.getlist("If-Match")) > 1:
        raise FormatError(
            f"If-Match is one revision in quotes, as ETag said it, or *, got {if_match[:100]!r}", code="invalid_request"
        )
    return int(found[1])


async def read_idempotency_key(
    request: Request,
    key: Annotated[
        str | None, Header(alias=KEY_HEADER, json_schema_extra={"pattern": f"^[ -~]{{1,{MAX_KEY_LENGTH}}}$"})
    ] = None,
) -> str | None:
    if len(request.headers.getlist(KEY_HEADER)) > 1:
        raise FormatError(f"there are two {KEY_HEADER}s, and one is taken", code="invalid_request")
    if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise FormatError(f"an {KEY_HEADER} has 1..{MAX_KEY_LENGTH} printable ASCII characters", code="invalid_request")
    return key


@router.post(
    "",
    response_model=PushResponse,
    openapi_extra=needs("write")
    | {"requestBody": {"required": True, **ARROW}}
    | refusals(
        "unknown_buffer",
        "invalid_batch",
        *RECORD_CODES,
        "record_exceeds_budget",
        *NO_ROOM,
        "idempotency_key_reused",
        *MISFITS,
    ),
)
async def push(
    request: Request,
    buffer: Annotated[Buffer, Depends(get_known_buffer)],
    store: StoreDep,
    grant: GrantDep,
    key: Annotated[str | None, Depends(read_idempotency_key)],
    vocabulary: VocabularyHeader = None,
    dry_run: Annotated[Flag, Query(description="Answer what a push would be answered, and change nothing.")] = False,
) -> Response:
    """Push a batch of records (an Arrow IPC stream): all of it is judged, and kept or not, in one step.

    When this answers, what was kept is on disk. With an ``Idempotency-Key`` a repeated push changes nothing
    and gets the first answer, with ``Idempotency-Replayed: true``. A learner's own key pushes its records alone.
    """
    expect_media_type(request, "a push", MEDIA_TYPE)
    admission: Admission = request.app.state.admission
    with admission.push() as read:
        body = await read(request.stream())
        admission.pushes.expect_place()

        def push_into(buffer: Buffer) -> PushAnswer:
            return buffer.push(
                body,
                idempotency_key=key,
                vocabulary=vocabulary,
                dry_run=dry_run,
                only_learner=grant.learner_id,
                trusted=grant.is_trusted,
            )

        answer = await admission.pushes.run(partial(in_known, store, buffer, push_into))
    headers = {REPLAYED_HEADER: "true"} if answer.replayed else {}
    return Response(answer.document, media_type=JSON_MEDIA_TYPE, headers=headers)


@router.get(
    "",
    response_model=ExemplarPage,
    responses={200: PAGE},
    openapi_extra=needs("read") | refusals("unknown_buffer", "unknown_snapshot", "invalid_cursor"),
)
async def query(request: Request, buffer: BufferDep, query: Annotated[ExemplarQuery, Query()]) -> Response:
    """List records: metadata as JSON, or with ``Accept: application/vnd.apache.arrow.stream`` whole records.

    ``next_cursor`` (or the header ``Exemplar-Memory-Next-Cursor``) leads to the next page.
    """
    arrow = prefers(", ".join(request.headers.getlist("accept")), MEDIA_TYPE)
    admission: Admission = request.app.state.admission
    return await admission.listing.run(partial(_arrow_page if arrow else _json_page, buffer, query))


def _arrow_page(buffer: Buffer, query: ExemplarQuery) -> Response:
    return arrow_response(*buffer.query_encoded(query_of(query), snapshot=query.snapshot))


def _json_page(buffer: Buffer, query: ExemplarQuery) -> Response:
    found, next_cursor, version = buffer.query(query_of(query), snapshot=query.snapshot)
    page = ExemplarPage(tuple(found), next_cursor=next_cursor, version=version)
    # Written here: FastAPI would check it once more, and write it in the event loop, where samples are drawn.
    return Response(_PAGE.dump_json(page), media_type=JSON_MEDIA_TYPE, headers={VERSION_HEADER: str(version)})


@router.patch(
    "",
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("unknown_buffer", "unknown_exemplar", "stale_version", *_OF_CHANGES),
)
def update(buffer: BufferDep, wanted: ExemplarUpdate, grant: GrantDep) -> UpdateResponse:
    """Give records other scores, ranks or arrays, many at once: all of it or nothing.

    Records that are not held are passed over and named. With ``if_version``, only if nothing has changed since; with
    ``if_revisions``, only if of no record arrays were replaced since, and all are held.
    """
    return buffer.update(
        wanted.exemplar_ids,
        scores=wanted.scores,
        ranks=wanted.ranks,
        arrays=arrays_of(wanted.arrays, len(wanted.exemplar_ids)),
        if_revisions=wanted.if_revisions,
        if_version=wanted.if_version,
        only_learner=grant.learner_id,
    )


@router.delete("", openapi_extra=needs("write") | refusals("unknown_buffer", "invalid_query", "disk_limit_exceeded"))
def delete_matching(
    buffer: BufferDep, store: StoreDep, grant: GrantDep, query: Annotated[DeleteQuery, Query()]
) -> DeleteResponse:
    """Delete the records that match; at least one filter is needed."""
    where = deletion_of(query)
    if query.erase:
        return store.erasures.erase(buffer, None, where, only_learner=grant.learner_id, sees=grant.sees)
    return buffer.delete(where=where, only_learner=grant.learner_id)


@router.delete(
    "/{exemplar_id}",
    openapi_extra=needs("write") | refusals("unknown_buffer", "unknown_exemplar", "disk_limit_exceeded"),
)
def delete_one(
    buffer: BufferDep,
    store: StoreDep,
    grant: GrantDep,
    exemplar_id: ExemplarId,
    erase: Annotated[Flag, Query(description=ERASE)] = False,
) -> DeleteResponse:
    """Delete one record."""
    if erase:
        return store.erasures.erase(buffer, [exemplar_id], only_learner=grant.learner_id, sees=grant.sees)
    return buffer.delete([exemplar_id], only_learner=grant.learner_id)


@router.get("/counts/{field}", openapi_extra=needs("read") | refusals("unknown_buffer", "unknown_snapshot"))
def count_by(
    buffer: BufferDep, field: Annotated[fields.FieldName, Path()], query: Annotated[CountQuery, Query()]
) -> FieldCounts:
    """Records and bytes by a field of the user's, of all records or of those that match."""
    return buffer.count_by(field, filter_of(query), limit=query.limit, snapshot=query.snapshot)


@router.patch(
    "/{exemplar_id}",
    dependencies=[JSON_BODY],
    responses={200: TAGGED},
    openapi_extra=needs("write") | refusals("unknown_buffer", "unknown_exemplar", *_OF_CHANGES),
)
def update_one(
    buffer: BufferDep,
    exemplar_id: ExemplarId,
    wanted: ExemplarChange,
    grant: GrantDep,
    response: Response,
    revision: Annotated[int | None, Depends(read_revision)],
) -> UpdateResponse:
    """Give one record another score, rank or arrays. With ``If-Match``, only if its arrays were not replaced since."""
    answer = buffer.update(
        [exemplar_id],
        scores=None if wanted.score is None else [wanted.score],
        ranks=None if wanted.rank is None else [wanted.rank],
        arrays=arrays_of(wanted.arrays, 1),
        if_revisions=None if revision is None else [revision],
        only_learner=grant.learner_id,
    )
    if answer.missing:
        raise no_exemplar(buffer.name, exemplar_id)
    response.headers["ETag"] = f'"{answer.revisions.get(exemplar_id, 0)}"'
    return answer


@router.get(
    "/{exemplar_id}",
    responses={200: TAGGED},
    openapi_extra=needs("read") | refusals("unknown_buffer", "unknown_exemplar", "unknown_snapshot"),
)
def get_exemplar(
    buffer: BufferDep, exemplar_id: ExemplarId, response: Response, snapshot: SnapshotName = None
) -> ExemplarDetail:
    """One record: metadata, masks, tokens and the user's JSON. ``ETag`` is its revision, for ``If-Match``."""
    detail = exemplar_detail(buffer.get(exemplar_id, snapshot=snapshot))
    response.headers["ETag"] = f'"{detail.revision}"'
    return detail


@router.get(
    "/{exemplar_id}/image.png",
    response_class=Response,
    responses={200: {"content": {PICTURE_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
    openapi_extra=needs("read")
    | refusals(
        "unknown_buffer",
        "unknown_exemplar",
        "unknown_snapshot",
        "invalid_query",
        "invalid_payload",
        "codec_unavailable",
    ),
)
async def get_image(
    request: Request,
    buffer: BufferDep,
    exemplar_id: ExemplarId,
    dropped: Annotated[Dropped, Query()] = "grey",
    scale: Annotated[int, Query(ge=1, le=MAX_SCALE), Digits] = 1,
    picture: Annotated[int, Query(ge=0, lt=MAX_PICTURES, description="Which of several."), Digits] = 0,
    snapshot: SnapshotName = None,
) -> Response:
    """One record's picture, dropped patches flat. Of several, the first unless another is asked for."""

    if request.method == "HEAD":
        await run_in_threadpool(buffer.get, exemplar_id, snapshot=snapshot)
        return headers_only(PICTURE_MEDIA_TYPE, {})

    def draw() -> bytes:
        record = buffer.get(exemplar_id, snapshot=snapshot)
        return to_png(record, dropped=dropped, scale=scale, picture=picture)

    admission: Admission = request.app.state.admission
    admission.pictures.expect_place()
    return Response(await admission.pictures.run(draw), media_type=PICTURE_MEDIA_TYPE)
