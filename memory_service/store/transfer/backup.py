"""A copy of a store as of one moment, also while a service serves it: its index, and the segment files that it names.

Nothing is asked of the service. SQLite and PostgreSQL give the index as it is after some change, whole. Sealed segments
never change, and of an open one the bytes that the index counts do not: whenever they are copied, they are right. Only
those that have been removed since are missed; then a newer index is taken, and what it names and is not there yet.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from memory_format import FormatError, StorageError
from memory_service.store.directory import Places, open_local
from memory_service.store.index.copying import take_out_reports
from memory_service.store.index.generation import Generation
from memory_service.store.index.opening import GENERATION, INDEX, bodies_of, forget_bodies, mark_of, segments_of
from memory_service.store.index.outside import IndexInDatabase
from memory_service.store.names import NAMES
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.receipts import RECEIPTS
from memory_service.store.report_places import RUNS, SUFFIX
from memory_service.store.segments import files
from memory_service.store.segments.base import SegmentGoneError
from memory_service.store.segments.files import storage_error
from memory_service.store.segments.layout import BODY_AT
from memory_service.store.segments.outside import FilesOutside, name_of
from memory_service.store.transfer.outside import Outside, expect_apart

SEGMENTS: Final = "segments"
PIECE_BYTES: Final = 1024 * 1024

_MOST_TURNS = 100
DOCUMENTS: Final = (RUNS, RECEIPTS, NAMES)
"""Directories of files that no index speaks of; the names of those end in :data:`SUFFIX`. Reports of runs are files
where the index is one."""


def backup(
    data: Path,
    target: Path,
    places: Places = open_local,
    *,
    damaged: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[int, int]:
    """Copy a store to a directory that does not exist; it is there under its name only when it is whole and on disk.
    Returns as :func:`copy_store`.

    Args:
        data: its directory.
        places: where it has what does not lie there; the copy has all of it in its directory.
        damaged: copy what there is of segments that are missing or cut short, too, for
            :func:`~memory_service.store.admin.repair.repair`.

    Raises:
        FormatError: ``invalid_request``: the directory exists, or something of a backup that did not end; or it is
            within the store.
        StorageError: there is no store, its index or a segment cannot be read, or the disk is full.
    """
    partial = target.with_name(f"{target.name}.partial")
    for path in (target, partial):
        if path.exists() or path.is_symlink():
            raise FormatError(f"{path} exists already; a backup makes a new directory", code="invalid_request")
    expect_apart("a store is backed up", data, places, target)
    with Outside(data, places) as outside:
        outside.look().expect_usable()
        return _backup(outside, partial, target, damaged, progress)


def _backup(
    outside: Outside,
    partial: Path,
    target: Path,
    damaged: bool,
    progress: Callable[[int, int, str], None] | None,
) -> tuple[int, int]:
    try:
        partial.mkdir(files.DIRECTORY_MODE)
        try:
            copied = copy_store(outside, partial, damaged=damaged, progress=progress)
            descriptor = files.open_for_writing(partial / INDEX)
            try:
                files.sync(descriptor)
            finally:
                os.close(descriptor)
            for directory in (partial / SEGMENTS, *(partial / name for name in DOCUMENTS), partial):
                if directory.exists():
                    files.sync_directory(directory)
            partial.rename(target)
            files.sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise storage_error(f"write {target}", error) from error
    return copied


def copy_store(
    outside: Outside,
    target: Path,
    *,
    link: bool = False,
    damaged: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[int, int]:
    """Copy a store into an empty directory, which has all of it then; returns how many segments it has, and the bytes
    of all its files.

    Args:
        link: give sealed segments another name instead of copying them, where the file system can. For copies that
            are not kept: damage to a file is then damage to both.
        damaged: as :func:`backup`.

    Raises:
        StorageError: its index or a segment cannot be read; or it changes faster than it can be copied.
        OSError: the copy cannot be written.
    """
    (target / SEGMENTS).mkdir(files.DIRECTORY_MODE)
    document_bytes = sum(_copy_documents(outside.data / name, target / name, link) for name in DOCUMENTS)
    there: dict[str, SegmentState] = {}
    for _ in range(_MOST_TURNS):
        outside.index.copy(target / INDEX)
        rows = {row.stem: row for row in segments_of(target / INDEX)}
        for stem in [stem for stem, row in there.items() if rows.get(stem) != row]:
            _path(target, there.pop(stem)).unlink(missing_ok=True)
        wanted = [row for stem, row in rows.items() if stem not in there]
        if _copy_segments(outside, target, wanted, there, link, damaged, progress):
            if progress is not None:
                progress(len(rows), len(rows), "")
            if not outside.segments.keeps_open:
                forget_bodies(target / INDEX)
            if isinstance(outside.index, IndexInDatabase):
                document_bytes += _write_reports(take_out_reports(target / INDEX), target / RUNS, link)
            # The segment files are those of the index: it is the newest that there is of them.
            if (mark := mark_of(target)) is not None:
                Generation(target / GENERATION, mark).close()
            num_bytes = sum(path.stat().st_size for path in target.iterdir() if path.is_file())
            num_bytes += document_bytes + sum(row.file_bytes for row in rows.values())
            return len(rows), num_bytes
    raise StorageError(f"the store in {outside.data} changes faster than it can be copied; try it while less is pushed")


def _copy_segments(
    outside: Outside,
    target: Path,
    wanted: Sequence[SegmentState],
    there: dict[str, SegmentState],
    link: bool,
    damaged: bool,
    progress: Callable[[int, int, str], None] | None,
) -> bool:
    """Copy segments, and note those that are there then; whether all of them were there to be copied."""
    for number, row in enumerate(wanted):
        if progress is not None:
            progress(len(there), len(there) + len(wanted) - number, row.stem)
        if not _copy_segment(outside, target, row, link, damaged):
            if not outside.index.names_segment(row.stem):
                # The others may have gone as well. Those that are younger are less likely to.
                return False
            if not damaged:
                raise StorageError(f"segment {row.stem} is missing: {_remedy(outside)}", segment=row.stem)
        there[row.stem] = row
    return True


def documents_in(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Reports of runs, receipts or names, by the names of their files. Such a file is replaced as a whole: whenever it
    is read, it is one that was stored. Raises ``OSError``."""
    for path in sorted(directory.glob(f"[a-z0-9]*{SUFFIX}")):
        with suppress(FileNotFoundError):  # deleted since
            yield path.name, path.read_bytes()


