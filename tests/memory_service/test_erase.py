"""Erasing: after the answer no file of the store holds a record's bytes, whatever held them before."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from memory_format import BusyError, NotFoundError, Record, StorageError, encode_batch
from memory_service.store import Buffer, Store, erasures, receipts
from memory_service.store.admin.verify import verify
from memory_service.store.index.sqlite import SqliteIndex
from memory_service.store.keys import KeyFile
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments import appending, files
from memory_service.store.segments.layout import BODY_AT
from memory_service.store.segments.readers import LeaseEndedError
from memory_service.testing import ServiceProcess, expect_loaded_state
from tests.memory_service import disk
from tests.memory_service.conftest import running
from tests.memory_service.helpers import all_records, assert_problem, make_exemplar, push, put_buffer

pytestmark = pytest.mark.timeout(120)
URL = "/v1/buffers/b/exemplars"


def exemplar(rank: int, class_id: int = 0, **fields: Any) -> Record:
    """Such that no other has any of its tokens."""
    tokens = [0x4000 + 16 * rank + place for place in range(8)]
    note = hashlib.sha256(str(rank).encode()).hexdigest()
    more = {"seed": rank, "num_tokens": 8, "token_ids": tokens, "user_json": {"pad": "x" * 200, "note": note}, **fields}
    return make_exemplar(class_id, rank, **more)


def traces(data: Path, records: list[Record], *, quarantine: bool = True) -> set[str]:
    """Files in which there is anything of these records: the payload, the tokens, the user's text, the header."""
    found = set()
    for path in (path for path in data.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for record in records:
            body, tokens = record.body, record.token_ids_bytes
            assert len(tokens) == 16
            assert tokens in body
            pieces = (body, body[:48], body[-48:], tokens, record.crc32.to_bytes(4, "little"))
            if any(piece in content for piece in pieces):
                found.add(str(path.relative_to(data)))
    return found


@contextmanager
def small_segments() -> Iterator[Options]:
    """Some sealed, some open."""
    with mock.patch.multiple(appending, SMALLEST_SEALED=1):
        yield Options(segment_bytes=4000)


@contextmanager
def store_of(data: Path, count: int = 20, **settings: Any) -> Iterator[tuple[Store, Buffer, list[Record]]]:
    with small_segments() as options, Store(data, options) as store:
        limits = {"budget_bytes": 60_000, "disk_limit_bytes": 2_000_000, **settings}
        buffer, _ = store.create_buffer("b", **limits)
        records = [exemplar(rank, rank % 3, learner_id=f"l{rank % 2}") for rank in range(count)]
        buffer.push(encode_batch(records))
        yield store, buffer, records


def ids_of(buffer: Buffer, snapshot: str | None = None) -> list[int]:
    found, _, _ = buffer.query(Query(limit=1000), snapshot=snapshot)
    return [info.exemplar_id for info in found]


def check(store: Store, data: Path) -> None:
    """Memory, rows and files agree."""
    assert not disk.orphans(data)
    for name, stored in disk.read_store(data).items():
        expect_loaded_state(store.buffer(name))
        assert all(record.is_whole for record in stored.live.values())
    assert verify(data).sound


def test_a_record_is_gone_from_the_buffer_its_snapshots_its_forks_and_every_file(data: Path) -> None:
    with store_of(data) as (store, buffer, records):
        buffer.take_snapshot("before")
        store.fork("b", "fork")
        store.fork("fork", "fork-of-it")
        buffer.push(encode_batch([exemplar(rank) for rank in range(20, 24)]))
        store.fork("b", "younger", snapshot="before")
        gone = [records[0], records[19]]
        assert len(traces(data, gone)) > 2
        for exemplar_id in (1, 20):
            answer = store.erasures.erase(buffer, [exemplar_id])
            assert answer.deleted == (exemplar_id,)
            assert answer.receipt is not None
            assert answer.receipt.exemplar_ids == (exemplar_id,)
            assert [lost.buffer for lost in answer.receipt.buffers] == ["b", "fork", "fork-of-it", "younger"]
            assert answer.receipt.buffers[0].snapshots == {"before": 1}
            assert answer.receipt.elsewhere == ()
            assert answer.receipt.files
            assert not any((data / name).exists() for name in answer.receipt.files)
        assert traces(data, gone) == set()
        assert ids_of(buffer) == [*range(2, 20), 21, 22, 23, 24]
        for name in ("fork", "fork-of-it", "younger"):
            assert ids_of(store.buffer(name)) == list(range(2, 20))
        assert ids_of(buffer, "before") == list(range(2, 20))
        before = buffer.snapshot("before")
        assert (before.num_records, before.erased) == (18, 2)
        assert before.bytes_used == sum(record.charge for record in records[1:19])
        check(store, data)
    with small_segments() as options, Store(data, options) as store:
        assert ids_of(store.buffer("b"), "before") == list(range(2, 20))
        assert store.buffer("b").snapshot("before").erased == 2
        assert not traces(data, gone)


def test_what_is_dead_already_is_erased_too(data: Path) -> None:
    with store_of(data) as (store, buffer, records):
        buffer.take_snapshot("s")
        buffer.delete([2, 3])
        buffer.drop_snapshot("s")
        buffer.take_snapshot("t")
        buffer.delete([5])
        version = buffer.state.version
        # In a file alone; in a snapshot alone.
        for exemplar_id, snapshots in ((2, {}), (5, {"t": 1})):
            assert traces(data, [records[exemplar_id - 1]])
            receipt = store.erasures.erase(buffer, [exemplar_id]).receipt
            assert receipt is not None
            assert [lost.snapshots for lost in receipt.buffers] == [snapshots] * bool(snapshots)
            assert not traces(data, [records[exemplar_id - 1]])
        assert buffer.state.version == version
        assert ids_of(buffer, "t") == [id_ for id_ in range(1, 21) if id_ not in (2, 3, 5)]
        check(store, data)
        with pytest.raises(NotFoundError, match="no exemplar 5"):
            store.erasures.erase(buffer, [5])


def person(rank: int) -> str:
    """A value of a field, as nothing else in a store is."""
    return hashlib.sha256(b"person %d" % (rank % 2)).hexdigest()


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ({"class_id": 1}, lambda rank: rank % 3 == 1),
        ({"learner_id": "l1"}, lambda rank: rank % 2),
        ({"field": f"person:{person(1)}"}, lambda rank: rank % 2),
        ({"field": [f"person:{person(1)}", "third:1"]}, lambda rank: rank % 6 == 1),
    ],
)
def test_all_that_match_are_erased_over_http(data: Path, where: dict[str, Any], matches: Callable[[int], bool]) -> None:
    with small_segments(), running(data, segment_bytes=4000) as client:
        put_buffer(client, 60_000, disk_limit_bytes=2_000_000)
        records = [
            exemplar(rank, rank % 3, learner_id=f"l{rank % 2}", fields={"person": person(rank), "third": rank % 3})
            for rank in range(20)
        ]
        push(client, records, key="once")
        client.delete(f"{URL}/14")
        client.put("/v1/buffers/b/snapshots/s")
        client.delete(f"{URL}/2")
        client.post("/v1/buffers/b/forks", json={"name": "f"})
        gone = [record for record in records if matches(record.rank)]
        answer = client.delete(URL, params={**where, "erase": "true"}).json()
        # Numbers 2 and 14 are of all: a snapshot has the one, a file alone the other.
        assert answer["deleted"] == [record.rank + 1 for record in gone]
        assert not traces(data, gone)
        if len(gone) == 10:
            assert not any(person(1).encode() in path.read_bytes() for path in data.rglob("*") if path.is_file())
        assert client.get("/v1/buffers/b/snapshots/s").json()["erased"] == len(gone) - 1
        for name in ("b", "f"):
            found = {record.body for record in all_records(client, buffer=name)}
            assert found == {r.body for r in records if r not in gone}
        # What a key was answered names ids, and nothing of what they were.
        assert push(client, records, key="once")["exemplar_ids"] == list(range(1, 21))
        receipt = answer["receipt"]
        assert [lost["buffer"] for lost in receipt["buffers"]] == ["b", "f"]
        said = json.dumps(
            {name: value for name, value in receipt.items() if name != "checksum"},
            sort_keys=True,
            separators=(",", ":"),
        )
        assert receipt["checksum"] == hashlib.sha256(said.encode()).hexdigest()
        (kept,) = client.get("/v1/erasures?buffer=b").json()["receipts"]
        assert (kept["buffers"], kept["receipt"]) == (["b", "f"], receipt)
        again = client.delete(URL, params={**where, "erase": "true"}).json()
        assert (again["deleted"], again["receipt"]) == ([], None)
        assert_problem(client.delete(f"{URL}/2", params={"erase": "true"}), "unknown_exemplar")


