"""Where reports of runs lie: files in ``runs/`` beside an index that is a file, rows of one that is a database.

A file is replaced as a whole, and is durable before anybody is answered. In a database all that have it open see a
report at once, and keep to one bound.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import TypeAdapter, ValidationError

from memory_format import StorageError
from memory_format.api.fields import Timestamp
from memory_format.api.runs import MethodResult, RunInfo, RunReport
from memory_service.store.index import quotas, reports
from memory_service.store.index.base import Index, Reading, Writing
from memory_service.store.index.reports import StoredReport
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

RUNS: Final = "runs"
SUFFIX: Final = ".json"


@dataclass(frozen=True)
class KeptReport:
    """A report as it is kept, and with what."""

    format: Literal[1]
    stored_at: Timestamp
    made_by: str
    """Whose it is: see :attr:`~memory_service.store.keys.Key.maker`; empty without a key."""
    report: RunReport

    def packed(self) -> bytes:
        """As it is kept."""
        return _KEPT.dump_json(self)


_KEPT: Final = TypeAdapter(KeptReport)


def unpacked(content: bytes, where: str) -> KeptReport:
    """The same again. Raises ``StorageError`` (``corrupt_record``): that at ``where`` is none."""
    try:
        return _KEPT.validate_json(content)
    except ValidationError:
        raise StorageError(f"{where} is damaged, or a newer version made it", code="corrupt_record") from None


@dataclass(frozen=True)
class Known:
    """What a list of runs says of one, and what it takes to say it."""

    info: RunInfo
    made_by: str
    buffers: frozenset[str]
    num_bytes: int

    @classmethod
    def of(cls, run_id: str, kept: KeptReport, num_bytes: int) -> Known:
        report = kept.report
        methods = tuple(
            MethodResult(each.method, each.label, each.last.mean, each.exemplars.mean, each.bytes_used.mean)
            for each in report.methods
        )
        info = RunInfo(
            run_id, kept.stored_at, report.name, report.title, report.num_seeds, report.budget_bytes, methods
        )
        return cls(info, kept.made_by, report.buffers, num_bytes)

    @property
    def place(self) -> tuple[int, str]:
        """In a list with the newest first."""
        return -int(self.info.stored_at * 1e6), self.info.run_id

    def is_own(self, only_maker: str | None) -> bool:
        """Whether it is that one's, where only one may change it."""
        return only_maker in (None, self.made_by)


_KNOWN: Final = TypeAdapter(Known)


@dataclass(frozen=True)
class Damaged:
    """A report that cannot be read: nobody knows whose it is, or of which buffers it tells."""

    run_id: str
    place: tuple[int, str]
    made_by: ClassVar[str] = ""
    buffers: ClassVar[frozenset[str]] = frozenset()
    num_bytes: ClassVar[int] = 0

    def is_own(self, only_maker: str | None) -> bool:
        """As :meth:`Known.is_own`."""
        return only_maker is None


def cursor_of(place: tuple[int, str]) -> str:
    """Of :attr:`Known.place`: leads to what is behind it."""
    return f"{-place[0]}-{place[1]}"


class Reports(ABC):
    """The reports of a store, while they are looked at or changed. Every method raises ``StorageError``."""

    @abstractmethod
    def find(self, run_id: str) -> Known | Damaged | None:
        """What is known of a run's report; None where there is none."""

    @abstractmethod
    def content(self, run_id: str) -> bytes:
        """A report that there is."""

    @abstractmethod
    def where(self, run_id: str) -> str:
        """In words."""

    @abstractmethod
    def newest(self, after: tuple[int, str] | None) -> Iterator[Known | Damaged]:
        """All of them, the newest first, or those behind that :attr:`Known.place`."""

    @abstractmethod
    def num_bytes(self) -> int:
        """What all of them take."""

    @abstractmethod
    def put(self, known: Known, content: bytes) -> None:
        """Keep one, in the place of another of the same run."""

    @abstractmethod
    def remove(self, run_id: str) -> None:
        """Remove one."""


