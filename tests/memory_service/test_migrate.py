"""A store that moves between a directory, a database and an object store: it stays the same, or is none yet."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from memory_format import FormatError, StorageError, encode_batch, vocabulary_fingerprint
from memory_format.api.terms import VOCABULARY_HEADER
from memory_service.store import Store
from memory_service.store.admin import migrate as module
from memory_service.store.admin.migrate import migrate
from memory_service.store.admin.verify import verify
from memory_service.store.directory import Places, open_local
from memory_service.store.index import news, quotas, tables
from memory_service.store.index.copying import digests, last_ids, reading_copy
from memory_service.store.index.database_filling import DatabaseToFill
from memory_service.store.index.filling import FileToFill
from memory_service.store.index.generation import Marker
from memory_service.store.index.outside import IndexFile, IndexInDatabase, IndexOutside
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.keys import KeyFile
from memory_service.store.pure.erasing import TARGET_DTYPE
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.filling import BucketToFill, DirectoryToFill
from memory_service.store.transfer.journal import Journal
from memory_service.testing import expect_loaded_state
from tests.memory_service.conftest import crashing, running
from tests.memory_service.helpers import address_of, command, make_exemplar, push, put_buffer, wait_until
from tests.memory_service.places import NewPlaces, Pair, big_records, options_of
from tests.memory_service.test_runs import report
from tests.objects import ObjectStore

GOLDEN = Path(__file__).parents[1] / "golden"
OPTIONS = Options(segment_bytes=300_000)
LIMITS: dict[str, Any] = {"budget_bytes": 2_000_000, "disk_limit_bytes": 20_000_000}


@pytest.fixture
def new_places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NewPlaces:
    return NewPlaces(request, monkeypatch)


def filled(data: Path, places: Places = open_local, *, records: int = 50) -> Store:
    """Sealed segments and an open one."""
    store = Store(data, OPTIONS, open_ports=places)
    buffer, _ = store.create_buffer("b", **LIMITS)
    buffer.push(encode_batch(big_records(records)))
    buffer.delete([2, 3])
    buffer.take_snapshot("s")
    for at in range(3):
        buffer.push(encode_batch(big_records(2, first=500 + 10 * at)))
    return store


def drawn(store: Store) -> bytes:
    return bytes(store.buffer("b").sample(SampleRequest(20, seed=7))[0])


# The same


TABLES = {
    "buffers": "two; of one that was deleted the id is never given again",
    "segments": "sealed ones, and an open one",
    "buffer_segments": "of both buffers",
    "open_rows": "of what was pushed last",
    "open_bodies": "the same, where the index keeps them",
    "deaths": "of what was deleted",
    "revisions": "of arrays that were replaced",
    "scores": "of what was scored anew",
    "snapshots": "s",
    "origins": "of the fork",
    "erasures": "of one under way",
    "classes": "of what was pushed",
    "class_names": "zero",
    "vocabularies": "some words",
    "phases": "of a learner",
    "pushes": "the answer to the one with a key",
    "news": "stay behind: they are for replicas of the old place",
    "runs": "a report, where the index is a database; else a file",
    "receipts": "of erasures, where the index is a database and a service has opened it; else files",
    "replicas": "none: one service has had it",
    "store": "which one it is",
    "learner_bytes": "stay behind: who keeps to a quota counts anew",
    "intents": "stay behind: they are of files of the old place",
}
"""All of them, and what a store has in each that moves here."""

ELSEWHERE = {"runs", "receipts", "replicas"}
"""What a directory has no rows of."""

WORDS = [f"word{number}" for number in range(300)]


def make_everything(data: Path) -> str:
    """A store with rows in every table, and every kind of file beside the index; returns a key of it."""
    _, key = KeyFile(data).make("admin", time.time())
    with crashing(data, segment_bytes=300_000) as client:
        client.headers.update(headers_of(str(key)))
        put_buffer(client, buffer="gone")
        assert client.delete("/v1/buffers/gone").status_code == 204
        put_buffer(client, retain_snapshots=3, description="ü", vocabulary=vocabulary_fingerprint(WORDS), **LIMITS)
        push(client, big_records(40), key="once")
        for path, body in (
            ("/v1/buffers/b/vocabulary", {"words": WORDS}),
            ("/v1/buffers/b/snapshots/s", {}),
            ("/v1/runs/r1", report()),
            ("/v1/buffers/b/phases/left", {"phase": 2}),
        ):
            answer = client.put(path, json=body)
            assert answer.status_code < 300, answer.text
        named = client.post("/v1/buffers/b/classes", json={"names": ["zero", "one"], "class_ids": [0, 1]})
        assert named.status_code == 200, named.text
        scores = {"exemplar_ids": [5, 6], "scores": [0.5, 0.1], "ranks": [1, 0]}
        assert client.patch("/v1/buffers/b/exemplars", json=scores).status_code == 200
        assert client.post("/v1/buffers/b/forks", json={"name": "f", "snapshot": "s"}).status_code == 201
        assert client.delete("/v1/buffers/b/exemplars/7").status_code == 200
        assert client.delete("/v1/buffers/b/exemplars/9?erase=true").status_code == 200
        for at in range(3):
            push(client, big_records(2, first=500 + 10 * at))
        (id_,) = push(client, [make_exemplar(arrays={"logits": np.zeros(2)})])["exemplar_ids"]
        logits = {"logits": {"shape": [2], "data": "AACAPwAAAEA="}}
        answer = client.patch("/v1/buffers/b/exemplars", json={"exemplar_ids": [id_], "arrays": logits})
        assert answer.json()["revisions"] == {str(id_): 1}, answer.text
    return str(key)


def headers_of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", VOCABULARY_HEADER: vocabulary_fingerprint(WORDS)}


def served(data: Path, places: Places) -> AbstractContextManager[httpx.Client]:
    index = None if places.index is None else SecretStr(places.index)
    return running(data, index=index, segments=places.segments)


def rows_of(data: Path, places: Places, directory: Path) -> dict[str, tuple[int, str]]:
    """Table -> how many rows, and a digest of them."""
    copy = directory / "copy.sqlite"
    index: IndexOutside = IndexFile(data) if places.index is None else IndexInDatabase(data, places.index)
    with closing(index):
        index.copy(copy)
    with reading_copy(copy) as connection:
        return {**digests(connection), "ids": (0, str(last_ids(connection)))}


def documents_of(data: Path) -> dict[str, bytes]:
    """Files that no index speaks of."""
    paths = [data / "keys.json", *(path for name in ("runs", "receipts", "names") for path in (data / name).glob("*"))]
    return {str(path.relative_to(data)): path.read_bytes() for path in paths}


NOT_THE_SAME = {
    "/metrics": "of a process",
    "/readyz": "names the places",
    "/v1/backup": "a tar, which tests/memory_service/test_outside.py looks into",
    "/v1": "names the process",
    "/v1/keys": "says when each was used last; the file is compared",
}


def answers_of(data: Path, places: Places, key: str) -> dict[str, tuple[int, bytes]]:
    """What every route answers that changes nothing."""
    found = {}
    with served(data, places) as client:
        client.headers.update(headers_of(key))
        document = client.get("/openapi.json").json()
        paths = [path for path, operations in document["paths"].items() if "get" in operations]
        assert NOT_THE_SAME.keys() <= set(paths) | {"/metrics"}
        for path in paths:
            if path not in NOT_THE_SAME:
                address = address_of(path, exemplar_id="12", run_id="r1", snapshot="s", field="split")
                address += "?from=s" if path.endswith("/diff") else ""
                answer = client.get(address)
                found[path] = answer.status_code, answer.content
        drawing: list[tuple[str, dict[str, Any]]] = [
            ("/v1/buffers/b/sample", {"batch_size": 12, "seed": 3, "step": 4}),
            ("/v1/buffers/b/sample", {"batch_size": 12, "seed": 3, "strategy": "class_balanced"}),
            ("/v1/buffers/f/sample", {"batch_size": 12, "seed": 3, "want": "ids"}),
            ("/v1/buffers/b/records", {"exemplar_ids": [1, 12, 41]}),
        ]
        for path, body in drawing:
            answer = client.post(path, json=body)
            found[f"{path} {body}"] = answer.status_code, answer.content
    assert len(found) > 20
    assert {path for path, (status, _) in found.items() if status != 200} == set(), found
    return found


def test_a_store_that_moved_through_all_places_answers_the_same(tmp_path: Path, new_places: NewPlaces) -> None:
    """Every row, file and answer; ids that are given next, and a push that is sent again, too."""
    first = tmp_path / "first"
    key = make_everything(first)
    with closing(SqliteIndex(first / "index.sqlite")) as index, index.writing() as transaction:
        # Under way when a process was killed. All else of the store is as it was.
        transaction.insert_erasures({2: np.array([(13, 1, 2)], TARGET_DTYPE)})
        news.insert(transaction, 3, b"of one")
        quotas.charge_learners(transaction, {"left": 7}, None)
    before, data, places = rows_of(first, open_local, tmp_path), first, open_local
    assert before.keys() - {"ids"} == TABLES.keys() == tables.metadata.tables.keys()
    assert {name for name, (number, _) in before.items() if not number} == {"open_bodies", *ELSEWHERE, "ids"}
    pairs: tuple[Pair, ...] = ("both", "database", "objects", "directory")
    moved: dict[Pair, tuple[Path, Places]] = {}
    for pair in pairs:
        target, to_places = tmp_path / pair, new_places(pair)
        done = migrate(data, places, target, to_places)
        assert (done.complete, done.segments) == (True, before["segments"][0])
        rows = rows_of(target, to_places, tmp_path)
        assert (rows["open_bodies"][0] > 0) == (to_places.segments is not None)
        assert rows["intents"][0] == rows["news"][0] == rows["learner_bytes"][0] == 0
        for name in before.keys() - {"open_bodies", "intents", "news", "learner_bytes", "runs"}:
            assert rows[name] == before[name], (pair, name)
        in_rows = {"runs/r1.json"} if to_places.index is not None else set()
        assert rows["runs"][0] == len(in_rows)
        kept = documents_of(first)
        assert documents_of(target) == {path: kept[path] for path in kept.keys() - in_rows}
        assert not (target / "migration").exists()
        assert verify(target, to_places).sound
        moved[pair] = data, places = target, to_places
    assert rows_of(first, open_local, tmp_path) == before
    segments = {path.name: path.read_bytes() for path in (first / "segments").iterdir()}
    assert {path.name: path.read_bytes() for path in (data / "segments").iterdir()} == segments
    # From here on they are served. What was being erased is erased, each for itself.
    wanted = answers_of(first, open_local, key)
    stores = [(first, open_local), moved["both"], moved["directory"]]
    for data, places in stores[1:]:
        found = answers_of(data, places, key)
        for path in wanted:
            if path != "/v1/erasures":
                assert found[path] == wanted[path], (data, path)
    said = []
    for data, places in stores:
        with served(data, places) as client:
            client.headers.update(headers_of(key))
            # An answer of before, and ids that nobody was given yet.
            again, new = push(client, big_records(40), key="once"), push(client, big_records(3, first=900))
            said.append((again, new, put_buffer(client, buffer="new") | {"created_at": 0}))
        assert verify(data, places).sound
    assert said[0] == said[1] == said[2]


def test_a_store_of_an_earlier_version_moves_once_a_start_has_brought_it_up_to_date(
    tmp_path: Path, new_places: NewPlaces
) -> None:
    """Its segments are as that version wrote them."""
    shutil.copytree(GOLDEN / "schema1", tmp_path / "old")
    places = new_places("objects")
    with pytest.raises(StorageError, match="start the service on it once"):
        migrate(tmp_path / "old", open_local, tmp_path / "new", places)
    with Store(tmp_path / "old") as store:
        names = [buffer.name for buffer in store.buffers()]
        held = [bytes(store.buffer(name).query_encoded(Query(limit=1000))[0]) for name in names]
    assert migrate(tmp_path / "old", open_local, tmp_path / "new", places).complete
    with Store(tmp_path / "new", open_ports=places) as store:
        assert [bytes(store.buffer(name).query_encoded(Query(limit=1000))[0]) for name in names] == held


# Cut short


class KilledError(BaseException):
    """The process ends here."""


STEPS: tuple[tuple[Any, str], ...] = (
    (DatabaseToFill, "claim"),
    (DatabaseToFill, "fill"),
    (FileToFill, "fill"),
    (BucketToFill, "put"),
    (BucketToFill, "remove"),
    (DirectoryToFill, "put"),
    (Journal, "begin"),
    (Journal, "about_to_put"),
    (Journal, "has_put"),
    (Journal, "remove"),
    (Marker, "note"),
    (module, "_claim_bucket"),
    (module, "settle_copy"),
    (module, "as_one_file"),
    (module, "_replace"),
)
"""What changes something where a store goes to."""


class Cut:
    """Ends a migration before or behind its nth step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = 0
        self.taken = 0
        self._lock = threading.Lock()
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def cut(*given: Any, **named: Any) -> Any:
            self._count()
            found = step(*given, **named)
            self._count()
            return found

        return cut

    def _count(self) -> None:
        with self._lock:
            self.taken += 1
            self.left -= 1
            if self.left <= 0:
                # And nothing comes behind it.
                raise KilledError


