"""Reports of runs: of no buffer, they outlive what they tell of. Backups have them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import islice
from pathlib import Path

from memory_format import BudgetError, ForbiddenError, FormatError, NotFoundError, StorageError
from memory_format.api.runs import MAX_RUN_BYTES, RunInfo, RunList, RunReport, StoredRun
from memory_format.api.terms import NAME_PATTERN, RUN_CURSOR_PATTERN
from memory_service.store.index.base import Index
from memory_service.store.report_places import (
    Damaged,
    KeptReport,
    Known,
    ReportFiles,
    ReportRows,
    Reports,
    cursor_of,
    unpacked,
)


class Runs:
    """The reports of a store. Threads may share it; where they lie in the index, so may processes.

    Args:
        data: the store's directory.
        limit_bytes: of all reports together.

    Raises:
        StorageError: what lies in the directory cannot be taken into the index.
    """

    def __init__(self, data: Path, index: Index, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._places: ReportFiles | ReportRows = ReportFiles(data)
        if index.keeps_documents:
            self._places = ReportRows(index)
            self._places.take_in(data)

    def page(
        self, limit: int, cursor: str | None = None, *, only: Callable[[Collection[str], str], bool] = lambda *_: True
    ) -> RunList:
        """The newest runs, or those behind a cursor.

        Args:
            only: leave out those of whose buffers and maker it says no. Of a damaged report nobody knows these: it is
                asked with none.

        Raises:
            FormatError: ``invalid_cursor``.
            StorageError: they cannot be read.
        """
        parts = None if cursor is None else RUN_CURSOR_PATTERN.fullmatch(cursor)
        if cursor is not None and parts is None:
            raise FormatError("the cursor is not one that this service gave", code="invalid_cursor")
        after = None if parts is None else (-int(parts[1]), parts[2])
        with self._places.reading() as reports:
            shown = (known for known in reports.newest(after) if only(known.buffers, known.made_by))
            found = list(islice(shown, limit + 1))
        page = found[:limit]
        return RunList(
            tuple(each.info for each in page if isinstance(each, Known)),
            next_cursor=cursor_of(page[-1].place) if len(found) > limit else None,
            damaged=tuple(each.run_id for each in page if isinstance(each, Damaged)),
        )

    def get(self, run_id: str) -> StoredRun:
        """One of them, whole.

        Raises:
            NotFoundError: ``unknown_run``.
            StorageError: ``corrupt_record``: it is damaged; or it cannot be read.
        """
        with self._places.reading() as reports:
            _expect(reports, run_id)
            found = _read(reports, run_id)
        return StoredRun(run_id, found.stored_at, found.report)

    def told_by(self, run_id: str) -> tuple[Collection[str], str] | None:
        """Names of the buffers that a run tells of, and whose it is; None where there is no such run. Raises
        ``StorageError``."""
        with self._places.reading() as reports:
            known = reports.find(run_id)
        return None if known is None else (known.buffers, known.made_by)

    def is_own(self, run_id: str, only_maker: str | None) -> bool:
        """Whether :meth:`put` and :meth:`delete` would let ``only_maker`` change a run that there is."""
        with self._places.reading() as reports:
            return _expect(reports, run_id).is_own(only_maker)

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
        kept = KeptReport(1, now, made_by, report)
        content = kept.packed()
        with self._places.changing() as reports:
            known = reports.find(run_id)
            if known is not None:
                _expect_own(run_id, known, only_maker)
                # One that was damaged since is replaced as well.
                with suppress(StorageError):
                    if isinstance(known, Known) and _read(reports, run_id).report == report:
                        return known.info, False
            self._expect_room(reports, len(content), 0 if known is None else known.num_bytes)
            made = Known.of(run_id, kept, len(content))
            reports.put(made, content)
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
        with self._places.changing() as reports:
            _expect_own(run_id, _expect(reports, run_id), only_maker)
            reports.remove(run_id)

    def _expect_room(self, reports: Reports, num_bytes: int, replaced: int) -> None:
        if num_bytes > MAX_RUN_BYTES:
            raise FormatError(
                f"a report has at most {MAX_RUN_BYTES} bytes, got {num_bytes}",
                code="batch_too_large",
                limit=MAX_RUN_BYTES,
            )
        free = self._limit_bytes - reports.num_bytes() + replaced
        if num_bytes > free:
            raise BudgetError(
                f"the report takes {num_bytes} bytes, and {max(0, free)} of the {self._limit_bytes} for all reports of "
                "runs are free: delete some",
                code="disk_limit_exceeded",
                requested_bytes=num_bytes,
                free_bytes=max(0, free),
                disk_limit_bytes=self._limit_bytes,
            )


def _read(reports: Reports, run_id: str) -> KeptReport:
    return unpacked(reports.content(run_id), reports.where(run_id))


def _expect(reports: Reports, run_id: str) -> Known | Damaged:
    known = reports.find(run_id)
    if known is None:
        raise NotFoundError(f"there is no run {run_id[:80]!r}", code="unknown_run")
    return known


def _expect_own(run_id: str, known: Known | Damaged, only_maker: str | None) -> None:
    if not known.is_own(only_maker):
        raise ForbiddenError(f"the report of run {run_id} came with another key: it takes that one, or the role admin")
