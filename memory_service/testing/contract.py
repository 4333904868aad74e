"""What a store must do over any pair of ports, as a class of tests to inherit from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from memory_format import (
    BudgetError,
    Picture,
    RawZstd,
    Record,
    StorageError,
    Text,
    decode_batch,
    encode_batch,
    make_record,
    make_record_of_parts,
)
from memory_format.revise import NewArray
from memory_service.store import Buffer, Store
from memory_service.store.index.base import Writing
from memory_service.store.pure.model import Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import Filter
from memory_service.testing.states import expect_loaded_state

Change = Callable[[Store], object]

OPTIONS = Options(segment_bytes=3000)


class StoreContract:
    """Tests of a store over one pair of ports.

    .. code-block:: python

        class TestMyPorts(StoreContract):
            def open(self, data, options):
                return Store(data, options, open_ports=open_mine)
    """

    room: ClassVar[int] = 1
    """Of disk limits, how much more than usual: where every segment is sealed, frames take most of it."""

    def open(self, data: Path, options: Options) -> Store:
        """Open the store of a directory, a new one or one that was closed or released."""
        raise NotImplementedError

    # What it holds

    def test_it_holds_what_its_answers_say(self, tmp_path: Path) -> None:
        """Pushes, deletions, other scores, snapshots, settings and compaction in random order, and reopening."""
        for seed in range(2):
            _Life(self, tmp_path / str(seed), seed).live(40)

    def test_a_fork_shares_what_it_holds(self, tmp_path: Path) -> None:
        with self.open(tmp_path, OPTIONS) as store:
            buffer = _filled(store, self.room)
            held = _records(buffer)
            fork = store.fork("b", "f")
            buffer.delete(buffer.state.columns.shown["exemplar_id"].tolist())
            assert _records(fork) == held
            expect_loaded_state(fork)
            store.delete_buffer("f")
            expect_loaded_state(buffer)

    def test_a_closed_store_is_opened_as_it_was(self, tmp_path: Path) -> None:
        with self.open(tmp_path, OPTIONS) as store:
            before = _everything(_filled(store, self.room))
        with self.open(tmp_path, OPTIONS) as store:
            assert _everything(store.buffer("b")) == before

    # What fails

    def test_a_change_that_fails_is_made_whole_or_not_at_all(self, tmp_path: Path) -> None:
        """Each transaction of each change fails in turn, before it is committed and behind it."""
        for name, change in CHANGES.items():
            for nth, committed in ((0, False), (0, True), (1, False), (1, True)):
                data = tmp_path / f"{name}-{committed}-{nth}"
                store = self.open(data, OPTIONS)
                buffer = _filled(store, self.room)
                before = _everything(buffer)
                with _failing(store, nth, committed=committed) as happened:
                    failed = _fails(change, store)
                if not happened:
                    # It has no second one.
                    assert (failed, nth) == (False, 1)
                    store.release()
                    break
                if failed and not committed and nth == 0:
                    assert _everything(buffer) == before, name
                expect_loaded_state(buffer)
                after = _everything(buffer)
                store.release()
                store = self.open(data, OPTIONS)
                assert _everything(store.buffer("b")) == after, name
                # And it goes on.
                store.buffer("b").push(encode_batch(_batch(3, seed=900)))
                expect_loaded_state(store.buffer("b"))
                store.release()

    def test_a_store_that_was_not_closed_is_opened_as_it_was(self, tmp_path: Path) -> None:
        store = self.open(tmp_path, OPTIONS)
        before = _everything(_filled(store, self.room))
        store.release()
        with self.open(tmp_path, OPTIONS) as store:
            assert _everything(store.buffer("b")) == before

    # What is bounded

    def test_nothing_goes_beyond_its_limits(self, tmp_path: Path) -> None:
        """Neither the budget nor the disk limit, whatever is evicted, moved or kept by snapshots."""
        with self.open(tmp_path, OPTIONS) as store:
            buffer, _ = store.create_buffer(
                "b", budget_bytes=8000, disk_limit_bytes=40_000 * self.room, eviction="fifo"
            )
            for turn in range(60):
                batch = encode_batch(_batch(1 + turn % 5, seed=turn, pad=37 * turn % 700))
                steps: list[Callable[[], object]] = [partial(buffer.push, batch)]
                if turn % 9 == 0:
                    steps.append(partial(buffer.take_snapshot, f"s{turn}"))
                for step in steps:
                    before = buffer.state
                    try:
                        step()
                    except BudgetError as error:
                        if error.code != "disk_limit_exceeded":
                            raise
                        after = buffer.state
                        assert (after.version, after.snapshots) == (before.version, before.snapshots)
                        for snapshot in buffer.snapshots():
                            buffer.drop_snapshot(snapshot.name)
                    figures = buffer.stats()
                    assert figures.bytes_used <= 8000
                    assert figures.disk_bytes <= 40_000 * self.room
                expect_loaded_state(buffer)


def _batch(count: int, *, seed: int, pad: int = 300) -> list[Record]:
    random = np.random.default_rng(seed)
    keep_mask = np.zeros((3, 4), dtype=bool)
    keep_mask.flat[:3] = True
    records = [
        make_record(
            class_id=place % 3,
            rank=place,
            score=float(random.uniform(-1, 1)),
            patches=random.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
            keep_mask=keep_mask,
            codec=RawZstd(),
            token_ids=np.array([seed % 1000, place if place % 2 else 151_999]),
            token_positions=np.array([0, 1]),
            text_length=2,
            user_json={"pad": "x" * pad},
            fields={"place": place, "half": "even" if place % 2 == 0 else "odd"} if place % 3 else None,
            arrays={"logits": random.normal(size=3)} if place % 4 == 0 else None,
            array_dtypes={"logits": "float32"} if place % 8 == 0 else None,
        )
        for place in range(count)
    ]
    if count:
        # A dialogue of two pictures.
        parts = [Picture(record.patches(), keep_mask) for record in (records[0], records[-1])]
        said = [Text("user", np.array([seed, 151_999])), Text("assistant", np.array([7]))]
        records[-1] = make_record_of_parts([said[0], *parts, said[1]], class_id=1, codec=RawZstd(), rank=count - 1)
    return records


def _filled(store: Store, room: int) -> Buffer:
    """A buffer with something of everything."""
    buffer, _ = store.create_buffer("b", budget_bytes=20_000, disk_limit_bytes=400_000 * room)
    buffer.push(encode_batch(_batch(20, seed=0)), idempotency_key="first")
    buffer.take_snapshot("old")
    ids = buffer.state.columns["exemplar_id"].tolist()
    buffer.update(ids[:5], ranks=[7] * 5)
    buffer.update(ids[2:6], arrays={"logits": NewArray(np.ones((4, 3), np.float32))})
    buffer.delete(ids[1::3])
    buffer.push(encode_batch(_batch(9, seed=100)))
    buffer.phases.enter("known", 1)
    return buffer


def _records(buffer: Buffer, snapshot: str | None = None) -> list[Record]:
    body, cursor, _ = buffer.query_encoded(Query(limit=1000), snapshot=snapshot)
    assert cursor is None
    return decode_batch(bytes(body))


def _everything(buffer: Buffer) -> Any:
    names = [None, *(snapshot.name for snapshot in buffer.snapshots())]
    held = {name: _records(buffer, name) for name in names}
    drawn = bytes(buffer.sample(SampleRequest(5, seed=1))[0]) if held[None] else b""
    even = Filter(fields=(("half", ("even",)),))
    counted = [buffer.count_by("place", even, limit=100, snapshot=name) for name in names]
    settings = buffer.config, buffer.state.version, buffer.state.next_id, buffer.phases.page(100)
    return *settings, buffer.snapshots(), held, drawn, counted


def _compact(store: Store) -> None:
    """A smaller disk limit rewrites segments."""
    buffer = store.buffer("b")
    buffer.configure(lambda config: replace(config, given_disk_limit=config.disk_limit_bytes * 3 // 10))


CHANGES: dict[str, Change] = {
    "push": lambda store: store.buffer("b").push(encode_batch(_batch(12, seed=500))),
    "push with a key": lambda store: store.buffer("b").push(encode_batch(_batch(2, seed=600)), idempotency_key="k"),
    "scores": lambda store: store.buffer("b").update(_ids(store)[::2], scores=[0.25] * len(_ids(store)[::2])),
    "arrays": lambda store: store.buffer("b").update(_ids(store)[::2], arrays=_logits(len(_ids(store)[::2]))),
    "delete": lambda store: store.buffer("b").delete(_ids(store)[::2]),
    "snapshot": lambda store: store.buffer("b").take_snapshot("new"),
    "drop a snapshot": lambda store: store.buffer("b").drop_snapshot("old"),
    "a learner": lambda store: store.buffer("b").phases.enter("new", 1),
    "a phase": lambda store: store.buffer("b").phases.enter("known", 2, ended=True),
    "a learner that leaves": lambda store: store.buffer("b").phases.leave("known"),
    "settings": _compact,
    "seal": lambda store: store.buffer("b").seal(),
    "fork": lambda store: store.fork("b", "f"),
}


def _ids(store: Store) -> list[int]:
    return [int(id_) for id_ in store.buffer("b").state.columns.shown["exemplar_id"]]


def _logits(count: int) -> dict[str, NewArray]:
    return {"logits": NewArray(np.full((count, 3), 0.5, np.float32))}


def _fails(change: Change, store: Store) -> bool:
    try:
        change(store)
    except StorageError:
        return True
    return False


@contextmanager
def _failing(store: Store, nth: int, *, committed: bool) -> Iterator[list[int]]:
    """The n-th transaction that writes says that it failed; with ``committed`` it did not."""
    index = store._index
    writing, begun, happened = index.writing, [0], []

    @contextmanager
    def failing(*, counted: bool = True) -> Iterator[Writing]:
        number, begun[0] = begun[0], begun[0] + 1
        with writing(counted=counted) as transaction:
            yield transaction
            if number == nth and not committed:
                happened.append(number)
                raise StorageError("the index cannot be used: disk I/O error")
        if number == nth:
            happened.append(number)
            raise StorageError("the index cannot be used: disk I/O error")

    index.writing = failing  # type: ignore[method-assign]
    try:
        yield happened
    finally:
        index.writing = writing  # type: ignore[method-assign]


class _Life:
    """Random changes of a buffer, and what it must hold by its own answers."""

    def __init__(self, contract: StoreContract, data: Path, seed: int) -> None:
        self.contract = contract
        self.data = data
        self.random = np.random.default_rng(seed)
        self.store = contract.open(data, OPTIONS)
        self.store.create_buffer(
            "b", budget_bytes=9000, disk_limit_bytes=90_000 * contract.room, eviction="lowest_score"
        )
        self.held: dict[int, bytes] = {}
        self.snapshots: dict[str, dict[int, bytes]] = {}

    def live(self, turns: int) -> None:
        steps = [self.push, self.push, self.delete, self.rescore, self.snapshot, self.drop, self.shrink, self.reopen]
        for turn in range(turns):
            steps[int(self.random.integers(len(steps)))](turn)
            buffer = self.store.buffer("b")
            assert {record.exemplar_id: record.body for record in _records(buffer)} == self.held
            for name, held in self.snapshots.items():
                assert {record.exemplar_id: record.body for record in _records(buffer, name)} == held
            expect_loaded_state(buffer)
        self.store.close()

    def push(self, turn: int) -> None:
        batch = _batch(int(self.random.integers(1, 9)), seed=turn, pad=int(self.random.integers(0, 500)))
        answer = json.loads(self.store.buffer("b").push(encode_batch(batch)).document)
        for id_, record in zip(answer["exemplar_ids"], batch, strict=True):
            if id_ is not None:
                self.held[id_] = record.body
        for id_ in answer["evicted"]:
            del self.held[id_]

    def delete(self, _: int) -> None:
        gone = list(self.held)[:: int(self.random.integers(2, 6))]
        self.store.buffer("b").delete(gone)
        for id_ in gone:
            del self.held[id_]

    def rescore(self, _: int) -> None:
        ids = list(self.held)[::2]
        self.store.buffer("b").update(ids, scores=self.random.uniform(-1, 1, len(ids)).tolist())

    def snapshot(self, turn: int) -> None:
        self.store.buffer("b").take_snapshot(f"s{turn}")
        self.snapshots[f"s{turn}"] = dict(self.held)

    def drop(self, _: int) -> None:
        if self.snapshots:
            name, _held = self.snapshots.popitem()
            self.store.buffer("b").drop_snapshot(name)

    def shrink(self, _: int) -> None:
        """A smaller budget and back."""
        for budget in (5000, 9000):
            gone = self.store.buffer("b").configure(
                lambda config: replace(config, budget=replace(config.budget, budget_bytes=budget))  # noqa: B023
            )
            for id_ in gone:
                del self.held[id_]

    def reopen(self, turn: int) -> None:
        (self.store.close if turn % 2 else self.store.release)()
        self.store = self.contract.open(self.data, OPTIONS)