@pytest.mark.parametrize("pair", ["both", "directory"])
def test_what_was_cut_short_is_no_store_and_goes_on(
    tmp_path: Path, new_places: NewPlaces, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    data = tmp_path / "store"
    filled(data).release()
    before = rows_of(data, open_local, tmp_path)
    cut = Cut(monkeypatch)
    cut.left = np.inf
    migrate(data, open_local, tmp_path / "whole", new_places(pair))
    number, chance = cut.taken, random.Random(pair)
    for at in sorted({1, 2, number - 1, number, *chance.sample(range(3, number - 1), 3)}):
        target, places = tmp_path / f"cut-{at}", new_places(pair)
        tries = 0
        for left in (at, *chance.sample(range(1, number), 1), np.inf):
            cut.left, tries = left, tries + 1
            try:
                migrate(data, open_local, target, places)
            except KilledError:
                cut.left = np.inf
                # Not taken for a store: refused, or all of it is there.
                if is_there(target, places):
                    assert rows_of(target, places, tmp_path)["store"] == before["store"], at
                continue
            except StorageError:
                # It had ended, and only said so too late.
                assert is_there(target, places)
            break
        assert tries > 1
        report = verify(target, places)
        assert report.sound, (at, report.problems)
        rows = rows_of(target, places, tmp_path)
        assert {name for name in before if rows[name] != before[name]} <= {"open_bodies", "intents"}, at
        with Store(target, OPTIONS, open_ports=places) as store:
            expect_loaded_state(store.buffer("b"))
        assert not (target / "migration").exists()


def is_there(target: Path, places: Places) -> bool:
    """Whether a store can be opened where one was to be moved to; nothing is made there otherwise."""
    before = {path.name for path in target.iterdir()} if target.exists() else set()
    if not before - {"lock"}:
        # It has not begun.
        return False
    try:
        verify(target, places)
    except StorageError:
        looks: list[Callable[[Path], object]] = [partial(verify, places=places), partial(Store, open_ports=places)]
        for look in looks:
            with pytest.raises(StorageError, match="did not end: run `memory-service migrate` again"):
                look(target)
        return False
    return True


def test_a_migration_that_is_killed_again_and_again_ends(
    tmp_path: Path, new_places: NewPlaces, object_store: ObjectStore
) -> None:
    """A process of its own, killed when it has put so many segments."""
    data, target, places = tmp_path / "store", tmp_path / "new", new_places("both")
    filled(data, records=90).release()
    before = rows_of(data, open_local, tmp_path)
    arguments = [sys.executable, "-m", "memory_service", "migrate", str(data), str(target)]
    journal = target / "migration" / "put"
    for number in (1, 4):
        process = subprocess.Popen([*arguments, *options_of(places, to="to-")], stdout=subprocess.DEVNULL)
        wait_until(lambda wanted=number: journal.exists() and journal.read_text().count("=") >= wanted, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_there(target, places)
    done = subprocess.run([*arguments, *options_of(places, to="to-")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{target}: 7 segments" in done.stdout
    assert verify(target, places).sound
    rows = rows_of(target, places, tmp_path)
    assert {name for name in before if rows[name] != before[name]} == {"open_bodies", "intents"}
    kept = {key for key in object_store.keys(str(places.segments)) if key != "store.json"}
    assert len(kept) == 6


def test_what_changes_between_tries_is_the_new_stores(
    tmp_path: Path, new_places: NewPlaces, object_store: ObjectStore
) -> None:
    """Also segments that are not there any more; nothing of them is left."""
    data, target, places = tmp_path / "store", tmp_path / "new", new_places("objects")
    store = filled(data)
    done = migrate(data, open_local, target, places)
    assert not done.complete
    assert not is_there(target, places)
    # Readers and those who push go on.
    store.buffer("b").drop_snapshot("s")
    store.buffer("b").delete(store.buffer("b").state.columns["exemplar_id"].tolist()[:25])
    store.buffer("b").push(encode_batch(big_records(30, first=900)))
    wanted = drawn(store)
    store.release()
    done = migrate(data, open_local, target, places)
    assert done.complete
    with Store(target, OPTIONS, open_ports=places) as store:
        assert drawn(store) == wanted
        stems = {state.stem for state in store.buffer("b").state.segments.values() if state.sealed}
        expect_loaded_state(store.buffer("b"))
    assert object_store.keys(str(places.segments)) == {"store.json", *(f"segments/{s}.zarr.zip" for s in stems)}


def test_the_command_while_a_service_has_the_store(tmp_path: Path, new_places: NewPlaces) -> None:
    data, target, places = tmp_path / "store", tmp_path / "new", new_places("database")
    store = filled(data)
    to = options_of(places, to="to-")
    status, said, _ = command("migrate", str(data), str(target), *to)
    assert (status, "cannot be served yet" in said) == (1, True)
    at = ("--data", str(target))
    for refused in (("export", "b", str(tmp_path / "b.zip"), *at), ("keys", "make", *at), ("keys", "list", *at)):
        status, _, said = command(*refused)
        assert (status, f"a migration into {target} did not end" in said) == (2, True)
    # From a database, too: who holds that holds the store.
    status, said, _ = command("migrate", str(data), str(target), *to, "--while-served")
    assert (status, "cannot be served yet" in said) == (0, False)
    wanted = drawn(store)
    store.release()
    with Store(target, OPTIONS, open_ports=places) as moved:
        assert drawn(moved) == wanted
        here = options_of(places, to="from-")
        status, said, _ = command("migrate", str(target), str(tmp_path / "back"), *here)
        assert (status, "cannot be served yet" in said) == (1, True)
    status, _, _ = command("migrate", str(target), str(tmp_path / "back"), *here)
    assert status == 0
    with Store(tmp_path / "back", OPTIONS) as back:
        assert drawn(back) == wanted


# What is refused


def test_places_where_something_is_are_refused(
    tmp_path: Path, new_places: NewPlaces, object_store: ObjectStore
) -> None:
    data, both = tmp_path / "store", new_places("both")
    filled(data).release()
    before = {path.name for path in (data / "segments").iterdir()}
    inside = Places(segments=(data / "objects").as_uri())
    places_within = ((data, both), (data / "segments" / "new", both), (tmp_path / "new", inside))
    for to_data, to_places in places_within:
        with pytest.raises(FormatError, match="another place than its own"):
            migrate(data, open_local, to_data, to_places)
    moved = Places(segments=str(both.segments))
    with pytest.raises(FormatError, match=r"s3://bucket/\d+/below is in s3://bucket/\d+$"):
        migrate(data, moved, tmp_path / "new", Places(segments=f"{both.segments}/below"))
    assert not (tmp_path / "new").exists()
    assert {path.name for path in (data / "segments").iterdir()} == before
    with pytest.raises(StorageError, match="there is no store in"):
        migrate(tmp_path / "nothing", open_local, tmp_path / "new", both)
    (tmp_path / "file").touch()
    for below in ("", "below"):
        with pytest.raises(StorageError, match=r"cannot make .*/file(/below)?: Not a directory"):
            migrate(data, open_local, tmp_path / "file" / below, open_local)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "readme").touch()
    with pytest.raises(StorageError, match="used is not empty, readme is in it"):
        migrate(data, open_local, tmp_path / "used", both)
    object_store.put(str(both.segments), "readme", b"")
    with pytest.raises(StorageError, match=r"s3://bucket/\d+ is not empty, readme is in it"):
        migrate(data, open_local, tmp_path / "new", both)
    object_store.delete(str(both.segments), "readme")
    other = Store(tmp_path / "other", open_ports=Places(both.index))
    with other, pytest.raises(StorageError, match="is held by another process"):
        migrate(data, open_local, tmp_path / "new", both)
    with pytest.raises(StorageError, match=r"database postgres at .* is not empty"):
        migrate(data, open_local, tmp_path / "new", both)
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {"lock"}
    assert object_store.keys(str(both.segments)) == set()
    # Of another store, which was cut short.
    free = new_places("both")
    served = filled(tmp_path / "second")
    assert not migrate(tmp_path / "second", open_local, tmp_path / "half", free).complete
    with pytest.raises(StorageError, match=r"is of a migration from .*second"):
        migrate(data, open_local, tmp_path / "half", free)
    with pytest.raises(StorageError, match="is not empty"):
        migrate(data, open_local, tmp_path / "new", free)
    with pytest.raises(StorageError, match="a migration of another store into database"):
        migrate(data, open_local, tmp_path / "new", Places(free.index))
    with pytest.raises(StorageError, match=r"a migration into database .* did not end"):
        Store(tmp_path / "third", OPTIONS, open_ports=free)
    served.release()


def test_what_is_damaged_is_not_taken_for_whole(
    tmp_path: Path, new_places: NewPlaces, object_store: ObjectStore
) -> None:
    data, target, places = tmp_path / "store", tmp_path / "new", new_places("objects")
    store = filled(data)
    assert not migrate(data, open_local, target, places).complete
    store.release()
    # On its way, or where it lies.
    key = min(key for key in object_store.keys(str(places.segments)) if key.startswith("segments/"))
    sound = object_store.get(str(places.segments), key)
    object_store.put(str(places.segments), key, sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    with pytest.raises(StorageError, match="is not sound, and not made: 1 problems, first damaged_record in"):
        migrate(data, open_local, target, places)
    assert not is_there(target, places)
    # Put anew.
    assert migrate(data, open_local, target, places).complete
    assert object_store.get(str(places.segments), key) == sound
    # Where it comes from.
    path = min((data / "segments").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="the index says"):
        migrate(data, open_local, tmp_path / "other", open_local)
    path.unlink()
    with pytest.raises(StorageError, match="is missing"):
        migrate(data, open_local, tmp_path / "other", open_local)
    assert not is_there(tmp_path / "other", open_local)
