"""New scores, other arrays, deletions: one call, as many requests as it takes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client._address import buffer_path
from client._params import numbers, present, query_string, whole
from client._session import Session
from client.errors import ServiceError
from client.models import DeleteResult, UpdateResult
from memory_format import ExemplarMemoryError, NotFoundError
from memory_format.api.answers import BufferInfo
from memory_format.api.terms import MAX_REPLACED, MAX_UPDATE
from memory_format.extras import ArrayDtype

_ERASE = {"erase": "true"}
_UPDATE = 16_000
"""Ids in one request for new scores: 64 bytes each, the most that they take as JSON, stay under 1 MiB."""

_ARRAY_BYTES = 2 * 1024 * 1024
"""Of arrays' values in one request, which take a third more in base64: under the 4 MiB of JSON that a service takes."""

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
    step = len(ids) if guard else _UPDATE

    def body_of(part: slice) -> dict[str, Any]:
        return {name: column[part].tolist() for name, column in columns.items()} | guard

    return _in_parts(session, path, len(ids), step, body_of, safe=not guard)


def replace_arrays(
    session: Session,
    buffer: str,
    exemplar_ids: ArrayLike,
    arrays: Mapping[str, ArrayLike],
    array_dtypes: Mapping[str, ArrayDtype] | None,
    if_revisions: ArrayLike | None,
) -> UpdateResult:
    """See :meth:`Buffer.replace`."""
    ids = numbers("exemplar_ids", exemplar_ids)
    if len(np.unique(ids)) != len(ids):
        raise ValueError("an exemplar_id comes twice")
    values = {name: _values(name, given, len(ids)) for name, given in arrays.items()}
    if not values:
        raise ValueError("arrays has none: which are to be replaced?")
    if unknown := (array_dtypes or {}).keys() - values.keys():
        raise ValueError(f"array_dtypes names {min(unknown)!r}, arrays has {', '.join(values)}")
    revisions = None if if_revisions is None else numbers("if_revisions", if_revisions)
    if revisions is not None and len(revisions) != len(ids):
        raise ValueError("as many if_revisions as exemplar_ids are needed")
    if not len(ids):
        return UpdateResult(0, (), _info(session, buffer).version)
    of_one = sum(array.nbytes for array in values.values()) // len(ids)
    step = min(MAX_REPLACED, max(1, _ARRAY_BYTES // max(of_one, 1)))

    def body_of(part: slice) -> dict[str, Any]:
        said = {
            name: present(
                {
                    "shape": array.shape[1:],
                    "data": b64encode(array[part].tobytes()).decode(),
                    "dtype": (array_dtypes or {}).get(name),
                }
            )
            for name, array in values.items()
        }
        guard = {} if revisions is None else {"if_revisions": revisions[part].tolist()}
        return {"exemplar_ids": ids[part].tolist(), "arrays": said, **guard}

    # Who asks again with the same arrays, as the answer was lost, is told that they are there.
    return _in_parts(session, buffer_path(buffer, "exemplars"), len(ids), step, body_of, safe=True)


def _values(name: str, given: ArrayLike, count: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        raise ValueError(f"array {name!r} must hold numbers, got {given!r:.100}") from None
    if array.dtype.kind not in "biuf" or not array.ndim or len(array) != count:
        raise ValueError(
            f"array {name!r}: ({count}, ...) numbers are needed, one item for each id, got {array.dtype} of shape "
            f"{array.shape}"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, "<f4")
    if np.isfinite(array).all() and not np.isfinite(values).all():
        raise ValueError(f"array {name!r} has values beyond float32's range")
    return values


def _in_parts(
    session: Session, path: str, count: int, step: int, body_of: Callable[[slice], dict[str, Any]], *, safe: bool
) -> UpdateResult:
    """One request after another, each of so many ids."""
    results: list[UpdateResult] = []
    for first in range(0, count, step):
        try:
            body = body_of(slice(first, first + step))
            results.append(session.value(UpdateResult, "PATCH", path, safe=safe, json=body))
        except (ExemplarMemoryError, ServiceError) as error:
            error.details["ids_acknowledged"] = first
            raise
    return UpdateResult(
        updated=sum(result.updated for result in results),
        missing=tuple(item for result in results for item in result.missing),
        version=results[-1].version,
        revisions={id_: number for result in results for id_, number in result.revisions.items()},
        evicted=tuple(item for result in results for item in result.evicted),
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