def test_a_fork_does_not_erase_from_what_it_was_made_of(data: Path) -> None:
    with store_of(data) as (store, buffer, records):
        buffer.push(encode_batch([records[0]]))
        store.fork("b", "fork")
        fork = store.buffer("fork")
        buffer.delete([4])
        receipt = store.erasures.erase(fork, [1, 4]).receipt
        assert receipt is not None
        assert ids_of(fork) == [2, 3, *range(5, 22)]
        assert 1 in ids_of(buffer)
        # Pushed once more, or of the source: others hold the same bytes, and the receipt says who.
        named = [(held.buffer, held.exemplar_id) for held in receipt.elsewhere]
        assert named == [("b", 1), ("b", 21), ("fork", 21)]
        # What nobody holds is gone, also where the source's garbage had it.
        assert not traces(data, [records[3]])
        check(store, data)


def test_what_was_put_aside_is_overwritten(data: Path) -> None:
    with store_of(data) as (store, buffer, records):
        aside = data / "quarantine"
        aside.mkdir()
        for path in sorted((data / "segments").iterdir()):
            shutil.copy(path, aside)
        (aside / "half").write_bytes(b"x" * 99 + records[0].body + b"y" * 99)
        sizes = {path.name: path.stat().st_size for path in aside.iterdir()}
        receipt = store.erasures.erase(buffer, [1, 20]).receipt
        assert receipt is not None
        overwritten = [name for name in receipt.files if name.startswith("quarantine/")]
        assert len(overwritten) == 3
        assert {path.name: path.stat().st_size for path in aside.iterdir()} == sizes
        for record in (records[0], records[19]):
            assert not any(record.body[:48] in path.read_bytes() for path in aside.iterdir())
            assert not any(record.token_ids_bytes in path.read_bytes() for path in aside.iterdir())
        assert any(records[1].body in path.read_bytes() for path in aside.iterdir())


