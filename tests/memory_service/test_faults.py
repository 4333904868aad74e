"""Every operation on files, and every commit of the index, fails once in every change of a store.

After each: a StorageError that says why, nothing lost, the same in memory as on disk, and all well once the fault
is gone, before and after the store is opened again.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa

from memory_format import ExemplarMemoryError, NotFoundError, StorageError, decode_batch, encode_batch
from memory_service.store import Buffer, Store
from memory_service.store.index import tables
from memory_service.store.index.base import Writing
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.segments import appending, files
from memory_service.testing import expect_loaded_state
from tests.memory_service import disk
from tests.memory_service.helpers import make_exemplar, sql_of

OPERATIONS = (
    *("create", "open_for_reading", "open_for_writing", "write_at", "read_into"),
    *("truncate", "sync", "rename", "unlink", "sync_directory"),
)
CAN_BE_FULL = ("create", "write_at", "sync")
CAN_FAIL_LATE = ("write_at", "truncate", "sync", "rename", "unlink", "sync_directory")
"""Those that may be done and yet say that they failed."""
OPTIONS = Options(segment_bytes=3000)

Change = Callable[[Store], object]


def push(count: int, *, seed: int, buffer: str = "b", pad: int = 300) -> Change:
    batch = encode_batch([make_exemplar(i % 3, i, seed=seed + i, pad=pad) for i in range(count)])
    return lambda store: store.buffer(buffer).push(batch)


def compact(store: Store) -> object:
    buffer = store.buffer("b")
    with buffer._changing():
        return buffer._commits.compactor.compact_one(buffer.config.disk_limit_bytes)


def erase(store: Store) -> None:
    # What was erased is not there to be erased again.
    with suppress(NotFoundError):
        store.erasures.erase(store.buffer("b"), [1])


def unsealed(change: Change) -> Change:
    """A change that rewrites segments into such as are not sealed: a frame is larger than what these hold."""

    def run(store: Store) -> object:
        with mock.patch.multiple(appending, SMALLEST_SEALED=2**18):
            return change(store)

    return run


CHANGES: dict[str, Change] = {
    "push into the open segment": push(1, seed=500),
    "push into several new segments": push(30, seed=600),
    "push that empties segments": push(90, seed=700),
    "push of a class not seen": push(2, seed=800, buffer="fresh"),
    "patch": lambda store: store.buffer("b").update(_ids(store)[::2], scores=[0.25] * len(_ids(store)[::2])),
    "delete some": lambda store: store.buffer("b").delete(_ids(store)[::3]),
    "delete all": lambda store: store.buffer("b").delete(_ids(store)),
    "snapshot": lambda store: store.buffer("b").take_snapshot("new"),
    "snapshot with retention": lambda store: store.buffer("retaining").take_snapshot("new"),
    "drop a snapshot": lambda store: store.buffer("b").drop_snapshot("old"),
    "fork": lambda store: store.fork("b", "second"),
    "fork a snapshot": lambda store: store.fork("b", "second", snapshot="old"),
    "drop a buffer": lambda store: store.delete_buffer("b"),
    "drop a fork": lambda store: store.delete_buffer("fork"),
    "make a buffer": lambda store: store.create_buffer("new", budget_bytes=1000),
    "a smaller budget": lambda store: store.buffer("b").configure(
        lambda config: replace(config, budget=replace(config.budget, budget_bytes=9000))
    ),
    "a smaller budget and disk limit": unsealed(
        lambda store: store.buffer("b").configure(
            lambda config: replace(config, budget=replace(config.budget, budget_bytes=9000), given_disk_limit=30_000)
        )
    ),
    "fork into less room": unsealed(lambda store: store.fork("b", "second", disk_limit_bytes=32_000)),
    "compaction": compact,
    "sealing": lambda store: store.buffer("b").seal(),
    "erasing": lambda store: erase(store),
}
GOES_ON = {"erasing"}
"""Changes that, once begun, are carried through: at the next try, or at the next start."""


def _ids(store: Store) -> list[int]:
    return [int(id_) for id_ in store.buffer("b").state.columns["exemplar_id"]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with something of everything: sealed and open segments, deaths, scores, snapshots, a fork."""
    data = tmp_path_factory.mktemp("faults") / "store"
    with mock.patch.multiple(appending, SMALLEST_SEALED=1):
        store = Store(data, OPTIONS)
        for name in ("b", "fresh", "retaining"):
            retain = 1 if name == "retaining" else None
            store.create_buffer(name, budget_bytes=20_000, disk_limit_bytes=400_000, retain_snapshots=retain)
        push(20, seed=0)(store)
        push(3, seed=50, buffer="retaining")(store)
        store.buffer("b").take_snapshot("old")
        store.buffer("retaining").take_snapshot("old")
        push(1, seed=60, buffer="retaining")(store)
        store.buffer("b").update(_ids(store)[:9], ranks=[5] * 9)
        store.fork("b", "fork")
        store.buffer("b").delete(_ids(store)[1::3])
        push(25, seed=100)(store)
        push(1, seed=200)(store)
        for seed in range(201, 210):
            if not store.buffer("b")._commits.writer.growing:
                push(1, seed=seed)(store)
        assert store.buffer("b")._commits.writer.growing
        store.release()
        yield data


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "store"))