def _copy_documents(source: Path, target: Path, link: bool) -> int:
    """Copy them; returns their bytes."""
    num_bytes = 0
    for name, content in documents_in(source):
        target.mkdir(files.DIRECTORY_MODE, exist_ok=True)
        _write_document(target / name, content, link)
        num_bytes += len(content)
    return num_bytes


def _write_reports(reports: Mapping[str, bytes], target: Path, link: bool) -> int:
    """Make files of reports that lie in a database, of which the copy has none then; returns their bytes."""
    if reports:
        target.mkdir(files.DIRECTORY_MODE, exist_ok=True)
    for run_id, content in reports.items():
        path = target / f"{run_id}{SUFFIX}"
        # One of the same run that the service could not take in.
        path.unlink(missing_ok=True)
        _write_document(path, content, link)
    return sum(map(len, reports.values()))


def _write_document(path: Path, content: bytes, link: bool) -> None:
    descriptor = files.create(path)
    try:
        files.write_at(descriptor, [content], 0)
        if not link:
            files.sync(descriptor)
    finally:
        os.close(descriptor)


def _path(store: Path, row: SegmentState) -> Path:
    return store / SEGMENTS / name_of(row)


def _copy_segment(outside: Outside, target: Path, row: SegmentState, link: bool, damaged: bool) -> bool:
    """Copy what the index counts of a segment; False where it does not exist any more."""
    source = outside.segments
    if link and row.sealed and isinstance(source, FilesOutside):
        try:
            os.link(_path(outside.data, row), _path(target, row))
        except FileNotFoundError:
            return False
        except OSError:
            # File systems without second names, or with a bound on them.
            pass
        else:
            _expect_whole(outside, _path(target, row).stat().st_size, row)
            return True
    try:
        file = source.open(row, lambda stem: bodies_of(target / INDEX, stem))
    except SegmentGoneError:
        return False
    except OSError as error:
        raise storage_error(f"open segment {row.stem}", error) from error
    with file:
        size = file.seek(0, os.SEEK_END)
        if not damaged:
            _expect_whole(outside, size, row)
        _copy_pieces(file, row, min(size, row.file_bytes), _path(target, row))
    return True


