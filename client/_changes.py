"""New scores and deletions: one call, as many requests as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from client._address import buffer_path
from client._params import numbers, query_string, whole
from client._session import Session
from client.errors import ServiceError
from client.models import DeleteResult, UpdateResult
from memory_format import ExemplarMemoryError, NotFoundError
from memory_format.api.answers import BufferInfo
from memory_format.api.terms import MAX_UPDATE

_ERASE = {"erase": "true"}
_UPDATE = 16_000
"""Ids in one request for new scores: 64 bytes each, the most that they take as JSON, stay under 1 MiB."""

_DELETE = 500
"""Ids in one deletion: an address of 16 kB at most."""


def update(
    session: Session,
    buffer: str,
    exemplar_ids: ArrayLike,
    scores: ArrayLike | None,
    ranks: ArrayLike | None,
    if_version: int | None,
) -> UpdateResult:
    """See :meth:`Buffer.update_scores`."""
    ids = numbers("exemplar_ids", exemplar_ids)
    columns = {"exemplar_ids": ids}
    if scores is not None:
        columns["scores"] = numbers("scores", scores, whole=False)
    if ranks is not None:
        columns["ranks"] = numbers("ranks", ranks)
    if len(columns) == 1 or any(len(column) != len(ids) for column in columns.values()):
        raise ValueError("as many scores, ranks or both as exemplar_ids are needed")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("an exemplar_id comes twice")
    if if_version is not None and len(ids) > MAX_UPDATE:
        raise ValueError(f"if_version guards one request, which takes {MAX_UPDATE} ids, not {len(ids)}")
    if not len(ids):
        return UpdateResult(0, (), _info(session, buffer).version)
    guard = {} if if_version is None else {"if_version": whole("if_version", if_version, 0)}
    path = buffer_path(buffer, "exemplars")
    results: list[UpdateResult] = []
    step = len(ids) if guard else _UPDATE
    for first in range(0, len(ids), step):
        body = {name: column[first : first + step].tolist() for name, column in columns.items()}
        try:
            results.append(session.value(UpdateResult, "PATCH", path, safe=not guard, json={**body, **guard}))
        except (ExemplarMemoryError, ServiceError) as error:
            error.details["ids_acknowledged"] = first
            raise
    return UpdateResult(
        updated=sum(result.updated for result in results),
        missing=tuple(item for result in results for item in result.missing),
        version=results[-1].version,
    )


def delete_matching(session: Session, buffer: str, where: Mapping[str, Any], erase: bool) -> DeleteResult:
    """Delete exemplars that match."""
    query = query_string({**where, **_ERASE} if erase else where)
    found = session.value(DeleteResult, "DELETE", buffer_path(buffer, "exemplars"), params=query)
    return found if found.receipt is None else replace(found, receipts=(found.receipt,))


def delete_one(session: Session, buffer: str, exemplar_id: int) -> DeleteResult:
    """Delete an exemplar by its id, if it is there."""
    path = buffer_path(buffer, "exemplars", str(exemplar_id))
    try:
        return session.value(DeleteResult, "DELETE", path)
    except NotFoundError as error:
        if error.code != "unknown_exemplar":
            raise
        # After a broken connection, "there is none" is what a deletion that went through sounds like.
        deleted, missing = ((), (exemplar_id,)) if error.details.get("tries", 1) == 1 else ((exemplar_id,), ())
    now = _info(session, buffer)
    return DeleteResult(deleted, now.bytes_used, now.version, missing)


def delete_listed(session: Session, buffer: str, exemplar_ids: list[int], erase: bool) -> DeleteResult:
    """Delete exemplars by their ids, those that are there, many in one request."""
    found = [
        delete_matching(session, buffer, {"exemplar_id": exemplar_ids[first : first + _DELETE]}, erase)
        for first in range(0, len(exemplar_ids), _DELETE)
    ]
    if not found:
        now = _info(session, buffer)
        return DeleteResult((), now.bytes_used, now.version)
    deleted = [exemplar_id for result in found for exemplar_id in result.deleted]
    gone = {*deleted}
    missing = tuple(dict.fromkeys(id_ for id_ in exemplar_ids if id_ not in gone))
    receipts = tuple(receipt for result in found for receipt in result.receipts)
    return DeleteResult(tuple(deleted), found[-1].bytes_used, found[-1].version, missing, receipts)


def _info(session: Session, buffer: str) -> BufferInfo:
    return session.value(BufferInfo, "GET", buffer_path(buffer))
