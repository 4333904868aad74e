"""Buffers: make, list, look at, change, fork, delete."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Response

from memory_format import NotFoundError
from memory_format.api.answers import (
    BufferInfo,
    BufferList,
    BufferStats,
    ChangedBuffer,
    ClassesNamed,
    ClassList,
    Vocabulary,
)
from memory_format.api.requests import (
    BufferChange,
    BufferQuery,
    BufferRequest,
    ClassNames,
    ClassQuery,
    DeleteBufferQuery,
    ForkRequest,
    VocabularyWords,
)
from memory_service.http.access import needs
from memory_service.http.convert import budget_of, buffer_info, with_changes
from memory_service.http.openapi import MISFITS, NO_ROOM, refusals
from memory_service.http.routes.common import JSON_BODY, BufferDep, BufferName, GrantDep, Router, StoreDep

router = Router(prefix="/v1/buffers", tags=["buffers"])


@router.put(
    "/{name}",
    responses={201: {"model": BufferInfo}},
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("invalid_budget", "buffer_exists", "quota_exceeded", "disk_limit_exceeded"),
)
def put_buffer(
    name: BufferName, wanted: BufferRequest, store: StoreDep, grant: GrantDep, response: Response
) -> BufferInfo:
    """Make a buffer: 201 when it is new, 200 when an equal one exists."""
    buffer, created = store.create_buffer(
        name,
        budget=budget_of(wanted),
        disk_limit_bytes=wanted.disk_limit_bytes,
        eviction=wanted.eviction,
        retain_snapshots=wanted.retain_snapshots,
        learner_floor=wanted.learner_floor,
        description=wanted.description,
        patch_px=wanted.patch_px,
        vocabulary=wanted.vocabulary,
        vocabulary_name=wanted.vocabulary_name,
        owner=wanted.owner,
        made_by=grant.maker,
    )
    response.status_code = 201 if created else 200
    return buffer_info(buffer)


@router.get("", openapi_extra=needs("read") | refusals("invalid_cursor"))
def list_buffers(store: StoreDep, grant: GrantDep, page: Annotated[BufferQuery, Query()]) -> BufferList:
    """Buffers that the key is for, by name; ``next_cursor`` leads to the next page."""
    buffers, next_cursor = store.page_of_buffers(page.limit, page.cursor, only=grant.sees)
    return BufferList(tuple(map(buffer_info, buffers)), next_cursor=next_cursor)


@router.get("/{name}", openapi_extra=needs("read") | refusals("unknown_buffer"))
def get_buffer_info(buffer: BufferDep) -> BufferInfo:
    """One buffer."""
    return buffer_info(buffer)


@router.patch(
    "/{name}",
    dependencies=[JSON_BODY],
    openapi_extra=needs("write", own=True) | refusals("unknown_buffer", "invalid_budget", *NO_ROOM, *MISFITS),
)
def patch_buffer(buffer: BufferDep, change: BufferChange, grant: GrantDep) -> ChangedBuffer:
    """Change settings. A smaller budget evicts by the buffer's policy; a larger one changes nothing that is held."""
    evicted = buffer.configure(partial(with_changes, change=change), grant.only_maker)
    return ChangedBuffer(**vars(buffer_info(buffer)), evicted=tuple(evicted))


@router.delete(
    "/{name}",
    status_code=204,
    openapi_extra=needs("write", own=True) | refusals("unknown_buffer", "other_owner"),
)
def delete_buffer(
    name: BufferName, store: StoreDep, grant: GrantDep, query: Annotated[DeleteBufferQuery, Query()]
) -> None:
    """Delete a buffer, its records and their files; with ``owner``, only if it belongs to that run."""
    store.delete_buffer(name, owner=query.owner, only_maker=grant.only_maker)


@router.post(
    "/{name}/classes",
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("unknown_buffer", "class_name_taken", "disk_limit_exceeded"),
)
def name_classes(buffer: BufferDep, wanted: ClassNames) -> ClassesNamed:
    """The ids of classes by name. A name that is new to the buffer gets an id; all of them in one step."""
    return buffer.name_classes(wanted.names, wanted.class_ids)


@router.get("/{name}/classes", openapi_extra=needs("read") | refusals("unknown_buffer", "invalid_cursor"))
def list_classes(buffer: BufferDep, page: Annotated[ClassQuery, Query()]) -> ClassList:
    """Named classes, by id; ``next_cursor`` leads to the next page."""
    classes, next_cursor = buffer.page_of_classes(page.limit, page.cursor)
    return ClassList(tuple(classes), next_cursor=next_cursor)


@router.put(
    "/{name}/vocabulary",
    responses={201: {"model": BufferInfo}},
    dependencies=[JSON_BODY],
    openapi_extra=needs("write") | refusals("unknown_buffer", "vocabulary_mismatch", "disk_limit_exceeded"),
)
def put_vocabulary(buffer: BufferDep, wanted: VocabularyWords, response: Response) -> BufferInfo:
    """Keep the words of the vocabulary of the buffer's token ids: 201 when they are new, 200 when they are there.

    A buffer whose vocabulary nobody has named, and that holds no texts, has this one from then on.
    """
    response.status_code = 201 if buffer.say_words(wanted.words) else 200
    return buffer_info(buffer)


@router.get("/{name}/vocabulary", openapi_extra=needs("read") | refusals("unknown_buffer", "unknown_vocabulary"))
def get_vocabulary(buffer: BufferDep) -> Vocabulary:
    """The words of the buffer's vocabulary."""
    state = buffer.state
    if state.words is None or state.config.vocabulary is None:
        raise NotFoundError(
            f"nobody has said the words of buffer {buffer.name!r}; PUT them there", code="unknown_vocabulary"
        )
    return Vocabulary(state.config.vocabulary, state.config.vocabulary_name, state.words.listed)


@router.post(
    "/{name}/forks",
    status_code=201,
    dependencies=[JSON_BODY],
    openapi_extra=needs("write")
    | refusals("unknown_buffer", "unknown_snapshot", "buffer_exists", "invalid_budget", *NO_ROOM),
)
def fork(name: BufferName, wanted: ForkRequest, store: StoreDep, grant: GrantDep) -> BufferInfo:
    """A new buffer that starts from this one, or from one of its snapshots, and shares its files. The key must be for
    both."""
    grant.check(wanted.name)
    buffer = store.fork(
        name,
        wanted.name,
        snapshot=wanted.snapshot,
        disk_limit_bytes=wanted.disk_limit_bytes,
        description=wanted.description,
        made_by=grant.maker,
    )
    return buffer_info(buffer)


@router.get("/{name}/stats", openapi_extra=needs("read") | refusals("unknown_buffer"))
def get_stats(buffer: BufferDep) -> BufferStats:
    """Figures: budget, bytes, records by class, phase and learner, what is on disk."""
    return buffer.stats()
