"""Receipts of erasures, kept so that one whose answer was lost can be had again: a file each in ``receipts/``, or a row
of an index that several services reach. It names buffers, files and ids of exemplars, and holds nothing of what was
erased."""

from __future__ import annotations

import heapq
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from memory_format import FormatError, StorageError
from memory_format.api.receipts import ErasureReceipt, KeptReceipt, ReceiptList
from memory_format.api.terms import RECEIPT_PATTERN
from memory_service.store.index import erased
from memory_service.store.index.base import Index, Writing
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

RECEIPTS: Final = "receipts"
MOST_KEPT: Final = 1000
_NAME: Final = re.compile(rf"({RECEIPT_PATTERN.pattern})\.json")


@dataclass(frozen=True)
class _File:
    format: Literal[1]
    buffers: tuple[str, ...]
    receipt: ErasureReceipt


_FILE: Final = TypeAdapter(_File)


_Stored = tuple[str, bytes, Collection[str]]
"""Id, content, and places of replicas that have not confirmed it."""


class Receipts:
    """The receipts of a store, the newest :data:`MOST_KEPT` of them. Threads may share it.

    Args:
        data: the store's directory.
        index: where new ones are kept, if it keeps any (:attr:`Index.keeps_documents`).
    """

    def __init__(self, data: Path, index: Index) -> None:
        self._directory = data / RECEIPTS
        self._index = index
        self._lock = threading.Lock()

    def adopt(self) -> None:
        """Where the index keeps receipts, those that are files are kept there from here on, but for damaged ones.
        Raises ``StorageError``."""
        for id_, content, _ in self._files(None) if self._index.keeps_documents else ():
            try:
                _kept(id_, content, ())
            except StorageError as error:
                logger.error("%s: it stays a file", error.message)
                continue
            with self._index.writing(counted=False) as transaction:
                erased.insert_receipt(transaction, id_, content.decode(), most=MOST_KEPT)
            self._path(id_).unlink()

    def damaged(self) -> list[str]:
        """Ids of those that cannot be read, newest first. Raises ``StorageError``."""
        found = []
        for stored in self._stored(None):
            try:
                _kept(*stored)
            except StorageError:
                found.append(stored[0])
        return found

    def keep(self, transaction: Writing, buffers: Iterable[str], receipt: ErasureReceipt, number: int) -> None:
        """Keep a receipt: in a file, which is on disk when this returns, or as a part of a transaction.

        Args:
            buffers: names of those that records were to be erased from.
            number: by which replicas confirm it.

        Raises:
            StorageError: it cannot be written.
        """
        content = _FILE.dump_json(_File(1, tuple(sorted(buffers)), receipt))
        # Names sort by time.
        id_ = f"{int(receipt.erased_at * 1e6):017}-{secrets.token_hex(4)}"
        if self._index.keeps_documents:
            erased.insert_receipt(transaction, id_, content.decode(), number=number, most=MOST_KEPT)
            return
        path = self._path(id_)
        try:
            with self._lock:
                self._directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
                with files.replacing(path) as descriptor:
                    files.write_at(descriptor, [content], 0)
                files.sync_directory(self._directory.parent)
                for old in self._ids()[MOST_KEPT:]:
                    self._path(old).unlink(missing_ok=True)
        except OSError as error:
            raise files.storage_error(f"write {path}", error) from error

    def page(
        self,
        limit: int,
        cursor: str | None = None,
        *,
        buffer: str | None = None,
        only: Callable[[Collection[str]], bool] = lambda _: True,
    ) -> ReceiptList:
        """The newest, or those behind a cursor. Damaged ones are named to whom what tells of no buffer is for.

        Args:
            buffer: those of erasures from this one, or from what it was forked from.
            only: leave out those of whose buffers it says no.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: they cannot be read.
        """
        if cursor is not None and not RECEIPT_PATTERN.fullmatch(cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        found: list[tuple[str, KeptReceipt | None]] = []
        for id_, content, behind in self._stored(cursor):
            kept, named = None, set[str]()
            with suppress(StorageError):
                kept = _kept(id_, content, behind)
                named = {*kept.buffers, *_named(kept.receipt)}
            if only(named) and (kept is None or buffer is None or buffer in named):
                found.append((id_, kept))
                if len(found) > limit:
                    break
        page = found[:limit]
        return ReceiptList(
            tuple(kept for _, kept in page if kept is not None),
            next_cursor=page[-1][0] if len(found) > limit else None,
            damaged=tuple(id_ for id_, kept in page if kept is None),
        )

    def _stored(self, cursor: str | None) -> Iterator[_Stored]:
        """Of an index that keeps none there are those of a store that it was made of."""
        with self._index.reading() as reading:
            rows = ((id_, content.encode(), behind) for id_, content, behind in erased.receipts(reading, cursor))
            yield from heapq.merge(rows, self._files(cursor), key=lambda stored: stored[0], reverse=True)

    def _files(self, cursor: str | None) -> Iterator[_Stored]:
        for id_ in self._ids():
            if cursor is not None and id_ >= cursor:
                continue
            try:
                content = self._path(id_).read_bytes()
            except FileNotFoundError:
                # Older than those that are kept, by now.
                continue
            except OSError as error:
                raise files.storage_error(f"read {self._path(id_)}", error) from error
            yield id_, content, ()

    def _ids(self) -> list[str]:
        """Newest first."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted((found[1] for found in map(_NAME.fullmatch, names) if found), reverse=True)

    def _path(self, id_: str) -> Path:
        return self._directory / f"{id_}.json"


def _kept(id_: str, content: bytes, behind: Collection[str]) -> KeptReceipt:
    """Raises ``StorageError`` (``corrupt_record``)."""
    try:
        file = _FILE.validate_json(content)
    except ValidationError:
        raise StorageError(f"the receipt {id_} is damaged, or a newer version made it", code="corrupt_record") from None
    still = tuple(place for place in file.receipt.unconfirmed or () if place in behind)
    return KeptReceipt(id_, file.buffers, file.receipt, unconfirmed=still)


def _named(receipt: ErasureReceipt) -> Iterator[str]:
    yield from (lost.buffer for lost in receipt.buffers)
    yield from (held.buffer for held in receipt.elsewhere)
