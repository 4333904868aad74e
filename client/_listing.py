"""Exemplars, buffers and snapshots page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from client._address import buffer_path
from client._answers import list_member, read_records
from client._params import query_string, whole
from client._session import Session
from client.models import ExemplarInfo, parse
from memory_format import MEDIA_TYPE, Record

T = TypeVar("T")

_PAGE = 500


def infos(session: Session, buffer: str, where: Mapping[str, Any], limit: int | None) -> Iterator[ExemplarInfo]:
    """What is known of the first ``limit`` that match; a page is asked for when its first one is."""
    path = buffer_path(buffer, "exemplars")
    found = listed(session, path, "exemplars", ExemplarInfo, where=where, page=_page_size(limit))
    return islice(found, limit)


def records(session: Session, buffer: str, where: Mapping[str, Any], limit: int | None) -> Iterator[Record]:
    """As :func:`infos`, but whole records."""
    return islice(_records(session, buffer, where, _page_size(limit)), limit)


def listed(
    session: Session,
    path: str,
    member: str,
    kind: type[T],
    *,
    where: Mapping[str, Any] | None = None,
    page: int | None = None,
) -> Iterator[T]:
    """What all pages of a list have under ``member``, each as a ``kind``."""
    cursor: str | None = None
    while True:
        params = query_string({**(where or {}), "limit": page or _PAGE, "cursor": cursor})
        document = session.json("GET", path, params=params)
        for item in list_member(document, member):
            yield parse(kind, item)
        cursor = document.get("next_cursor")
        if not cursor:
            return


def _records(session: Session, buffer: str, where: Mapping[str, Any], page: int) -> Iterator[Record]:
    path = buffer_path(buffer, "exemplars")
    cursor: str | None = None
    while True:
        params = query_string({**where, "limit": page, "cursor": cursor})
        response = session.request("GET", path, params=params, headers={"Accept": MEDIA_TYPE})
        yield from read_records(response)
        cursor = response.headers.get("Exemplar-Memory-Next-Cursor")
        if not cursor:
            return


def _page_size(limit: int | None) -> int:
    return _PAGE if limit is None else max(1, min(_PAGE, whole("limit", limit, 0)))