ALL = SampleRequest(batch_size=20, replace=False)


def test_who_reads_it_is_cut_short_before_the_answer(data: Path) -> None:
    with store_of(data) as (store, buffer, _):
        drawn, export = buffer.draw(ALL), buffer.export()
        next(export)
        with mock.patch.object(erasures, "WAIT_SECONDS", 0):
            store.erasures.erase(buffer, [1])
        with pytest.raises(LeaseEndedError):
            drawn.next_piece()
        with pytest.raises(LeaseEndedError):
            list(export)
        assert len(ids_of(buffer)) == 19


def test_files_that_were_lent_and_not_given_back_are_said(data: Path) -> None:
    with store_of(data) as (store, buffer, _):
        lent = buffer.lend(ALL)
        receipt = store.erasures.erase(buffer, [1]).receipt
        assert receipt is not None
        assert receipt.unreturned == 1
        assert lent.lease.ended


def test_what_cannot_be_waited_for_leaves_it_to_be_done(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "WAIT_SECONDS", 0.01)
    with store_of(data) as (store, buffer, records):
        store.fork("b", "fork")
        export = store.buffer("fork").export()
        next(export)
        store.delete_buffer("fork")
        archive = store.archive()
        with pytest.raises(BusyError, match="backup"):
            store.erasures.erase(buffer, [1])
        assert 1 in ids_of(buffer)
        archive.close()
        # Unlinked, and still read: nobody can read the record any more, and it is not said to be gone.
        with pytest.raises(BusyError, match="still reads it"):
            store.erasures.erase(buffer, [1])
        assert 1 not in ids_of(buffer)
        export.close()
        receipt = store.erasures.erase(buffer, [1]).receipt
        assert receipt is not None
        assert receipt.exemplar_ids == (1,)
        assert not traces(data, records[:1])


def test_a_damaged_neighbour_keeps_it_from_being_done(data: Path) -> None:
    with small_segments(), running(data, segment_bytes=4000) as client:
        put_buffer(client, 60_000, disk_limit_bytes=2_000_000)
        push(client, [exemplar(rank) for rank in range(3)])
        (path,) = (data / "segments").iterdir()
        content = path.read_bytes()
        path.write_bytes(content[:BODY_AT] + bytes([content[BODY_AT] ^ 1]) + content[BODY_AT + 1 :])
        assert_problem(client.delete(f"{URL}/2", params={"erase": "true"}), "corrupt_record")
        assert [id_ for id_ in (1, 2, 3) if client.get(URL, params={"limit": 3})] == [1, 2, 3]
        path.write_bytes(content)
    # A start goes on with it.
    with small_segments(), running(data, segment_bytes=4000) as client:
        assert not traces(data, [exemplar(1)])
        assert_problem(client.delete(f"{URL}/2", params={"erase": "true"}), "unknown_exemplar")
        assert len(all_records(client)) == 2


