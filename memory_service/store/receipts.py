"""Receipts of erasures, kept so that one whose answer was lost can be had again: a file each in ``receipts/``. It names
buffers, files and ids of exemplars, and holds nothing of what was erased."""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from memory_format import FormatError, StorageError
from memory_format.api.receipts import ErasureReceipt, KeptReceipt
from memory_format.api.terms import RECEIPT_PATTERN
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


class Receipts:
    """The receipts of a store, the newest :data:`MOST_KEPT` of them. Threads may share it.

    Args:
        data: the store's directory.
    """

    def __init__(self, data: Path) -> None:
        self._directory = data / RECEIPTS
        self._lock = threading.Lock()

    def keep(self, buffers: Iterable[str], receipt: ErasureReceipt) -> None:
        """Keep a receipt: it is on disk when this returns.

        Args:
            buffers: names of those that records were to be erased from.

        Raises:
            StorageError: it cannot be written.
        """
        content = _FILE.dump_json(_File(1, tuple(sorted(buffers)), receipt))
        # Names sort by time.
        path = self._directory / f"{int(receipt.erased_at * 1e6):017}-{secrets.token_hex(4)}.json"
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
    ) -> tuple[list[KeptReceipt], str | None]:
        """The newest, or those behind a cursor, and the cursor of the next page, None at the end.

        Args:
            buffer: those of erasures from this one, or from what it was forked from.
            only: leave out those of whose buffers it says no.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: they cannot be read.
        """
        if cursor is not None and not RECEIPT_PATTERN.fullmatch(cursor):
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        found: list[KeptReceipt] = []
        for kept in self._all(cursor):
            named = {*kept.buffers, *_named(kept.receipt)}
            if (buffer is None or buffer in named) and only(named):
                if len(found) == limit:
                    return found, found[-1].receipt_id
                found.append(kept)
        return found, None

    def _all(self, cursor: str | None) -> Iterator[KeptReceipt]:
        for id_ in self._ids():
            if cursor is not None and id_ >= cursor:
                continue
            try:
                file = _FILE.validate_json(self._path(id_).read_bytes())
            except FileNotFoundError:
                # Older than those that are kept, by now.
                continue
            except OSError as error:
                raise files.storage_error(f"read {self._path(id_)}", error) from error
            except ValidationError:
                raise StorageError(
                    f"{self._path(id_)} is damaged, or a newer version made it", code="corrupt_record"
                ) from None
            yield KeptReceipt(id_, file.buffers, file.receipt)

    def _ids(self) -> list[str]:
        """Newest first."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted((found[1] for found in map(_NAME.fullmatch, names) if found), reverse=True)

    def _path(self, id_: str) -> Path:
        return self._directory / f"{id_}.json"


def _named(receipt: ErasureReceipt) -> Iterator[str]:
    yield from (lost.buffer for lost in receipt.buffers)
    yield from (held.buffer for held in receipt.elsewhere)
