"""A store's index while nobody or another process has it open, above all as a file of SQLite.

Do index and segment files belong together? That is looked at before anything is opened or changed. And copies of an
index that a service may be changing, for backups and checks of a served store.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal
from urllib.parse import quote

from memory_format import StorageError
from memory_service.store.index.generation import Mark, read_mark
from memory_service.store.pure.tallies import SegmentState
from memory_service.store.segments import files
from memory_service.store.segments.files import OWN_NAME, SEALED

INDEX = "index.sqlite"
GENERATION = "generation"
ELSEWHERE = "index.elsewhere"
"""A file beside the segments, where no index lies there: it says in words where that is."""

SEGMENTS_ELSEWHERE = "segments.elsewhere"
"""The same of segments: the bucket's URL."""

MIGRATION = "migration"
"""A directory in one that a store is being moved to: until its index is there, it is none."""
UNFINISHED = "a migration into {} did not end: run `memory-service migrate` again, or remove what is there"

Kind = Literal["new", "current", "unmarked", "missing", "damaged", "older", "foreign", "elsewhere", "unfinished"]


@dataclass(frozen=True)
class Standing:
    """What a directory holds.

    ``new``: nothing. ``current``: an index that is as new as the segment files. ``unmarked``: nothing says so, as in
    stores of earlier versions. ``missing``: segment files and no index of them. ``damaged``: an index that cannot be
    read. ``older``: one that has not seen the last changes. ``foreign``: one of another store. ``elsewhere``: one in a
    database that was not named. ``unfinished``: a migration into it did not end.
    """

    kind: Kind
    words: str = ""
    mark: Mark | None = None

    @property
    def trusted(self) -> bool:
        """Whether the index knows everything that was ever acknowledged."""
        return self.kind in ("new", "current")

    def expect_usable(self) -> None:
        """Raises ``StorageError``: a start could lose what the segment files hold."""
        if self.kind not in ("new", "current", "unmarked"):
            raise StorageError(self.words, standing=self.kind)


def is_store(data: Path) -> bool:
    """Whether a directory has an index, says where that is, or is to have one."""
    return any((data / name).exists() for name in (INDEX, ELSEWHERE, MIGRATION))


def look(data: Path, *, all_here: bool = True) -> Standing:
    """Look at a store that nobody serves, its index a file; changes nothing.

    Args:
        all_here: its segments are files in the directory, too.

    Raises:
        StorageError: the index cannot be opened, whatever it holds.
        OSError: the directory cannot be read.
    """
    if (data / ELSEWHERE).exists() or (all_here and (data / SEGMENTS_ELSEWHERE).exists()):
        return Standing("elsewhere", words_elsewhere(data))
    remedy = (
        f"put the newest {INDEX} back, with its {INDEX}-wal if it has one, or run `memory-service repair {data}`, "
        "which makes an index of what the sealed segments say. Nothing was changed"
    )
    try:
        seen = _peek(data / INDEX)
    except sqlite3.OperationalError as error:
        raise StorageError(f"the index cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        words = f"the index of the store in {data} is damaged ({error}): {remedy}"
        return Standing("damaged", words, read_mark(data / GENERATION))
    return judge(data, seen, INDEX, remedy)


def look_elsewhere(data: Path, seen: Seen | None, place: str) -> Standing:
    """Look at a store whose index is in a database.

    Args:
        seen: what the index says; None where there is none yet.
        place: where it is, in words.

    Raises:
        StorageError: its index is a file, which would be passed over.
        OSError: the directory cannot be read.
    """
    if (data / INDEX).exists():
        raise StorageError(
            f"the store in {data} has an index of its own, {INDEX}: serve it without another one, or move it into the "
            "database, `memory-service migrate`"
        )
    return judge(data, seen, place, "put the database back as it was last. Nothing was changed")


def expect_segments_at(data: Path, place: str | None) -> None:
    """Raises:
    StorageError: the segments of a store lie elsewhere than where they are looked for.
    OSError: the directory cannot be read.
    """
    said = data / SEGMENTS_ELSEWHERE
    if said.exists():
        where = said.read_text(errors="replace").strip()
        if where != place:
            raise StorageError(words_elsewhere(data))
    elif place is not None and (data / "segments").is_dir() and any((data / "segments").iterdir()):
        raise StorageError(
            f"the store in {data} has segment files of its own, in segments: serve it without --segments, or move it "
            "there, `memory-service migrate`"
        )


def words_elsewhere(data: Path) -> str:
    """That the index of a store, or its segments, are elsewhere, and where."""
    if not (data / ELSEWHERE).exists():
        where = (data / SEGMENTS_ELSEWHERE).read_text(errors="replace").strip()
        return (
            f"the segments of the store in {data} are in {where}: name it, --segments or MEMORY_SERVICE_SEGMENTS; "
            "`memory-service repair` works on a directory alone, as `backup --damaged` makes one"
        )
    where = (data / ELSEWHERE).read_text(errors="replace").strip()
    return (
        f"the index of the store in {data} is in {where}: name it, --index or MEMORY_SERVICE_INDEX; "
        "`memory-service repair` works on a directory alone, as `backup --damaged` makes one"
    )


def judge(data: Path, seen: Seen | None, name: str, remedy: str) -> Standing:
    """Whether an index belongs to what lies in a directory.

    Args:
        name: of the index, in words.
        remedy: what to do where it does not.
    """
    mark = read_mark(data / GENERATION)
    directory = data / "segments"
    names = [name for name in os.listdir(directory) if OWN_NAME.fullmatch(name)] if directory.is_dir() else []
    num = f"{len(names)} segment files are there" if names else "it has held something"
    if seen is None and (data / MIGRATION).exists():
        return Standing("unfinished", UNFINISHED.format(data))
    if seen is None:
        log = data / f"{INDEX}-wal"
        if not names and not (data / GENERATION).exists() and not (log.exists() and log.stat().st_size):
            return Standing("new")
        return Standing("missing", f"the store in {data} has no index ({name}), and {num}: {remedy}", mark)
    if mark is None:
        if not seen.segments and any(name.endswith(SEALED) for name in names):
            words = f"the index of the store in {data} ({name}) knows no segments, and {num}: {remedy}"
            return Standing("missing", words)
        return Standing("unmarked")
    if seen.mark is not None and seen.mark.store_id != mark.store_id:
        words = f"the index of {data} ({name}) is of another store than what lies in it ({num}): {remedy}"
        return Standing("foreign", words, mark)
    changes = 0 if seen.mark is None else seen.mark.changes
    if seen.mark is None or changes < mark.changes:
        words = (
            f"the index of the store in {data} ({name}) is older than its segment files: it has seen {changes} "
            f"changes, they have seen {mark.changes}: {remedy}"
        )
        return Standing("older", words, mark)
    return Standing("current", mark=mark)


def damage(data: Path) -> str:
    """What is wrong with an index as a database, nothing where it is sound."""
    try:
        with reading(data) as connection:
            found: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            foreign = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return found if found != "ok" else f"a row refers to none: {foreign}" if foreign else ""


@contextmanager
def reading(data: Path) -> Iterator[sqlite3.Connection]:
    """The index of a store that others may write, or that lies where nothing can be written. Raises ``sqlite3.Error``:
    it cannot be read."""
    with ExitStack() as stack:
        connection = stack.enter_context(closing(connect(data / INDEX)))
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            if _can_write(data):
                raise
            # SQLite cannot read a log without writing beside it. Nobody else writes here either: a plain copy is whole.
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="memory-service-")))
            for name in (INDEX, f"{INDEX}-wal", f"{INDEX}-journal"):
                if (data / name).exists():
                    shutil.copyfile(data / name, directory / name)
            connection = stack.enter_context(closing(sqlite3.connect(directory / INDEX)))
        yield connection


