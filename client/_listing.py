"""Exemplars, buffers and snapshots page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeVar

from client._address import buffer_path
from client._params import query_string, whole
from client._reading import read_records
from client._session import Session
from memory_format import MEDIA_TYPE, Record
from memory_format.api.answers import ExemplarInfo, ExemplarPage
from memory_format.api.terms import CURSOR_HEADER

T = TypeVar("T")


class Page(Protocol):
    """A part of a list."""

    @property
    def next_cursor(self) -> str | None:
        """Leads to the next page; None at the end."""


PageT = TypeVar("PageT", bound=Page)

_PAGE = 500


def infos(session: Session, buffer: str, where: Mapping[str, Any], limit: int | None) -> Iterator[ExemplarInfo]:
    """What is known of the first ``limit`` that match; a page is asked for when its first one is."""
    path = buffer_path(buffer, "exemplars")
    found = listed(session, path, ExemplarPage, lambda page: page.exemplars, where=where, size=_page_size(limit))
    return islice(found, limit)


def records(session: Session, buffer: str, where: Mapping[str, Any], limit: int | None) -> Iterator[Record]:
    """As :func:`infos`, but whole records."""
    return islice(_records(session, buffer, where, _page_size(limit)), limit)


def listed(
    session: Session,
    path: str,
    kind: type[PageT],
    items: Callable[[PageT], Iterable[T]],
    *,
    where: Mapping[str, Any] | None = None,
    size: int = _PAGE,
) -> Iterator[T]:
    """The items of all pages of a list, ``size`` at a time."""
    cursor: str | None = None
    while True:
        params = query_string({**(where or {}), "limit": size, "cursor": cursor})
        page = session.value(kind, "GET", path, params=params)
        yield from items(page)
        cursor = page.next_cursor
        if not cursor:
            return


def _records(session: Session, buffer: str, where: Mapping[str, Any], page: int) -> Iterator[Record]:
    path = buffer_path(buffer, "exemplars")
    cursor: str | None = None
    while True:
        params = query_string({**where, "limit": page, "cursor": cursor})
        response = session.request("GET", path, params=params, headers={"Accept": MEDIA_TYPE})
        yield from read_records(response)
        cursor = response.headers.get(CURSOR_HEADER)
        if not cursor:
            return


def _page_size(limit: int | None) -> int:
    return _PAGE if limit is None else max(1, min(_PAGE, whole("limit", limit, 0)))
