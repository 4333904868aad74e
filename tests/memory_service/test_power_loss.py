"""States that a power cut, a restored backup or a copy in mid-write leave: nothing that can be read is destroyed.

A real store, its files copied, left out, cut or put back. Whatever a start makes of it, what was acknowledged and is
in a file is served, or in ``segments/`` or ``quarantine/`` afterwards; after a repair it is served.

KILL_ROUNDS says how many rounds, every kind of state in turn; `make nightly` asks for many.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memory_format import Record, StorageError, decode_batch, encode_batch
from memory_service.store import Store
from memory_service.store.admin.repair import repair
from memory_service.store.admin.verify import verify
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.segments.layout import read_contents
from tests.memory_service.helpers import make_exemplar

OPTIONS = Options(segment_bytes=300_000)
INDEX = ("index.sqlite", "index.sqlite-wal")

pytestmark = pytest.mark.timeout(120)


@dataclass
class World:
    """A store, and what it has acknowledged."""

    data: Path
    random: random.Random
    alive: set[bytes] = field(default_factory=set)
    """Bodies that were acknowledged and not deleted since."""
    backups: list[dict[str, bytes]] = field(default_factory=list)
    """Index, log and generation, as they were at several times; the last are the newest."""
    copied: Path | None = None
    served: int = 0

    def push(self, store: Store, name: str) -> None:
        seed = self.random.randrange(2**31)
        pads = [self.random.choice([100, 3000, 40_000]) for _ in range(self.random.choice([1, 4, 9]))]
        records = [make_exemplar(i % 3, i, seed=seed + i, pad=pad) for i, pad in enumerate(pads)]
        store.buffer(name).push(encode_batch(records))
        self.alive |= {record.body for record in records}

    def note(self) -> None:
        names = (*INDEX, "generation")
        self.backups.append({name: (self.data / name).read_bytes() for name in names if (self.data / name).exists()})

    def delete_some(self, store: Store, name: str) -> None:
        buffer = store.buffer(name)
        records = records_of(buffer_name=name, store=store)
        if len(records) > 12:
            gone = self.random.sample(records, 2)
            buffer.delete([record.exemplar_id for record in gone])
            # A fork may hold them still; nothing is promised of them.
            self.alive -= {record.body for record in gone}


def live(world: World, *, clean: bool) -> None:
    """Some pushes, deletions, a fork, and an end: a clean one, or a crash."""
    store = Store(world.data, OPTIONS)
    try:
        for name in ("a", "b"):
            store.create_buffer(name, budget_bytes=40_000_000, eviction="fifo")
        for step in range(14):
            world.push(store, world.random.choice(["a", "b"]))
            if step % 3 == 0:
                world.note()
            if step == 6:
                store.buffer("a").take_snapshot("s")
                store.fork("a", "f")
            if step > 8:
                world.delete_some(store, "b")
        world.note()
    finally:
        (store.close if clean else store.release)()


def records_of(store: Store, buffer_name: str) -> list[Record]:
    encoded, cursor, _ = store.buffer(buffer_name).query_encoded(Query(limit=1000))
    assert cursor is None
    return decode_batch(bytes(encoded))


def served(store: Store) -> set[bytes]:
    return {record.body for buffer in store.buffers() for record in records_of(store, buffer.name)}


def readable(data: Path) -> set[bytes]:
    """Bodies in all files that say themselves what they hold."""
    found = set()
    for directory in (data / "segments", data / "quarantine"):
        for path in directory.iterdir() if directory.is_dir() else ():
            try:
                contents = read_contents(path)
            except ValueError:
                continue
            content = path.read_bytes()
            places = zip(contents.headers["offset"].tolist(), contents.lengths.tolist(), strict=True)
            found |= {content[offset : offset + length] for offset, length in places}
    return found


def files_of(data: Path) -> dict[str, str]:
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(data.rglob("*"))
        # The lock holds the process; SQLite makes the others anew, the log an empty one.
        if path.is_file()
        and path.name not in ("lock", "index.sqlite-shm")
        and not (path.name == INDEX[1] and not path.stat().st_size)
    }


def put_back(world: World, backup: dict[str, bytes], names: tuple[str, ...]) -> None:
    for name in names:
        (world.data / name).unlink(missing_ok=True)
        if name in backup:
            (world.data / name).write_bytes(backup[name])


def index_missing(world: World) -> None:
    for name in INDEX:
        (world.data / name).unlink(missing_ok=True)


def index_older(world: World) -> None:
    put_back(world, world.random.choice(world.backups[:-1]), INDEX)


def all_older(world: World) -> None:
    """Index and generation are from one backup: nothing says that the segments are newer."""
    put_back(world, world.random.choice(world.backups[:-1]), (*INDEX, "generation"))


def unmarked_and_older(world: World) -> None:
    index_older(world)
    (world.data / "generation").unlink()


def log_missing(world: World) -> None:
    put_back(world, world.backups[-1], INDEX)
    (world.data / INDEX[1]).unlink()


def log_cut(world: World) -> None:
    put_back(world, world.backups[-1], INDEX)
    log = world.data / INDEX[1]
    log.write_bytes(log.read_bytes()[: world.random.randrange(log.stat().st_size)])


def log_damaged(world: World) -> None:
    put_back(world, world.backups[-1], INDEX)
    log = world.data / INDEX[1]
    content = bytearray(log.read_bytes())
    content[world.random.randrange(len(content))] ^= 4
    log.write_bytes(content)


def unmarked(world: World) -> None:
    (world.data / "generation").unlink()


def marked_by_another(world: World) -> None:
    mark = world.data / "generation"
    other = world.data.with_name("other")
    Store(other, OPTIONS).close()
    shutil.copy(other / "generation", mark)


def marked_badly(world: World) -> None:
    mark = world.data / "generation"
    mark.write_bytes(mark.read_bytes()[: world.random.randrange(mark.stat().st_size)])


def last_cut(world: World) -> None:
    path = max((world.data / "segments").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes()[: world.random.randrange(path.stat().st_size)])


def longer(world: World) -> None:
    for path in (world.data / "segments").glob("*.open"):
        with path.open("ab") as file:
            file.write(world.random.randbytes(world.random.randrange(1, 5000)))


def copied(world: World) -> None:
    """`cp -r` in some order while pushes go on."""
    target = world.data.with_name("copy")
    store = Store(world.data, OPTIONS)
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            world.push(store, "a")

    pushing = threading.Thread(target=go_on)
    pushing.start()
    try:
        paths = [path for path in world.data.rglob("*") if path.is_file() and path.name != "lock"]
        world.random.shuffle(paths)
        directories = {path.parent for path in paths}
        for directory in directories:
            (target / directory.relative_to(world.data)).mkdir(parents=True, exist_ok=True)
        for path in paths:
            try:
                shutil.copy(path, target / path.relative_to(world.data))
            except FileNotFoundError:
                continue
    finally:
        done.set()
        pushing.join()
        store.release()
    shutil.rmtree(world.data)
    target.rename(world.data)


STATES: dict[str, Callable[[World], None]] = {
    made.__name__: made
    for made in (
        *(index_missing, index_older, all_older, unmarked_and_older, log_missing, log_cut, log_damaged),
        *(unmarked, marked_by_another, marked_badly, last_cut, longer, copied),
    )
}
ROUNDS = max(len(STATES), int(os.environ.get("KILL_ROUNDS", "5")))
REFUSED = {"index_missing", "index_older", "log_missing", "marked_by_another"}
"""A start says no."""


@pytest.mark.parametrize("number", range(ROUNDS))
def test_nothing_that_can_be_read_is_destroyed(tmp_path: Path, number: int) -> None:
    state = list(STATES)[number % len(STATES)]
    world = World(tmp_path / "store", random.Random(number))
    live(world, clean=state not in ("last_cut", "longer", "log_cut") and world.random.random() < 0.5)
    STATES[state](world)
    before, promised = files_of(world.data), readable(world.data) & world.alive
    store, refusal = opened(world.data)
    if store is None:
        assert "memory-service repair" in refusal.message
        after = files_of(world.data)
        if "standing" not in refusal.details:
            # The index is the right one, and SQLite has carried its log over.
            before, after = ({n: d for n, d in files.items() if n not in INDEX} for files in (before, after))
        assert after == before, "a start that is refused changes nothing"
    else:
        assert state not in REFUSED
        there = served(store)
        store.release()
        assert promised <= there | readable(world.data)
        if state in ("unmarked", "marked_badly", "longer"):
            assert world.alive <= there
    repair(world.data)
    assert promised <= readable(world.data) | bodies_after(world)
    report = verify(world.data)
    assert report.sound, report.problems
    store = Store(world.data, OPTIONS)
    try:
        there = served(store)
        assert promised <= there, f"{len(promised - there)} of {len(promised)} are not served after a repair"
        for buffer in store.buffers():
            # Ids go on beyond all that were ever given.
            most = max((record.exemplar_id for record in records_of(store, buffer.name)), default=0)
            assert buffer.state.next_id > most
        world.push(store, store.buffers()[0].name if store.buffers() else made(store))
    finally:
        store.close()
    assert verify(world.data).sound


def opened(data: Path) -> tuple[Store | None, StorageError]:
    try:
        return Store(data, OPTIONS), StorageError("")
    except StorageError as error:
        return None, error


def bodies_after(world: World) -> set[bytes]:
    store = Store(world.data, OPTIONS)
    try:
        return served(store)
    finally:
        store.release()


def made(store: Store) -> str:
    store.create_buffer("new", budget_bytes=10**7)
    return "new"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
def test_a_last_segment_of_any_length_keeps_the_records_that_are_whole(tmp_path: Path, sealed: bool) -> None:
    """Cut by 1 to all of its bytes; every one of them where KILL_ROUNDS asks for many.

    What an open segment holds the index says. A sealed one says it itself, at its end: cut, it is put aside whole.
    """
    store = Store(tmp_path / "store", OPTIONS)
    store.create_buffer("a", budget_bytes=40_000_000)
    records = [make_exemplar(0, rank, seed=rank, pad=100_000 * sealed) for rank in range(3)]
    for record in records:
        store.buffer("a").push(encode_batch([record]))
    store.release()
    (path,) = (tmp_path / "store" / "segments").iterdir()
    assert path.name.endswith(".zarr.zip" if sealed else ".open")
    content = path.read_bytes()
    ends = [content.index(record.body) + len(record.body) for record in records]
    step = 1 if ROUNDS >= 100 and not sealed else len(content) // 7 + 1
    for length in sorted({*range(0, len(content), step), *ends, *(end - 1 for end in ends)} - {len(content)}):
        data = tmp_path / "cut"
        shutil.copytree(tmp_path / "store", data)
        (data / "segments" / path.name).write_bytes(content[:length])
        found, refusal = opened(data)
        if found is None:
            assert "memory-service repair" in refusal.message
        else:
            found.release()
        kept = [file.read_bytes() for file in (data / "segments").iterdir()]
        kept += [file.read_bytes() for file in data.glob("quarantine/*")]
        assert any(content[:length] in one for one in kept), f"cut to {length} bytes, a start destroyed some"
        repair(data)
        assert verify(data).sound
        mended = Store(data, OPTIONS)
        there = served(mended)
        mended.release()
        whole = {record.body for record, end in zip(records, ends, strict=True) if end <= length and not sealed}
        assert whole <= there, f"cut to {length} bytes, {len(whole - there)} whole records are not served"
        shutil.rmtree(data)
