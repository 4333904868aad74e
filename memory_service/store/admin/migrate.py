"""A store moves: into a database and an object store, out of them, or to another machine's directory.

The new one is a copy to the byte: same ids, versions and segments under the same names, so that every answer is the
same. Its index comes last, all at once, and until then nobody takes what is there for a store. What was cut short goes
on where it was, by its :class:`Journal`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from memory_format import StorageError
from memory_service.store.admin.on_disk import Progress, Report, StoreOnDisk
from memory_service.store.admin.verify import examine
from memory_service.store.directory import Places, take_lock
from memory_service.store.index import opening
from memory_service.store.index.copying import Pieces, as_one_file, put_in_reports, settle_copy, take_out_reports
from memory_service.store.index.filling import FileToFill, IndexToFill
from memory_service.store.index.generation import Generation, Mark, Marker
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.keys import KEYS
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.report_places import RUNS, SUFFIX, Known, row_of, unpacked
from memory_service.store.segments import files
from memory_service.store.segments.appending import OpenSegment
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.bucket import Bucket
from memory_service.store.segments.filling import BucketToFill, DirectoryToFill, SegmentsToFill
from memory_service.store.segments.layout import BODY_AT
from memory_service.store.segments.outside import name_of
from memory_service.store.transfer.backup import DOCUMENTS, documents_in
from memory_service.store.transfer.journal import Journal
from memory_service.store.transfer.outside import Outside, expect_apart

Stage = Callable[[str, str], AbstractContextManager[Progress]]
"""Given a word for what is done and the unit that it is counted in: whom to tell of it, for as long as it takes."""

_MOST_TURNS: Final = 100
_AT_A_TIME: Final = 4
"""Segments that are put at once; each is in memory meanwhile."""


@dataclass(frozen=True)
class Migrated:
    """What came of it."""

    complete: bool
    """Whether the new store can be served. Otherwise a service may still change the old one."""
    changes: int
    """How many changes the old one had seen."""
    segments: int
    num_bytes: int
    """Of segments."""
    already: bool = False
    """Whether all was there before."""


def no_stage(_what: str, _unit: str) -> AbstractContextManager[Progress]:
    """Nobody is told."""
    return nullcontext(lambda _done, _total, _name: None)


def migrate(
    data: Path,
    places: Places,
    to_data: Path,
    to_places: Places,
    *,
    while_served: bool = False,
    stage: Stage = no_stage,
) -> Migrated:
    """Move a store to places where there is nothing yet. The old one stays as it is.

    Cut short, it is run again, and goes on.

    Args:
        data, places: where it is.
        to_data, to_places: where it goes.
        while_served: take what there is, although a service may change more. Otherwise all of it is put, and the new
            store is left unfinished as long as the old one is served.

    Raises:
        FormatError: ``invalid_request``: it is to go where it is, or below.
        StorageError: there is no store, or it is not sound; something else is where it goes to; or a place cannot be
            used.
    """
    expect_apart("a store is moved", data, places, to_data, to_places)
    with ExitStack() as stack:
        source = stack.enter_context(Outside(data, places))
        served = stack.enter_context(source.held_if_free())
        source.look().expect_usable()
        mark = source.index.mark()
        if mark is None:
            raise StorageError(f"an earlier version made the store in {data}: start the service on it once")
        target = stack.enter_context(_open_target(data, to_data, to_places, mark.store_id))
        if target.filled:
            target.journal.remove()
            return Migrated(True, mark.changes, 0, 0, already=True)
        mark, rows = _put_all(source, target, stage)
        figures = (mark.changes, len(rows), sum(row.file_bytes for row in rows))
        if served and not while_served:
            return Migrated(False, *figures)
        _complete(source, target, mark, rows, stage)
        return Migrated(True, *figures)


@dataclass(frozen=True)
class _Target:
    """Where a store goes, held for this process."""

    data: Path
    index: IndexToFill
    segments: SegmentsToFill
    bucket: Bucket | None
    journal: Journal
    filled: bool
    """Whether all of it is there already."""


@contextmanager
def _open_target(source: Path, data: Path, places: Places, store_id: str) -> Iterator[_Target]:
    """Take places for a store. Raises ``StorageError``: something else is there, or a process holds it."""
    index: IndexToFill = FileToFill(data)
    if places.index is not None:
        # Who has the index in a file needs no driver.
        from memory_service.store.index.database_filling import DatabaseToFill

        index = DatabaseToFill(places.index)
    with closing(index), ExitStack() as stack:
        bucket = None if places.segments is None else Bucket(places.segments)
        words = [str(data.resolve()), index.place, "" if bucket is None else bucket.place]
        what = {"store": store_id, "from": str(source.resolve()), "to": ", ".join(filter(None, words))}
        journal = Journal(data / opening.MIGRATION, what)
        if not journal.resumed:
            _expect_empty(data, bucket)
        try:
            files.make_directory(data)
        except OSError as error:
            raise files.storage_error(f"make {data}", error) from error
        lock = take_lock(data / "lock")
        stack.callback(os.close, lock)
        stack.enter_context(index.held())
        filled = index.claim(store_id, resumed=journal.resumed)
        # From here on the directory is none of a store.
        journal.begin()
        if not filled and bucket is not None:
            _claim_bucket(bucket, store_id)
        segments = DirectoryToFill(data / "segments") if bucket is None else BucketToFill(bucket)
        yield _Target(data, index, segments, bucket, journal, filled)


def _expect_empty(data: Path, bucket: Bucket | None) -> None:
    if data.is_dir() and (others := sorted({path.name for path in data.iterdir()} - {"lock", opening.MIGRATION})):
        raise StorageError(f"{data} is not empty, {others[0]} is in it: a store is moved to where there is nothing")
    if bucket is not None and (others := list(bucket.listed("", most=1))):
        raise StorageError(
            f"{bucket.place} is not empty, {others[0]} is in it: a store is moved to where there is nothing"
        )


def _claim_bucket(bucket: Bucket, store_id: str) -> None:
    bucket.probe()
    Marker(bucket, store_id).claim()


# Segments


def _put_all(source: Outside, target: _Target, stage: Stage) -> tuple[Mark, list[SegmentState]]:
    """Bring over all segments of one state, and the copy of the index that names them; returns which."""
    journal = target.journal
    for _ in range(_MOST_TURNS):
        journal.forget_copy()
        source.index.copy(journal.copy, checked=True)
        mark = opening.mark_of_copy(journal.copy)
        rows = opening.segments_of(journal.copy)
        try:
            with stage("moving", "segments") as progress:
                _put(source, target, rows, progress)
            if target.segments.outside.keeps_open:
                settle_copy(journal.copy)
            elif source.segments.keeps_open:
                settle_copy(journal.copy, _bodies(source, journal.copy, _open_segments(journal.copy, rows)))
            else:
                settle_copy(journal.copy, keep_bodies=True)
            return mark, rows
        except SegmentGoneError:
            # There is a newer state.
            continue
    raise StorageError(f"the store in {source.data} changes faster than it can be copied; try it while less is pushed")


def _put(source: Outside, target: _Target, rows: Sequence[SegmentState], progress: Progress) -> None:
    """Put what is not there yet. Raises ``SegmentGoneError``: one of them is gone."""
    journal = target.journal
    put = [row for row in rows if row.sealed or target.segments.outside.keeps_open]
    wanted = [row for row in put if not row.sealed or journal.done.get(name_of(row)) != row.file_bytes]
    journal.about_to_put(map(name_of, wanted))
    number = len(rows) - len(wanted)
    progress(number, len(rows), "")
    pool = futures.ThreadPoolExecutor(_AT_A_TIME, "migrate")
    try:
        tries = {pool.submit(_put_one, source, target, row): row for row in wanted}
        for done in futures.as_completed(tries):
            row = tries[done]
            done.result()
            journal.has_put(name_of(row), row.file_bytes)
            number += 1
            progress(number, len(rows), row.stem)
    finally:
        pool.shutdown(cancel_futures=True)


def _put_one(source: Outside, target: _Target, row: SegmentState) -> None:
    target.segments.put(name_of(row), _content(source, target.journal.copy, row))


def _content(source: Outside, copy: Path, row: SegmentState) -> bytes:
    """What the index counts of a segment. Raises ``SegmentGoneError``: it does not exist any more."""
    try:
        with source.segments.open(row, partial(opening.bodies_of, copy)) as file:
            content = file.read()
    except SegmentGoneError as error:
        if not source.index.names_segment(row.stem):
            raise
        words = f"segment {row.stem} is missing: `memory-service verify` says more"
        raise StorageError(words, segment=row.stem) from error
    except OSError as error:
        raise files.storage_error(f"read segment {row.stem}", error) from error
    if len(content) < row.file_bytes or (row.sealed and len(content) > row.file_bytes):
        raise StorageError(
            f"segment {row.stem} has {len(content)} bytes, the index says {row.file_bytes}: `memory-service verify` "
            "says more",
            segment=row.stem,
        )
    # What sealing writes at the beginning is not in this index yet, nor what is written behind its end.
    return content if row.sealed else bytes(BODY_AT) + content[BODY_AT : row.file_bytes]


def _open_segments(copy: Path, rows: Sequence[SegmentState]) -> list[tuple[SegmentState, OpenSegment]]:
    with closing(SqliteIndex(copy, migrate=False)) as index, index.reading() as reading:
        return [(row, reading.open_segment(row)) for row in rows if not row.sealed]


def _bodies(
    source: Outside, copy: Path, segments: Sequence[tuple[SegmentState, OpenSegment]]
) -> Iterator[tuple[int, Pieces]]:
    """Bodies of open segments that are files, for an index that keeps them. Raises as :func:`_content`."""
    for row, segment in segments:
        content = _content(source, copy, row)
        starts = [BODY_AT + int(chunk["offset"][0]) for chunk in segment.chunks]
        firsts = np.cumsum([0, *map(len, segment.chunks)]).tolist()
        pieces = [content[start:end] for start, end in zip(starts, [*starts[1:], row.file_bytes], strict=True)]
        yield row.id, zip(firsts, pieces, strict=False)


# The rest


def _complete(source: Outside, target: _Target, mark: Mark, rows: Sequence[SegmentState], stage: Stage) -> None:
    """Make a store of what was put."""
    journal = target.journal
    put = {name_of(row) for row in rows if row.sealed or target.segments.outside.keeps_open}
    target.segments.remove(sorted(journal.about - put))
    _check(target, stage)
    for name in DOCUMENTS:
        contents = dict(documents_in(source.data / name))
        if name == RUNS:
            contents = _with_reports(contents, target)
        _replace_documents(target.data / name, contents)
    if (content := _read(source.data / KEYS)) is not None:
        _replace(target.data / KEYS, content)
    if target.index.place:
        _replace(target.data / opening.ELSEWHERE, f"{target.index.place}\n".encode())
    if target.bucket is not None:
        _replace(target.data / opening.SEGMENTS_ELSEWHERE, f"{target.bucket.place}\n".encode())
        Marker(target.bucket, mark.store_id).note(mark.changes)
    Generation(target.data / opening.GENERATION, mark).close()
    target.index.fill(journal.copy)
    journal.remove()


def _check(target: _Target, stage: Stage) -> None:
    """Read all that was put, and compare it with the checksums of records and columns, and with the index."""
    report = Report()
    index = SqliteIndex(target.journal.copy, migrate=False)
    with (
        closing(StoreOnDisk(target.data, index, target.segments.outside)) as store,
        stage("checking", "segments") as at,
    ):
        examine(store, at, report)
    as_one_file(target.journal.copy)
    if not report.sound:
        first = report.problems[0]
        suffixes = (files.SEALED, files.OPEN)
        target.journal.forget(problem.where + suffix for problem in report.problems for suffix in suffixes)
        raise StorageError(
            f"the new store in {target.data} is not sound, and not made: {len(report.problems)} problems, first "
            f"{first.kind} in {first.where}: {first.words}. Does `memory-service verify` find it in the old one, too? "
            "Otherwise run this again"
        )


def _with_reports(contents: dict[str, bytes], target: _Target) -> dict[str, bytes]:
    """Reports of runs lie in an index that is a database, else beside it: wherever they were. Given those that were
    files; returns those that are to be."""
    copy = target.journal.copy
    contents |= {f"{run_id}{SUFFIX}": content for run_id, content in take_out_reports(copy).items()}
    rows = []
    for name, content in list(contents.items()) if target.index.place else ():
        # What is none stays a file, as it is.
        with suppress(StorageError):
            kept = unpacked(content, name)
            rows.append(row_of(Known.of(name.removesuffix(SUFFIX), kept, len(content)), content))
            del contents[name]
    put_in_reports(copy, rows)
    return contents


def _replace_documents(target: Path, contents: Mapping[str, bytes]) -> None:
    if contents:
        target.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    # Of an earlier try.
    for path in target.glob(f"[a-z0-9]*{SUFFIX}"):
        if path.name not in contents:
            files.unlink(path)
    for name, content in contents.items():
        _replace(target / name, content)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    with files.replacing(path) as descriptor:
        files.write_at(descriptor, [content], 0)
