"""Reports of runs, a file each in ``runs/``: beside the index, as they are of no buffer and outlive what they tell of.

A file is replaced as a whole, and is durable before anybody is answered. Backups have them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from memory_format import BudgetError, ForbiddenError, FormatError, NotFoundError, StorageError
from memory_format.api.fields import Timestamp
from memory_format.api.runs import MAX_RUN_BYTES, MethodResult, RunInfo, RunReport, StoredRun
from memory_format.api.terms import NAME_PATTERN, RUN_CURSOR_PATTERN
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

RUNS: Final = "runs"
SUFFIX: Final = ".json"


@dataclass(frozen=True)
class _File:
    format: Literal[1]
    stored_at: Timestamp
    made_by: str
    """Whose it is: see :attr:`~memory_service.store.keys.Key.maker`; empty without a key."""
    report: RunReport


_FILE: Final = TypeAdapter(_File)


@dataclass(frozen=True)
class _Known:
    """What of a run is held in memory."""

    info: RunInfo
    made_by: str
    buffers: frozenset[str]
    num_bytes: int

    @property
    def place(self) -> tuple[int, str]:
        """In a list with the newest first."""
        return -int(self.info.stored_at * 1e6), self.info.run_id

    @property
    def cursor(self) -> str:
        return f"{-self.place[0]}-{self.info.run_id}"

    def is_own(self, only_maker: str | None) -> bool:
        """Whether it is that one's, where only one may change it."""
        return only_maker in (None, self.made_by)