class ReportPlaces(ABC):
    """Where they lie. Threads may share it."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Reports]:
        """To look at them."""

    @abstractmethod
    def changing(self) -> AbstractContextManager[Reports]:
        """To change them: durable when this returns, and nobody else changes them meanwhile."""


class ReportFiles(ReportPlaces, Reports):
    """Files of a directory, which this process has alone.

    Args:
        data: the store's directory.
    """

    def __init__(self, data: Path) -> None:
        self._directory = data / RUNS
        self._lock = threading.Lock()
        self._loaded: dict[str, Known | Damaged] | None = None

    @contextmanager
    def reading(self) -> Iterator[Reports]:
        with self._lock:
            yield self

    def changing(self) -> AbstractContextManager[Reports]:
        return self.reading()

    def find(self, run_id: str) -> Known | Damaged | None:
        return self._known().get(run_id)

    def content(self, run_id: str) -> bytes:
        path = self._path(run_id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise files.storage_error(f"read {path}", error) from error

    def where(self, run_id: str) -> str:
        return str(self._path(run_id))

    def newest(self, after: tuple[int, str] | None) -> Iterator[Known | Damaged]:
        shown = sorted(self._known().values(), key=lambda each: each.place)
        return (each for each in shown if after is None or each.place > after)

    def num_bytes(self) -> int:
        return sum(known.num_bytes for known in self._known().values())

    def put(self, known: Known, content: bytes) -> None:
        path = self._path(known.info.run_id)
        try:
            self._directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
            with files.replacing(path) as descriptor:
                files.write_at(descriptor, [content], 0)
            files.sync_directory(self._directory.parent)
        except OSError as error:
            raise files.storage_error(f"write {path}", error) from error
        self._known()[known.info.run_id] = known

    def remove(self, run_id: str) -> None:
        try:
            self._path(run_id).unlink(missing_ok=True)
            files.sync_directory(self._directory)
        except OSError as error:
            raise files.storage_error(f"remove {self._path(run_id)}", error) from error
        del self._known()[run_id]

    def _path(self, run_id: str) -> Path:
        return self._directory / f"{run_id}{SUFFIX}"

    def _known(self) -> dict[str, Known | Damaged]:
        """All of them, read when the first is asked for."""
        if self._loaded is None:
            self._loaded = {}
            for path in sorted(self._directory.glob(f"[a-z0-9]*{SUFFIX}")):
                run_id = path.name.removesuffix(SUFFIX)
                try:
                    content = self.content(run_id)
                    self._loaded[run_id] = Known.of(run_id, unpacked(content, str(path)), len(content))
                except StorageError as error:
                    logger.error("%s: it is listed as damaged", error.message)
                    # When it was stored is in it: it comes last.
                    self._loaded[run_id] = Damaged(run_id, (0, run_id))
        return self._loaded


class ReportRows(ReportPlaces):
    """Rows of an index. Nothing of them is held in memory: others may change them."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @contextmanager
    def reading(self) -> Iterator[Reports]:
        with self._index.reading() as reading:
            yield _Rows(reading)

    @contextmanager
    def changing(self) -> Iterator[Reports]:
        with self._index.writing(counted=False) as writing:
            quotas.hold_store(writing)
            yield _Rows(writing)

    def take_in(self, data: Path) -> None:
        """Reports that lie in a store's directory from an earlier version: each where there is none of its run yet, and
        its file goes. Raises ``StorageError``."""
        found = ReportFiles(data)
        with found.reading() as old:
            for known in list(old.newest(None)):
                if isinstance(known, Damaged):
                    continue
                run_id = known.info.run_id
                with self.changing() as rows:
                    if rows.find(run_id) is None:
                        rows.put(known, old.content(run_id))
                old.remove(run_id)


class _Rows(Reports):
    """As one transaction sees them; it changes them where it writes."""

    def __init__(self, transaction: Reading) -> None:
        self._transaction = transaction

    def find(self, run_id: str) -> Known | Damaged | None:
        summary = reports.summary(self._transaction, run_id)
        return None if summary is None else self._of(summary, (0, run_id))

    def content(self, run_id: str) -> bytes:
        found = reports.content(self._transaction, run_id)
        if found is None:
            raise StorageError(f"the report of run {run_id} was deleted just now")
        return found

    def where(self, run_id: str) -> str:
        return f"the report of run {run_id}"

    def newest(self, after: tuple[int, str] | None) -> Iterator[Known | Damaged]:
        before = None if after is None else (-after[0], after[1])
        while found := reports.newest(self._transaction, before):
            for place, summary in found:
                yield self._of(summary, (-place[0], place[1]))
            before = place

    def _of(self, summary: str, place: tuple[int, str]) -> Known | Damaged:
        with suppress(ValidationError):
            return _KNOWN.validate_json(summary)
        # It says nothing that the report does not.
        run_id = place[1]
        content = self.content(run_id)
        try:
            return Known.of(run_id, unpacked(content, self.where(run_id)), len(content))
        except StorageError:
            return Damaged(run_id, place)

    def num_bytes(self) -> int:
        return reports.num_bytes(self._transaction)

    def put(self, known: Known, content: bytes) -> None:
        assert isinstance(self._transaction, Writing)
        reports.put(self._transaction, row_of(known, content))

    def remove(self, run_id: str) -> None:
        assert isinstance(self._transaction, Writing)
        reports.remove(self._transaction, run_id)


def row_of(known: Known, content: bytes) -> StoredReport:
    """A report as the index keeps it."""
    return StoredReport(known.info.run_id, -known.place[0], _KNOWN.dump_json(known).decode(), content)