class Faults:
    """Counts the operations on files, and makes one of them fail.

    Args:
        fail: which operation, and how many of it succeed before; None: all succeed.
        number: the errno.
        late: do it, and then say that it failed.
    """

    def __init__(self, fail: tuple[str, int] | None = None, number: int = errno.EIO, *, late: bool = False) -> None:
        self.fail, self.number, self.late = fail, number, late
        self.counts = dict.fromkeys(OPERATIONS, 0)
        self.happened = False
        self._lock = threading.Lock()

    @contextmanager
    def active(self) -> Iterator[Faults]:
        wrapped: dict[str, Any] = {name: self._wrapped(name, getattr(files, name)) for name in OPERATIONS}
        with mock.patch.multiple(files, **wrapped):
            yield self

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self._lock:
                fails = self.fail == (name, self.counts[name])
                self.counts[name] += 1
            if not fails:
                return real(*arguments)
            self.happened = True
            if self.late:
                real(*arguments)
            raise OSError(self.number, os.strerror(self.number))

        return call


def contents(store: Store) -> dict[str, Any]:
    """Everything that readers can see."""
    return {buffer.name: _contents_of(buffer) for buffer in store.buffers()}


def _contents_of(buffer: Buffer) -> dict[str, Any]:
    figures = buffer.stats()
    names = [None, *(snapshot.name for snapshot in buffer.snapshots())]
    return {
        "version": figures.version,
        "budget": (figures.budget_bytes, figures.bytes_used, figures.num_classes_seen, figures.disk_limit_bytes),
        "records": {name: bytes(buffer.query_encoded(Query(limit=1000), snapshot=name)[0]) for name in names},
    }


def check_store(store: Store, data: Path, *, clean: bool) -> None:
    """Memory, rows and files agree; where ``clean``, no file holds a byte too many."""
    stored = disk.read_store(data, surplus=not clean)
    assert set(stored) == {buffer.name for buffer in store.buffers()}
    for buffer in store.buffers():
        expect_loaded_state(buffer)
        found = stored[buffer.name]
        assert all(record.is_whole for record in found.live.values())
        assert found.bytes_used == found.row["bytes_used"] == buffer.stats().bytes_used
        assert set(found.live) == {int(id_) for id_ in buffer.state.columns["exemplar_id"]}
    if clean:
        assert not disk.orphans(data)


