"""kill -9 of the real server in the middle of pushes: what was acknowledged is there, and nothing else is."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from memory_format import Record, encode_batch
from tests.memory_service.helpers import (
    ARROW,
    Server,
    all_records,
    assert_consistent,
    make_exemplar,
    push,
    put_buffer,
)

ROUNDS = 3


class Pusher(threading.Thread):
    """Pushes until the server is gone; notes what was acknowledged, and the one push that was not."""

    def __init__(self, url: str, number: int, round_: int) -> None:
        super().__init__()
        self.url, self.number, self.round = url, number, round_
        self.kept: dict[int, Record] = {}
        self.evicted: set[int] = set()
        self.unanswered: tuple[str, list[Record]] | None = None

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            for count in range(10_000):
                seed = (self.round * 100 + self.number) * 10_000 + count
                records = [make_exemplar(self.number, i, seed=seed + i, pad=30 * i) for i in range(1 + seed % 4)]
                self.unanswered = f"{self.round}-{self.number}-{count}", records
                try:
                    answer = push(client, records, key=self.unanswered[0])
                except httpx.TransportError:
                    return
                self.unanswered = None
                ids = answer["exemplar_ids"]
                self.kept |= {id_: record for id_, record in zip(ids, records, strict=True) if id_ is not None}
                self.evicted |= set(answer["evicted"])


def kill_while_pushing(data: Path, round_: int) -> list[Pusher]:
    with Server(data) as server:
        pushers = [Pusher(server.url, number, round_) for number in range(3)]
        for pusher in pushers:
            pusher.start()
        time.sleep(0.3 + random.random() * 0.5)
        server.kill()
        for pusher in pushers:
            pusher.join()
    return pushers


@pytest.mark.parametrize("budget", [10**7, 12_000], ids=["roomy", "evicting"])
def test_no_acknowledged_push_is_lost(data: Path, budget: int) -> None:
    acknowledged: dict[int, Record] = {}
    evicted: set[int] = set()
    with Server(data) as server, server.client() as client:
        put_buffer(client, budget)
    for round_ in range(ROUNDS):
        pushers = kill_while_pushing(data, round_)
        for pusher in pushers:
            acknowledged |= pusher.kept
            evicted |= pusher.evicted
        assert all(pusher.kept for pusher in pushers)
        with Server(data) as server, server.client() as client:
            stats = assert_consistent(client, data)
            found = {record.exemplar_id: record for record in all_records(client)}
            # Of the pushes that got no answer each is there whole or not at all; sent again, it happens once.
            unsure = {record.body for p in pushers if p.unanswered for record in p.unanswered[1]}
            for exemplar_id, record in found.items():
                if exemplar_id in acknowledged:
                    assert record.body == acknowledged[exemplar_id].body
                else:
                    assert record.body in unsure
            if budget == 10**7:
                assert set(acknowledged) <= set(found)
                assert evicted == set()
            assert not evicted & set(found)
            for pusher in pushers:
                if pusher.unanswered is None:
                    continue
                key, records = pusher.unanswered
                headers = {**ARROW, "Idempotency-Key": key}
                body = encode_batch(records)
                answer = client.post("/v1/buffers/b/exemplars", content=body, headers=headers)
                ids = [id_ for id_ in answer.json()["exemplar_ids"] if id_ is not None]
                if answer.headers.get("Idempotency-Replayed"):
                    assert stats["version"] >= answer.json()["version"]
                acknowledged |= {
                    id_: record
                    for id_, record in zip(answer.json()["exemplar_ids"], records, strict=True)
                    if id_ is not None
                }
                evicted |= set(answer.json()["evicted"])
                again = client.post("/v1/buffers/b/exemplars", content=body, headers=headers)
                assert again.headers["Idempotency-Replayed"] == "true"
                assert [id_ for id_ in again.json()["exemplar_ids"] if id_ is not None] == ids
            # Everything acknowledged is there, unless an acknowledged push or one of the unanswered evicted
            # it.
            found_ids = {record.exemplar_id for record in all_records(client)}
            assert set(acknowledged) - evicted == found_ids
            assert_consistent(client, data)
    assert len(acknowledged) > 50