def test_a_key_erases_its_learners_records_in_the_buffers_that_it_is_for(data: Path) -> None:
    keys = KeyFile(data)
    with small_segments(), running(data, segment_bytes=4000) as client:
        put_buffer(client, 60_000, disk_limit_bytes=2_000_000)
        records = [exemplar(rank, learner_id=f"l{rank % 2}") for rank in range(8)]
        push(client, records)
        put_buffer(client, buffer="secret")
        push(client, records[:1], buffer="secret")
        given = [keys.make("write", time.time(), buffers=["b", "b-*"], learner_id=of)[1] for of in ("l0", None)]
        mine, anybodys = ({"Authorization": f"Bearer {key}"} for key in given)
        erase = {"erase": "true"}
        assert_problem(client.delete(f"{URL}/2", params=erase, headers=mine), "forbidden")
        client.delete(f"{URL}/2", headers=anybodys)
        # Nor what nobody holds.
        assert_problem(client.delete(f"{URL}/2", params=erase, headers=mine), "forbidden")
        answer = client.delete(f"{URL}/1", params=erase, headers=mine)
        assert answer.status_code == 200, answer.text
        # It is not for the other buffer, and learns nothing of it.
        assert answer.json()["receipt"]["elsewhere"] == []
        admin = {"Authorization": f"Bearer {keys.make('admin', time.time())[1]}"}
        assert client.post("/v1/buffers/b/forks", json={"name": "theirs"}, headers=admin).status_code == 201
        assert_problem(client.delete(f"{URL}/3", params=erase, headers=mine), "forbidden")
        assert client.delete(f"{URL}/3", params=erase, headers=admin).status_code == 200
        # Of receipts, too, it sees those that name no other buffer.
        seen = {
            name: [
                kept["receipt"]["exemplar_ids"] for kept in client.get("/v1/erasures", headers=key).json()["receipts"]
            ]
            for name, key in (("mine", mine), ("admin", admin))
        }
        assert seen == {"mine": [[1]], "admin": [[3], [1]]}
        assert not traces(data, [records[2]])
        assert traces(data, [records[4]])


def test_a_flag_is_needed(client: httpx.Client) -> None:
    put_buffer(client)
    push(client, [exemplar(1)])
    assert_problem(client.delete(f"{URL}/1", params={"erase": "yes"}), "invalid_request")
    assert client.delete(f"{URL}/1", params={"erase": "false"}).json()["receipt"] is None


def test_many_ids_are_one_erasure(data: Path) -> None:
    with small_segments(), running(data, segment_bytes=4000) as client:
        put_buffer(client, 60_000, disk_limit_bytes=2_000_000)
        records = [exemplar(rank) for rank in range(12)]
        push(client, records)
        client.delete(f"{URL}/3")
        with mock.patch.object(SqliteIndex, "scrub", autospec=True, side_effect=SqliteIndex.scrub) as scrub:
            answer = client.delete(URL, params={"exemplar_id": [1, 3, 5, 7, 99], "erase": "true"}).json()
            assert scrub.call_count == 1
        assert answer["deleted"] == answer["receipt"]["exemplar_ids"] == [1, 3, 5, 7]
        assert not traces(data, [records[number - 1] for number in (1, 3, 5, 7)])
        again = client.delete(URL, params={"exemplar_id": [1, 3], "erase": "true"}).json()
        assert (again["deleted"], again["receipt"]) == ([], None)