def connect(path: Path) -> sqlite3.Connection:
    """A database, to read."""
    # Read only, SQLite neither carries its write-ahead log over nor removes it: what is behind a damaged part of it
    # stays there. A transaction that a crash has cut is undone by whoever may write.
    writes = path.with_name(f"{path.name}-journal").exists()
    return sqlite3.connect(f"file:{quote(str(path))}?mode={'rw' if writes else 'ro'}", uri=True)


def _can_write(data: Path) -> bool:
    return os.access(data, os.W_OK) and not os.statvfs(data).f_flag & os.ST_RDONLY


@dataclass(frozen=True)
class Seen:
    """What an index says of itself."""

    mark: Mark | None
    """None in schemas that did not say."""
    segments: int


def _peek(path: Path) -> Seen | None:
    """What an index says; None where there is none, or one without tables."""
    if not path.exists() or not path.stat().st_size:
        return None
    with reading(path.parent) as connection:
        connection.execute("BEGIN")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables & {"alembic_version", "meta"}:
            return None
        (segments,) = connection.execute("SELECT COUNT(*) FROM segments").fetchone()
        if "store" not in tables:
            return Seen(None, segments)
        return Seen(Mark(*connection.execute("SELECT store_id, changes FROM store").fetchone()), segments)


# Copies


def copy_index(data: Path, target: Path) -> None:
    """The index as it is after some change, as a database without a log. Raises ``StorageError``: it cannot be read."""
    target.unlink(missing_ok=True)
    os.close(files.create(target))
    try:
        with reading(data) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            # In one file, which can be read where nothing can be written.
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise StorageError(f"the index of the store in {data} cannot be copied: {error}") from error


def segments_of(copy: Path) -> list[SegmentState]:
    """The segments that a copy of an index names, oldest first; what buffers hold of them is not counted. Raises
    ``StorageError``: a version made it that did not say."""
    try:
        with closing(connect(copy)) as connection:
            found = connection.execute("SELECT id, stem, file_bytes, num_records, sealed FROM segments ORDER BY id")
            return [SegmentState(*row) for row in found]
    except sqlite3.Error as error:
        raise StorageError(
            f"the index does not say what segments there are ({error}); an earlier version made it: start the service "
            "on the store, or copy its directory while nobody serves it"
        ) from error


def bodies_of(copy: Path, stem: str) -> list[bytes] | None:
    """As :meth:`Index.open_bodies`, of a copy of an index."""
    with closing(connect(copy)) as connection:
        found = connection.execute(
            "SELECT bodies FROM segments s LEFT JOIN open_bodies b ON b.segment_id = s.id "
            "WHERE stem = ? AND NOT sealed ORDER BY first",
            [stem],
        ).fetchall()
    return [piece for (piece,) in found if piece is not None] if found else None


def forget_bodies(copy: Path) -> None:
    """Bodies of open segments lie elsewhere than in a copy of an index."""
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("DELETE FROM open_bodies")


def mark_of(store: Path) -> Mark | None:
    """Which store an index is of, and how many changes it has seen; None where it does not say."""
    seen = _peek(store / INDEX)
    return None if seen is None else seen.mark


def mark_of_copy(copy: Path) -> Mark:
    """The same of a copy that has the newest schema."""
    with closing(connect(copy)) as connection:
        return Mark(*connection.execute("SELECT store_id, changes FROM store").fetchone())


def names_segment(data: Path, stem: str) -> bool:
    """Whether the index of a store names a segment now."""
    with reading(data) as connection:
        return connection.execute("SELECT 1 FROM segments WHERE stem = ?", [stem]).fetchone() is not None