class Runs:
    """The reports of a store. Threads may share it.

    Args:
        data: the store's directory.
        limit_bytes: of all files together.
    """

    def __init__(self, data: Path, limit_bytes: int) -> None:
        self._directory = data / RUNS
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._loaded: dict[str, _Known] | None = None

    def page(
        self, limit: int, cursor: str | None = None, *, only: Callable[[Collection[str], str], bool] = lambda *_: True
    ) -> tuple[list[RunInfo], str | None]:
        """The newest runs, or those behind a cursor, and the cursor of the next page, None at the end.

        Args:
            only: leave out those of whose buffers and maker it says no.

        Raises:
            FormatError: ``invalid_cursor``.
        """
        parts = None if cursor is None else RUN_CURSOR_PATTERN.fullmatch(cursor)
        if cursor is not None and parts is None:
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        with self._lock:
            shown = [known for known in self._known().values() if only(known.buffers, known.made_by)]
        if parts is not None:
            shown = [known for known in shown if known.place > (-int(parts[1]), parts[2])]
        shown.sort(key=lambda known: known.place)
        page = shown[:limit]
        return [known.info for known in page], page[-1].cursor if len(shown) > limit else None

    def get(self, run_id: str) -> StoredRun:
        """One of them, whole.

        Raises:
            NotFoundError: ``unknown_run``.
            StorageError: ``corrupt_record``: its file is damaged; or it cannot be read.
        """
        with self._lock:
            self._expect(run_id)
            found, _ = self._read(run_id)
        return StoredRun(run_id, found.stored_at, found.report)

    def told_by(self, run_id: str) -> tuple[Collection[str], str] | None:
        """Names of the buffers that a run tells of, and whose it is; None where there is no such run."""
        with self._lock:
            known = self._known().get(run_id)
        return None if known is None else (known.buffers, known.made_by)

    def is_own(self, run_id: str, only_maker: str | None) -> bool:
        """Whether :meth:`put` and :meth:`delete` would let ``only_maker`` change a run that there is."""
        with self._lock:
            return self._expect(run_id).is_own(only_maker)

    def put(
        self, run_id: str, report: RunReport, now: float, *, made_by: str = "", only_maker: str | None = None
    ) -> tuple[RunInfo, bool]:
        """Keep a run's report, in the place of an earlier one; the same again changes nothing. Returns it in short, and
        whether the run is new.

        Args:
            made_by: whose it is.
            only_maker: whose an earlier one must be; None = anybody's.

        Raises:
            FormatError: ``invalid_request``: no run can have this id; ``batch_too_large``.
            ForbiddenError: it is somebody else's than ``only_maker``'s.
            BudgetError: ``disk_limit_exceeded``: all reports together would take more than they may.
            StorageError: it cannot be written; what was there before is still there.
        """
        if not NAME_PATTERN.fullmatch(run_id):
            raise FormatError(f"the id of a run is {NAME_PATTERN.pattern}, got {run_id[:80]!r}", code="invalid_request")
        with self._lock:
            known = self._known().get(run_id)
            if known is not None:
                self._expect_own(known, only_maker)
                # One that was damaged since is replaced as well.
                with suppress(StorageError):
                    if self._read(run_id)[0].report == report:
                        return known.info, False
            content = _FILE.dump_json(_File(1, now, made_by, report))
            self._expect_room(len(content), 0 if known is None else known.num_bytes)
            try:
                self._directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
                with files.replacing(self._path(run_id)) as descriptor:
                    files.write_at(descriptor, [content], 0)
                files.sync_directory(self._directory.parent)
            except OSError as error:
                raise files.storage_error(f"write {self._path(run_id)}", error) from error
            made = self._known()[run_id] = _known(run_id, _File(1, now, made_by, report), len(content))
            return made.info, known is None

    def delete(self, run_id: str, *, only_maker: str | None = None) -> None:
        """Delete a run's report, and nothing of its buffers.

        Args:
            only_maker: as for :meth:`put`.

        Raises:
            NotFoundError: ``unknown_run``.
            ForbiddenError: it is somebody else's than ``only_maker``'s.
            StorageError: it cannot be removed.
        """
        with self._lock:
            self._expect_own(self._expect(run_id), only_maker)
            try:
                self._path(run_id).unlink(missing_ok=True)
                files.sync_directory(self._directory)
            except OSError as error:
                raise files.storage_error(f"remove {self._path(run_id)}", error) from error
            del self._known()[run_id]

    def _expect(self, run_id: str) -> _Known:
        known = self._known().get(run_id)
        if known is None:
            raise NotFoundError(f"there is no run {run_id[:80]!r}", code="unknown_run")
        return known

    def _expect_own(self, known: _Known, only_maker: str | None) -> None:
        if not known.is_own(only_maker):
            raise ForbiddenError(
                f"the report of run {known.info.run_id} came with another key: it takes that one, or the role admin"
            )

    def _expect_room(self, num_bytes: int, replaced: int) -> None:
        if num_bytes > MAX_RUN_BYTES:
            raise FormatError(
                f"a report has at most {MAX_RUN_BYTES} bytes, got {num_bytes}",
                code="batch_too_large",
                limit=MAX_RUN_BYTES,
            )
        free = self._limit_bytes - sum(known.num_bytes for known in self._known().values()) + replaced
        if num_bytes > free:
            raise BudgetError(
                f"the report takes {num_bytes} bytes, and {max(0, free)} of the {self._limit_bytes} for all reports of "
                "runs are free: delete some",
                code="disk_limit_exceeded",
                requested_bytes=num_bytes,
                free_bytes=max(0, free),
                disk_limit_bytes=self._limit_bytes,
            )

    def _path(self, run_id: str) -> Path:
        return self._directory / f"{run_id}{SUFFIX}"

    def _known(self) -> dict[str, _Known]:
        """All of them, read when the first is asked for. For the holder of the lock."""
        if self._loaded is None:
            self._loaded = {}
            for path in sorted(self._directory.glob(f"[a-z0-9]*{SUFFIX}")):
                run_id = path.name.removesuffix(SUFFIX)
                try:
                    self._loaded[run_id] = _known(run_id, *self._read(run_id))
                except StorageError as error:
                    logger.error("%s: it is not listed", error.message)
        return self._loaded

    def _read(self, run_id: str) -> tuple[_File, int]:
        path = self._path(run_id)
        try:
            content = path.read_bytes()
            return _FILE.validate_json(content), len(content)
        except OSError as error:
            raise files.storage_error(f"read {path}", error) from error
        except ValidationError:
            raise StorageError(f"{path} is damaged, or a newer version made it", code="corrupt_record") from None


def _known(run_id: str, file: _File, num_bytes: int) -> _Known:
    report = file.report
    methods = tuple(
        MethodResult(each.method, each.label, each.last.mean, each.exemplars.mean, each.bytes_used.mean)
        for each in report.methods
    )
    info = RunInfo(run_id, file.stored_at, report.name, report.title, report.num_seeds, report.budget_bytes, methods)
    return _Known(info, file.made_by, report.buffers, num_bytes)
