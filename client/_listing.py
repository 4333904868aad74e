"""Exemplars, buffers and snapshots page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeVar

from client._address import buffer_path
from client._params import present, query_string, whole
from client._reading import read_batch
from client._session import Session
from client._transport import Params
from client.errors import ProtocolError
from memory_format import MEDIA_TYPE, Batch, NotFoundError, Record
from memory_format.api.answers import ExemplarInfo, ExemplarPage
from memory_format.api.terms import CURSOR_HEADER
from memory_format.wire import split_batch

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
    path = buffer_path(buffer, "exemplars")

    def page(params: Params) -> tuple[list[Record], str | None]:
        response = session.request("GET", path, params=params, headers={"Accept": MEDIA_TYPE})
        return split_batch(read_batch(response)), response.headers.get(CURSOR_HEADER)

    return islice(_pages(page, where, _page_size(limit)), limit)


def fetched(session: Session, buffer: str, exemplar_ids: list[int], snapshot: str | None) -> Batch:
    """Exemplars by their ids, each once, in this order.

    Raises:
        NotFoundError: ``unknown_exemplar``: some are gone.
    """
    wanted = present({"exemplar_ids": exemplar_ids, "snapshot": snapshot})
    path = buffer_path(buffer, "records")
    found = read_batch(session.request("POST", path, json=wanted, headers={"Accept": MEDIA_TYPE}))
    came = found.headers["exemplar_id"].tolist()
    gone = sorted({*exemplar_ids} - {*came})
    if gone:
        raise NotFoundError(
            f"buffer {buffer!r} has no exemplar {gone[0]} any more, {len(gone)} of {len(exemplar_ids)} are gone; "
            "those of a snapshot stay",
            code="unknown_exemplar",
            exemplar_ids=gone,
        )
    if came != exemplar_ids:
        raise ProtocolError(f"exemplars {exemplar_ids!r:.100} were asked for, {came!r:.100} came")
    return found


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

    def page(params: Params) -> tuple[Iterable[T], str | None]:
        found = session.value(kind, "GET", path, params=params)
        return items(found), found.next_cursor

    return _pages(page, where or {}, size)


def _pages(
    page: Callable[[Params], tuple[Iterable[T], str | None]], where: Mapping[str, Any], size: int
) -> Iterator[T]:
    cursor: str | None = None
    while True:
        found, cursor = page(query_string({**where, "limit": size, "cursor": cursor}))
        yield from found
        if not cursor:
            return


def _page_size(limit: int | None) -> int:
    return _PAGE if limit is None else max(1, min(_PAGE, whole("limit", limit, 0)))
