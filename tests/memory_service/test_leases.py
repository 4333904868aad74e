"""Answers that go at their client's pace: what they keep on the disk counts, and goes when its room is needed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from memory_format import BudgetError, decode_batch, encode_batch
from memory_service.http.streaming import DrawnResponse, ExportResponse
from memory_service.store import Buffer, Store
from memory_service.store.drawn import Drawn
from memory_service.store.pure.change import Change
from memory_service.store.pure.model import Options
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.readers import HeldLease, LeaseEndedError
from tests.descriptors import open_links
from tests.memory_service import disk
from tests.memory_service.helpers import (
    Server,
    assert_consistent,
    make_exemplar,
    push,
    put_buffer,
    stats_of,
    wait_until,
)

SIZE = make_exemplar(seed=1, pad=50_000).charge
ALL = SampleRequest(batch_size=60, replace=False)


def batch(first: int, count: int = 20) -> list[Any]:
    return [make_exemplar(0, rank, seed=1, pad=50_000) for rank in range(first, first + count)]


def push_all(buffer: Buffer, firsts: Iterable[int]) -> None:
    for first in firsts:
        buffer.push(encode_batch(batch(first, 10)))


@contextmanager
def full_buffer(data: Path, *, limit: float) -> Iterator[tuple[Store, Buffer]]:
    """A buffer that holds its whole budget, and keeps the youngest."""
    with Store(data, Options(segment_bytes=300_000)) as store:
        buffer, _ = store.create_buffer(
            "b", budget_bytes=60 * SIZE, disk_limit_bytes=int(limit * 60 * SIZE), eviction="fifo"
        )
        buffer.push(encode_batch(batch(0, 60)))
        yield store, buffer


def test_what_is_removed_while_it_is_read_counts_until_its_reader_is_done(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        with buffer.draw(ALL) as drawn:
            drawn.next_piece()
            before = buffer.stats()
            assert before.held_bytes == 0
            buffer.push(encode_batch(batch(60, 60)))
            during = buffer.stats()
            assert during.held_bytes >= 55 * SIZE
            assert during.disk_bytes == disk.segment_bytes(data) + during.index_bytes + during.held_bytes
            while drawn.next_piece():
                pass
            # All of it is read; however slowly it is taken, it needs no file.
            assert buffer.stats().held_bytes == 0
        assert [record.rank for record in decode_batch(bytes(drawn.stream))] != []
        assert buffer.stats().disk_bytes < during.disk_bytes - 55 * SIZE


def lease_of(drawn: Drawn) -> HeldLease:
    assert drawn.lease is not None
    return drawn.lease


def test_a_push_takes_the_room_of_the_reader_that_is_idle_for_longest(data: Path) -> None:
    with full_buffer(data, limit=4.2) as (_, buffer), ExitStack() as stack:
        readers: list[Drawn] = []
        for first in (60, 120, 180):
            assert not any(lease_of(drawn).ended for drawn in readers)
            readers.append(stack.enter_context(buffer.draw(ALL)))
            readers[-1].next_piece()
            for part in (0, 20, 40):
                buffer.push(encode_batch(batch(first + part)))
                figures = buffer.stats()
                assert figures.disk_bytes <= figures.disk_limit_bytes
            # The second one is slow, and takes something now and then.
            lease_of(readers[min(1, len(readers) - 1)]).progress()
        assert [lease_of(drawn).ended for drawn in readers] == [True, False, False]
        with pytest.raises(LeaseEndedError, match="ask again"):
            readers[0].next_piece()
        while readers[1].next_piece():
            pass
        assert {record.rank for record in decode_batch(bytes(readers[1].stream))} == set(range(60, 120))


def test_an_export_that_stalls_lets_pushes_go_on(data: Path) -> None:
    with full_buffer(data, limit=1.5) as (_, buffer):
        pieces = buffer.export()
        next(pieces)
        for first in range(60, 300, 10):
            buffer.push(encode_batch(batch(first, 10)))
            figures = buffer.stats()
            assert figures.disk_bytes <= figures.disk_limit_bytes
        with pytest.raises(LeaseEndedError, match="ask again"):
            list(pieces)
        assert not buffer.contents.leases
        assert buffer.stats().pinned_bytes == 0


def test_snapshots_are_not_blamed_for_what_answers_hold_and_do_not_go_for_it(data: Path) -> None:
    with full_buffer(data, limit=1.5) as (_, buffer):
        buffer.take_snapshot("s")
        export = buffer.export()
        next(export)
        with pytest.raises(BudgetError) as caught:
            push_all(buffer, range(60, 600, 10))
        # What the export shows, the snapshot does too: to end it would free nothing.
        assert caught.value.details["pinned_bytes"] > 0
        list(export)
        buffer.drop_snapshot("s")
        export = buffer.export()
        next(export)
        push_all(buffer, range(600, 800, 10))


def test_a_smaller_disk_limit_takes_the_room_of_readers(data: Path) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        export, drawn = buffer.export(), buffer.draw(ALL)
        next(export)
        drawn.next_piece()
        buffer.push(encode_batch(batch(60, 60)))
        assert buffer.stats().disk_bytes > 80 * SIZE
        evicted = buffer.configure(
            lambda config: replace(
                config, budget=replace(config.budget, budget_bytes=20 * SIZE), given_disk_limit=30 * SIZE
            )
        )
        assert len(evicted) == 40
        assert buffer.stats().disk_bytes <= 30 * SIZE
        with pytest.raises(LeaseEndedError):
            list(export)
        with drawn, pytest.raises(LeaseEndedError):
            drawn.next_piece()


def test_who_begins_to_read_as_a_disk_limit_shrinks_does_not_keep_what_goes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_buffer(data, limit=4) as (_, buffer):
        fit = buffer._commits.fit
        drawn: list[Drawn] = []

        def fit_and_draw(change: Change) -> Change:
            fitted = fit(change)
            if not drawn:
                drawn.append(buffer.draw(ALL))
                drawn[0].next_piece()
            return fitted

        monkeypatch.setattr(buffer._commits, "fit", fit_and_draw)
        limit = 30 * SIZE
        buffer.configure(
            lambda config: replace(
                config, budget=replace(config.budget, budget_bytes=20 * SIZE), given_disk_limit=limit
            )
        )
        assert lease_of(drawn[0]).ended
        assert buffer.stats().disk_bytes <= limit
        assert len(decode_batch(bytes(buffer.sample(replace(ALL, batch_size=20))[0]))) == 20


def test_an_export_of_a_buffer_that_is_deleted_is_read_to_its_end(data: Path, tmp_path: Path) -> None:
    with full_buffer(data, limit=4) as (store, buffer):
        expected = b"".join(buffer.export())
        pieces = buffer.export()
        got = [next(pieces), next(pieces)]
        # Compaction and evictions before it is deleted move what is read.
        buffer.push(encode_batch(batch(60, 30)))
        store.delete_buffer("b")
        assert disk.segment_bytes(data) == 0
        store.create_buffer("b", budget_bytes=1000)
        assert b"".join([*got, *pieces]) == expected
        path = tmp_path / "export"
        path.write_bytes(expected)
        assert store.import_buffer("copy", path).stats().num_records == 60


def test_an_export_of_more_files_than_can_be_held_ends_with_its_buffer(data: Path) -> None:
    with Store(data, Options(segment_bytes=100_000, open_segments=4)) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=60 * SIZE)
        buffer.push(encode_batch(batch(0, 60)))
        pieces = buffer.export()
        next(pieces)
        store.delete_buffer("b")
        with pytest.raises(LeaseEndedError):
            list(pieces)


# A real service, and clients that stop reading


def stalled(server: Server, request: str, body: bytes = b"") -> socket.socket:
    """A client that asks and takes the answer's first bytes only."""
    address = urlsplit(server.url)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(30)
    made.connect((address.hostname, address.port))
    head = f"{request} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(body)}\r\n"
    made.sendall(head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body)
    assert made.recv(1024).startswith(b"HTTP/1.1 200")
    return made