def test_receipts_are_kept_page_by_page_and_not_for_ever(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST_KEPT", 3)
    with small_segments(), running(data, segment_bytes=4000) as client:
        put_buffer(client, 60_000, disk_limit_bytes=2_000_000)
        push(client, [exemplar(rank) for rank in range(6)])
        given = [client.delete(f"{URL}/{id_}", params={"erase": "true"}).json()["receipt"] for id_ in (1, 2, 3, 4)]
        # Of a buffer that is gone, too.
        client.delete("/v1/buffers/b")
        found, cursor = [], None
        while True:
            page = client.get("/v1/erasures", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
            found += [kept["receipt"] for kept in page["receipts"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == given[:0:-1]
        assert client.get("/v1/erasures?buffer=c").json()["receipts"] == []
        assert_problem(client.get("/v1/erasures?cursor=x"), "invalid_cursor")
        (name, *_) = sorted(path.name for path in (data / "receipts").iterdir())
        (data / "receipts" / name).write_bytes(b"{}")
        page = client.get("/v1/erasures").json()
        assert ([kept["receipt"] for kept in page["receipts"]], page["damaged"]) == (given[:1:-1], [name[:-5]])
        # Of whichever buffer it was.
        assert client.get("/v1/erasures?buffer=c").json()["damaged"] == [name[:-5]]


def test_what_cannot_be_noted_is_not_answered(data: Path) -> None:
    with store_of(data) as (store, buffer, records):
        with (
            mock.patch.object(files, "replacing", side_effect=OSError(28, "No space left on device")),
            pytest.raises(StorageError, match="disk is full"),
        ):
            store.erasures.erase(buffer, [1])
        assert not (data / "receipts").exists() or not list((data / "receipts").iterdir())
        assert store.erasures.erase(buffer, [1]).receipt is not None
        assert not traces(data, records[:1])


class Killed:
    """What a client knows of a server that is killed while it erases, and started again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.held: dict[int, Record] = {}
        self.wanted: list[int] = []
        """Ids that were to be erased when it was killed."""
        self.num_pushed = 0
        self.num_finished = 0

    def fill(self, client: httpx.Client) -> None:
        """Push records, and let a snapshot and a fork hold them, too."""
        records = [exemplar(self.num_pushed + rank) for rank in range(100)]
        self.num_pushed += len(records)
        self.held |= dict(zip(push(client, records)["exemplar_ids"], records, strict=True))
        for response in (
            client.delete("/v1/buffers/f"),
            client.put(f"/v1/buffers/b/snapshots/s{self.num_pushed}"),
            client.post("/v1/buffers/b/forks", json={"name": "f"}),
        ):
            assert response.status_code in (201, 204) or response.json()["code"] == "unknown_buffer", response.text

    def erase(self, client: httpx.Client) -> None:
        with suppress(httpx.TransportError):
            client.delete(URL, params={"exemplar_id": self.wanted, "erase": "true"})

    def look(self, client: httpx.Client) -> None:
        """What was noted is gone from every file, and its receipt can be had; what was not is there, whole."""
        found = {record.rank: record.body for record in all_records(client)}
        gone = [id_ for id_ in self.wanted if self.held[id_].rank not in found]
        assert gone in ([], self.wanted)
        kept = client.get("/v1/erasures", params={"buffer": "b"}).json()["receipts"]
        assert {id_ for each in kept for id_ in each["receipt"]["exemplar_ids"]}.isdisjoint(self.held.keys() - {*gone})
        assert all(any(id_ in each["receipt"]["exemplar_ids"] for each in kept) for id_ in gone)
        lost = [self.held.pop(id_) for id_ in gone]
        assert not traces(self.data, lost)
        assert found == {record.rank: record.body for record in self.held.values()}
        self.num_finished += bool(gone)


@pytest.mark.slow
def test_a_server_that_is_killed_amid_an_erasure_finishes_it(data: Path) -> None:
    chance = random.Random(int(os.environ.get("KILL_SEED", "0")))
    killed, seconds = Killed(data), 0.0
    # As many ranks as have tokens of their own.
    rounds = min(int(os.environ.get("KILL_ROUNDS", "3")), 25)
    for number in range(rounds + 2):
        with (
            ServiceProcess(data, environment={"MEMORY_SERVICE_SEGMENT_BYTES": "20000"}) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            if not number:
                put_buffer(client, 4_000_000, disk_limit_bytes=16_000_000)
            killed.look(client)
            if number > rounds:
                break
            killed.fill(client)
            killed.wanted = sorted(chance.sample(sorted(killed.held), 20))
            began = time.monotonic()
            eraser = threading.Thread(target=killed.erase, args=(client,))
            eraser.start()
            if number:
                time.sleep(chance.uniform(0, seconds))
                server.kill()
            eraser.join()
            # How long it takes is when it can be killed.
            seconds = seconds or time.monotonic() - began
    assert killed.num_finished > 1
    assert verify(data).sound