def check_after_fault(store: Store, data: Path, change: Change, *, failed: bool, before: Any, after: Any) -> None:
    """All well once the fault is gone: now, after another try, and in a store that is opened again."""
    check_store(store, data, clean=False)
    assert contents(store) == (before if failed else after)
    if failed:
        change(store)
    assert contents(store) == after
    push(2, seed=900, buffer="fresh")(store)
    check_store(store, data, clean=False)
    last = contents(store)
    store.release()
    store = Store(data, OPTIONS)
    try:
        check_store(store, data, clean=True)
        assert contents(store) == last
        push(2, seed=950, buffer="fresh")(store)
    finally:
        store.release()


def failure(change: Change, store: Store) -> StorageError | None:
    """How a change fails; None: it does not."""
    try:
        change(store)
    except StorageError as error:
        return error
    return None


def dry_run(data: Path, scratch: Path, change: Change) -> tuple[dict[str, int], Any, Any]:
    """How often a change does what, and what is seen before and after it."""
    copy = Path(shutil.copytree(data, scratch))
    store = Store(copy, OPTIONS)
    before = contents(store)
    with Faults().active() as counted:
        change(store)
    after = contents(store)
    store.release()
    return counted.counts, before, after


@pytest.mark.parametrize("name", CHANGES)
def test_a_failing_file_operation_harms_nothing(data: Path, tmp_path: Path, name: str) -> None:
    change = CHANGES[name]
    counts, before, after = dry_run(data, tmp_path / "dry", change)
    cases = [
        case
        for operation, count in counts.items()
        for case in (
            *((operation, nth, errno.EIO, False) for nth in {0, count - 1}),
            *((operation, count // 2, errno.ENOSPC, False) for _ in range(operation in CAN_BE_FULL)),
            *((operation, count // 2, errno.EIO, True) for _ in range(operation in CAN_FAIL_LATE)),
        )
        if count
    ]
    for place, (operation, nth, number, late) in enumerate(cases):
        copy = Path(shutil.copytree(data, tmp_path / f"case-{place}"))
        store = Store(copy, OPTIONS)
        with Faults((operation, nth), number, late=late).active() as fault:
            error = failure(change, store)
        failed = error is not None
        if error is not None:
            assert error.code == "storage_failed"
            assert os.strerror(number) in error.message
            assert ("the disk is full" in error.message) == (number == errno.ENOSPC)
        assert fault.happened
        seen = contents(store) if name in GOES_ON else before
        try:
            check_after_fault(store, copy, change, failed=failed, before=seen, after=after)
        except BaseException as problem:
            problem.add_note(f"{name}: {operation} number {nth}, {os.strerror(number)}, late={late}, failed={failed}")
            raise
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("committed", [False, True], ids=["undone", "committed"])
def test_a_failing_commit_harms_nothing(data: Path, tmp_path: Path, name: str, committed: bool) -> None:
    change = CHANGES[name]
    _, before, after = dry_run(data, tmp_path / "dry", change)
    for nth in range(3):
        copy = Path(shutil.copytree(data, tmp_path / f"case-{nth}"))
        store = Store(copy, OPTIONS)
        with failing_commit(store, nth, committed=committed) as happened:
            error = failure(change, store)
        if not happened:
            store.release()
            break
        # Compaction and the like may fail without harm to the change.
        assert error is None or (error.code == "storage_failed" and "disk I/O error" in error.message)
        try:
            seen = contents(store)
            check_after_fault(store, copy, change, failed=seen != after, before=seen, after=after)
            assert committed or seen in (before, after) or name in GOES_ON
        except BaseException as problem:
            problem.add_note(f"{name}: commit number {nth}, committed={committed}")
            raise


@pytest.mark.parametrize("name", ["fork", "fork into less room", "a smaller budget and disk limit", "erasing"])
def test_a_crash_at_any_moment_leaves_a_change_whole_or_not_made(data: Path, tmp_path: Path, name: str) -> None:
    """The files as they are before each operation that changes them, and before and after each commit."""
    change = CHANGES[name]
    _, before, after = dry_run(data, tmp_path / "dry", change)
    store = Store(data, OPTIONS)
    moments = [0]

    def copy() -> None:
        shutil.copytree(data, tmp_path / f"moment-{moments[0]}", ignore=shutil.ignore_patterns("lock"))
        moments[0] += 1

    def watched(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            copy()
            return operation(*arguments)

        return call

    @contextmanager
    def watched_writing(**options: Any) -> Iterator[Writing]:
        with writing(**options) as transaction:
            yield transaction
            copy()
        copy()

    writing = sql_of(store).writing
    wrapped: dict[str, Any] = {
        name: watched(getattr(files, name)) for name in ("create", "write_at", "rename", "unlink")
    }
    with mock.patch.multiple(files, **wrapped), mock.patch.object(store._index, "writing", watched_writing):
        change(store)
    store.release()
    assert moments[0] > 5
    for number in range(moments[0]):
        crashed = tmp_path / f"moment-{number}"
        with Store(crashed, OPTIONS) as opened:
            found = contents(opened)
            assert found in (before, after), f"moment {number} of {moments[0]}"
            check_store(opened, crashed, clean=True)
            if found == before:
                change(opened)
                assert contents(opened) == after
        shutil.rmtree(crashed)


@contextmanager
def failing_commit(store: Store, nth: int, *, committed: bool) -> Iterator[list[bool]]:
    """The n-th transaction that writes fails, before it is committed or behind it."""
    happened: list[bool] = []
    count = 0
    writing = sql_of(store).writing
    reason = "the index cannot be used: disk I/O error"

    def refuse(_: sa.Connection) -> None:
        raise sa.exc.OperationalError("COMMIT", {}, sqlite3.OperationalError("disk I/O error"))

    @contextmanager
    def failing(**options: Any) -> Iterator[Writing]:
        nonlocal count
        fails, count = count == nth, count + 1
        if not fails:
            with writing(**options) as transaction:
                yield transaction
            return
        happened.append(True)
        if committed:
            with writing(**options) as transaction:
                yield transaction
            raise StorageError(reason)
        sa.event.listen(sql_of(store)._engine, "commit", refuse)
        try:
            with writing(**options) as transaction:
                yield transaction
        finally:
            sa.event.remove(sql_of(store)._engine, "commit", refuse)

    with mock.patch.object(store._index, "writing", failing):
        yield happened


def test_numbers_in_sqlite_are_numbers(data: Path) -> None:
    """Its driver takes numpy's integers for bytes, which are above all numbers (findings/sqlite_numpy_integer.sh)."""
    with closing(sqlite3.connect(data / "index.sqlite")) as connection:
        for column in (column for table in tables.metadata.sorted_tables for column in table.columns):
            if isinstance(column.type, sa.Integer | sa.Float):
                kinds = connection.execute(f'SELECT DISTINCT typeof("{column.name}") FROM "{column.table.name}"')
                assert {kind for (kind,) in kinds} <= {"integer", "real", "null"}, column


@pytest.mark.parametrize("name", [name for name in CHANGES if name.startswith(("push", "patch", "delete some"))])
def test_an_index_without_room_refuses_and_goes_on(data: Path, tmp_path: Path, name: str) -> None:
    change = CHANGES[name]
    _, before, after = dry_run(data, tmp_path / "dry", change)
    store = Store(data, OPTIONS)
    with sql_of(store).reading() as reading:
        pages = reading.connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    sa.event.listen(sql_of(store)._engine, "begin", limit)
    with pytest.raises(StorageError, match="full"):
        store.buffer("fresh").configure(lambda config: replace(config, description="x" * 10_000))
    error = failure(change, store)
    failed = error is not None
    assert error is None or "full" in error.message
    check_store(store, data, clean=False)
    sa.event.remove(sql_of(store)._engine, "begin", limit)
    with sql_of(store)._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1073741823")
    sql_of(store)._engine.dispose()
    check_after_fault(store, data, change, failed=failed, before=before, after=after)


def test_short_writes_are_gone_on_with(data: Path, tmp_path: Path) -> None:
    change = CHANGES["push into several new segments"]
    _, _, after = dry_run(data, tmp_path / "dry", change)
    real = os.pwritev

    def short(descriptor: int, pieces: Any, offset: int) -> int:
        return real(descriptor, [memoryview(pieces[0])[:97]], offset)

    store = Store(data, OPTIONS)
    with mock.patch.object(os, "pwritev", short):
        change(store)
    assert contents(store) == after
    check_store(store, data, clean=True)
    store.release()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["push into the open segment", "push into several new segments", "compaction"])
def test_a_write_that_ends_in_the_middle_is_taken_back(data: Path, tmp_path: Path, name: str, number: int) -> None:
    change = CHANGES[name]
    _, before, after = dry_run(data, tmp_path / "dry", change)
    real = os.pwritev
    calls = []

    def breaking(descriptor: int, pieces: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) % 2:
            return real(descriptor, [memoryview(pieces[0])[:5]], offset)
        raise OSError(number, os.strerror(number))

    store = Store(data, OPTIONS)
    with mock.patch.object(os, "pwritev", breaking), pytest.raises(StorageError) as caught:
        change(store)
    assert caught.value.details["errno"] == number
    assert calls
    check_after_fault(store, data, change, failed=True, before=before, after=after)


def test_a_file_that_cannot_be_removed_is_counted_and_goes_at_the_next_start(data: Path) -> None:
    store = Store(data, OPTIONS)

    def refuse(path: Path) -> None:
        path.stat()
        raise OSError(errno.EIO, "Input/output error")

    with mock.patch.object(files, "unlink", refuse):
        store.delete_buffer("b")
    assert store.buffer("fresh").stats().orphans > 0
    assert len(disk.orphans(data)) == store.buffer("fresh").stats().orphans
    store.release()
    with Store(data, OPTIONS) as store:
        assert not disk.orphans(data)
        assert store.buffer("fresh").stats().orphans == 0


@pytest.mark.parametrize("operation", ["open_for_reading", "read_into"])
def test_a_read_that_fails_says_so_and_the_next_one_works(data: Path, operation: str) -> None:
    store = Store(data, OPTIONS)
    buffer = store.buffer("b")
    expected = bytes(buffer.query_encoded(Query(limit=1000))[0])
    buffer._segments.close()
    with Faults((operation, 1)).active() as fault, pytest.raises(StorageError, match=r"cannot (open|read) segment"):
        buffer.query_encoded(Query(limit=1000))
    assert fault.happened
    assert bytes(buffer.query_encoded(Query(limit=1000))[0]) == expected
    assert decode_batch(expected)
    store.release()


@pytest.mark.parametrize("operation", ["truncate", "rename", "unlink", "open_for_writing"])
def test_a_start_that_cannot_clean_up_fails_and_the_next_one_does(data: Path, operation: str) -> None:
    """What a crash left is cut off, renamed or removed at the start."""
    last = sorted((data / "segments").glob("*.open"))[0]
    disk.append_garbage(last, b"garbage")
    sealed = sorted((data / "segments").glob("*.zarr.zip"))[0]
    sealed.rename(sealed.with_name(sealed.name.removesuffix(".zarr.zip") + ".open"))
    disk.leave_behind(data, "0" * 32 + ".open", b"left behind")
    with Faults((operation, 0)).active() as fault, pytest.raises(StorageError) as caught:
        Store(data, OPTIONS)
    assert fault.happened
    assert isinstance(caught.value, ExemplarMemoryError)
    store = Store(data, OPTIONS)
    check_store(store, data, clean=True)
    store.release()


def test_a_transaction_that_raises_leaves_the_index_free(data: Path) -> None:
    with Store(data, OPTIONS) as store:
        with pytest.raises(StorageError), sql_of(store).writing() as transaction:
            transaction.connection.execute(tables.buffers.delete())  # foreign keys refuse
        with sql_of(store).writing() as transaction:
            assert transaction.connection.execute(sa.select(tables.buffers)).first() is not None