def _copy_pieces(file: BinaryIO, row: SegmentState, num_bytes: int, target: Path) -> None:
    copy = files.create(target)
    try:
        end = 0
        if not row.sealed:
            # What sealing writes at the beginning is not in this index yet.
            end = files.write_at(copy, [bytes(BODY_AT)], 0)
        file.seek(end)
        while end < num_bytes:
            piece = file.read(min(PIECE_BYTES, num_bytes - end))
            if not piece:
                raise StorageError(f"segment {row.stem} was cut short while it was copied")
            end = files.write_at(copy, [piece], end)
        files.sync(copy)
    finally:
        os.close(copy)


def _expect_whole(outside: Outside, num_bytes: int, row: SegmentState) -> None:
    if num_bytes < row.file_bytes:
        words = f"segment {row.stem} has {num_bytes} bytes, the index says {row.file_bytes}: {_remedy(outside)}"
        raise StorageError(words, segment=row.stem)


def _remedy(outside: Outside) -> str:
    if outside.is_local:
        return "`memory-service verify` says what is lost, `memory-service repair` goes on without it; then back it up"
    return (
        "`memory-service verify` says what is lost; `memory-service backup --damaged` copies the rest, to be repaired"
    )


class Archive(Iterator[bytes]):
    """A store's copy as one tar file on its way out, piece by piece. Its directory goes with the last, or on closing.

    Args:
        data, places: as :func:`backup`.
        staging: a directory that does not exist, on the store's own file system.
        let_go: called once, when it is closed, or was not made.

    Raises:
        StorageError: as :func:`copy_store`; the copy cannot be written.
    """

    def __init__(self, data: Path, places: Places, staging: Path, let_go: Callable[[], object]) -> None:
        # Also where nobody reads it or closes it.
        self._remove = weakref.finalize(self, _end, staging, let_go)
        try:
            staging.mkdir(files.DIRECTORY_MODE)
            with Outside(data, places) as outside:
                copy_store(outside, staging, link=True)
            members = [_member(staging, path) for path in sorted(staging.rglob("*"))]
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError):
                raise storage_error("copy the store", error) from error
            raise
        padded = (-(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for info, _ in members)
        self.num_bytes = sum(map(len, map(_header, members))) + sum(padded) + len(_END)
        self._pieces = _pieces(members)

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        if piece is _END:
            # Whoever has read the last byte finds nothing left of it.
            self._remove()
        return piece

    def close(self) -> None:
        self._pieces.close()
        self._remove()


def _end(staging: Path, let_go: Callable[[], object]) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    let_go()


_END: Final = bytes(2 * tarfile.BLOCKSIZE)
_Member = tuple[tarfile.TarInfo, Path]


def _member(staging: Path, path: Path) -> _Member:
    status = path.stat()
    info = tarfile.TarInfo(str(path.relative_to(staging)))
    info.type = tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
    info.size = 0 if path.is_dir() else status.st_size
    info.mode = files.DIRECTORY_MODE if path.is_dir() else files.FILE_MODE
    info.mtime = int(status.st_mtime)
    return info, path


def _header(member: _Member) -> bytes:
    # GNU's, which holds sizes beyond 8 GiB.
    return member[0].tobuf(tarfile.GNU_FORMAT)


def _pieces(members: Sequence[_Member]) -> Generator[bytes, None, None]:
    for member in members:
        yield _header(member)
        info, path = member
        if info.isdir():
            continue
        with path.open("rb") as file:
            left = info.size
            while left:
                piece = file.read(min(PIECE_BYTES, left))
                if not piece:
                    raise StorageError(f"{path.name} was cut short while it was sent")
                left -= len(piece)
                yield piece
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield _END