def deleted_but_open(server: Server) -> int:
    """Bytes of removed files that the service has open."""
    total = 0
    for entry, link in open_links(server.process.pid):
        with suppress(OSError):
            total += entry.stat().st_size if link.endswith(" (deleted)") else 0
    return total


def test_twelve_samples_and_an_export_that_nobody_reads_stay_within_the_disk_limit(data: Path) -> None:
    budget = 5 * 2**20
    limit = budget * 3 // 2
    count = budget // SIZE
    with Server(data) as server, server.client() as client, ExitStack() as stack:
        put_buffer(client, budget, eviction="fifo", disk_limit_bytes=limit)
        push(client, batch(0, count))
        sent = b'{"batch_size": 200}'
        readers = []
        for round_ in range(1, 13):
            readers.append(stack.enter_context(stalled(server, "POST /v1/buffers/b/sample", sent)))
            if round_ == 1:
                readers.append(stack.enter_context(stalled(server, "GET /v1/buffers/b/export")))
            for part in range(4):
                push(client, batch(round_ * count + part * count // 4, count // 4))
                on_disk = disk.segment_bytes(data) + deleted_but_open(server)
                stats = stats_of(client)
                assert on_disk <= limit
                assert stats["disk_bytes"] <= limit
        # The first ones are told by an answer that ends early.
        received = 0
        with suppress(ConnectionResetError):
            while piece := readers[0].recv(1 << 20):
                received += len(piece)
        assert received < 200 * SIZE
        assert_consistent(client, data)


@pytest.mark.parametrize("request_", ["POST /v1/buffers/b/sample", "GET /v1/buffers/b/export"])
def test_who_takes_nothing_for_a_while_lets_go_without_anybodys_need(
    data: Path, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_LEASE_SECONDS", "0.3")
    with Server(data) as server, server.client() as client:
        put_buffer(client, 120 * SIZE, eviction="fifo", disk_limit_bytes=600 * SIZE)
        push(client, batch(0, 120))
        sent = b'{"batch_size": 120, "replace": false}' if request_.startswith("POST") else b""
        with stalled(server, request_, sent):
            push(client, batch(120, 120))
            wait_until(lambda: stats_of(client)["held_bytes"] + stats_of(client)["pinned_bytes"] == 0)
            assert deleted_but_open(server) == 0
        _, _, log = server.stop()
        assert "cut short: its client took nothing for 0.3 s" in log


def test_who_takes_a_little_now_and_then_gets_all_of_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte is sent at once, and takes him longer than a lease lasts."""
    monkeypatch.setenv("MEMORY_SERVICE_LEASE_SECONDS", "0.5")
    with Server(data) as server, server.client() as client:
        put_buffer(client, 120 * SIZE)
        push(client, batch(0, 120))
        with stalled(server, "POST /v1/buffers/b/sample", b'{"batch_size": 300}') as reader:
            received = 0
            for _ in range(15):
                received += len(reader.recv(100_000))
                time.sleep(0.2)
            while piece := reader.recv(1 << 20):
                received += len(piece)
        assert received >= 300 * SIZE
        _, _, log = server.stop()
        assert "cut short" not in log


def test_a_lease_does_not_end_before_there_is_anything_to_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that needs the room comes at once: the export is cut short, and not an error about a snapshot."""
    with full_buffer(data, limit=1.6) as (_, buffer):
        begin = buffer._exports._lease
        changes = []

        def lease_and_change(snapshot: str | None) -> Any:
            made = begin(snapshot)
            changes.append(threading.Thread(target=push_all, args=(buffer, range(60, 180, 10))))
            changes[0].start()
            # Time enough for all of it, if nothing held it up.
            changes[0].join(1.0)
            return made

        monkeypatch.setattr(buffer._exports, "_lease", lease_and_change)
        export = buffer.export()
        changes[0].join()
        with pytest.raises(LeaseEndedError):
            list(export)
        export.close()
        assert not buffer.contents.leases


@pytest.mark.parametrize("kind", ["sample", "export"])
def test_an_answer_whose_last_piece_is_read_is_not_cut_short(data: Path, kind: str) -> None:
    """Its client may have all of it already, and ask for something else on the same connection."""
    sent = bytearray()
    complete = False

    async def take(message: MutableMapping[str, Any]) -> None:
        nonlocal complete
        sent.extend(message.get("body", b""))
        complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        if len(sent) == num_bytes:
            # The client has it; a change that needs the room comes before the server goes on.
            for first in range(60, 300, 10):
                await anyio.to_thread.run_sync(buffer.push, encode_batch(batch(first, 10)))
            await anyio.sleep(0.3)

    async def nothing() -> MutableMapping[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError("forever is over")

    async def answer() -> None:
        response: DrawnResponse | ExportResponse
        if kind == "sample":
            response = await DrawnResponse.begin(drawn, lease_seconds=0.1)
        else:
            response = ExportResponse(export, 0.1, {}, "application/zip")
        await response({"type": "http"}, receive=nothing, send=take)

    with full_buffer(data, limit=1.6) as (_, buffer):
        drawn, export = buffer.draw(ALL), buffer.export()
        num_bytes = len(drawn.stream) if kind == "sample" else export.num_bytes
        (export if kind == "sample" else drawn).close()
        anyio.run(answer)
        assert len(sent) == num_bytes
        assert complete
        assert not buffer.contents.leases
        assert buffer.stats().held_bytes == 0
