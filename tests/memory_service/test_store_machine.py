"""A state machine over everything that changes a store, crashes included, against dictionaries in memory.

After every step the files are read and counted without the store. HYPOTHESIS_PROFILE=nightly runs many more
examples than the usual run does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_format import BudgetError, ConflictError, FormatError, NotFoundError, Record, decode_batch, encode_batch
from memory_format.api.answers import UpdateResponse
from memory_format.api.terms import EVICTION_POLICIES, STRATEGIES
from memory_format.revise import NewArray
from memory_service.store import Buffer, Store
from memory_service.store.chosen import Expected
from memory_service.store.pure.model import Budget, Options
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments import appending
from memory_service.testing import expect_loaded_state
from tests.memory_service import disk
from tests.memory_service.helpers import make_exemplar
from tests.memory_service.memory_ports import MemoryStores
from tests.memory_service.model import ModelBuffer, held, refusal, with_logits

T = TypeVar("T")

BATCHES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 900), st.integers(0, 9)), max_size=10)
PICKS = st.integers(0, 11)
BUDGETS = st.sampled_from(
    [
        *(Budget(budget_bytes=num) for num in (900, 3000, 6000, 12_000)),
        *(Budget(full_samples_per_class=2, full_sample_bytes=num) for num in (600, 2000)),
        Budget(full_samples_per_class=2, full_sample_bytes=1000, num_classes=3),
    ]
)
HEADROOM = st.sampled_from([6_000, 12_000, 40_000, 120_000])
MAX_BUFFERS = 3


class StoreMachine(RuleBasedStateMachine):
    """A store of up to three buffers, and what each must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.data = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.models: dict[str, ModelBuffer] = {}
        self.answers: dict[tuple[str, str, str], tuple[list[Record], str]] = {}
        self.samples: dict[tuple[str, str], bytes] = {}
        self.patches: list[Any] = []
        self.forks = 0
        self.expected = Expected()
        self.step = 0

    @initialize(
        budget=BUDGETS,
        policy=st.sampled_from(EVICTION_POLICIES),
        headroom=HEADROOM,
        segment_bytes=st.sampled_from([1500, 5000]),
        seals=st.booleans(),
        retain=st.sampled_from([None, None, 2]),
        floor=st.sampled_from([None, None, 0.3, 1.0]),
    )
    def create(
        self,
        budget: Budget,
        policy: Any,
        headroom: int,
        segment_bytes: int,
        seals: bool,
        retain: int | None,
        floor: float | None,
    ) -> None:
        self.options = Options(segment_bytes=segment_bytes)
        # Segments of real sizes would need records of real sizes; the frame of a sealed one stays as it is.
        if seals:
            self._patch(appending, "SMALLEST_SEALED", 1)
        self.store = self._open()
        limit = budget.bytes_for(4) + headroom
        _, created = self.store.create_buffer(
            "b",
            budget=budget,
            eviction=policy,
            disk_limit_bytes=limit,
            retain_snapshots=retain,
            learner_floor=floor,
        )
        assert created
        self.models["b"] = ModelBuffer("b", budget, policy, retain, learner_floor=floor)

    def _open(self) -> Store:
        return Store(self.data, self.options)

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.data)

    def _patch(self, module: Any, name: str, value: Any) -> None:
        self.patches.append(mock.patch.object(module, name, value))
        self.patches[-1].start()

    def _pick(self, pick: int) -> tuple[Buffer, ModelBuffer]:
        name = sorted(self.models)[pick % len(self.models)]
        return self.store.buffer(name), self.models[name]

    @contextmanager
    def _within_disk(self, buffer: Buffer) -> Iterator[list[bool]]:
        """For what may be refused because of the disk limit; yields whether it was, empty = not."""
        refused: list[bool] = []
        before = buffer.stats()
        try:
            yield refused
        except BudgetError as error:
            if error.code != "disk_limit_exceeded":
                raise
            refused.append(True)
            event("disk_limit_exceeded")
            after = buffer.stats()
            assert (after.version, after.bytes_used, after.snapshots) == (
                before.version,
                before.bytes_used,
                before.snapshots,
            )

    # What changes records

    @rule(
        pick=PICKS,
        batch=BATCHES.map(lambda rows: [make_exemplar(c, r, pad=pad, seed=seed) for c, r, pad, seed in rows]),
        key=st.sampled_from([None, None, "k1", "k2"]),
        try_first=st.booleans(),
    )
    def push(self, pick: int, batch: list[Record], key: str | None, try_first: bool) -> None:
        self._push(pick, batch, key, try_first=try_first)

    def _push(self, pick: int, batch: list[Record], key: str | None, *, try_first: bool) -> None:
        buffer, model = self._pick(pick)
        body = encode_batch(batch)
        # A key is a learner's own; a push of nothing is nobody's.
        asked = model.name, batch[0].learner_id if batch else "", key or ""
        known = self.answers.get(asked)
        if known is not None:
            self._push_again(buffer, body, key, same=known[0] == batch, document=known[1])
            return
        expected = refused_or(lambda: model.plan_push(batch))
        if isinstance(expected, BudgetError):
            for dry_run in (True, False):
                answer = refused_or(lambda: buffer.push(body, idempotency_key=key, dry_run=dry_run))  # noqa: B023
                assert isinstance(answer, BudgetError)
                assert refusal(answer) == refusal(expected)
            return
        tried = buffer.push(body, idempotency_key=key, dry_run=True).document if try_first else None
        with self._within_disk(buffer) as refused:
            answer = buffer.push(body, idempotency_key=key)
        if refused:
            return
        assert not answer.replayed
        assert tried is None or tried == answer.document
        assert json.loads(answer.document) == expected
        model.push(batch)
        if key is not None:
            self.answers[asked] = batch, answer.document
        event(f"evicted: {bool(expected['evicted'])}")

    # Rules are as likely as each other; most of a store's life is pushes.
    @rule(pick=PICKS, count=st.integers(1, 12), seed=st.integers(0, 9))
    def push_many(self, pick: int, count: int, seed: int) -> None:
        self._push_seeded(pick, count, seed, None)

    @rule(pick=PICKS, count=st.integers(1, 12), seed=st.integers(0, 9), key=st.sampled_from(["k1", "k2", "k3"]))
    def push_many_keyed(self, pick: int, count: int, seed: int, key: str) -> None:
        self._push_seeded(pick, count, seed, key)

    @rule(pick=PICKS, seed=st.integers(0, 9))
    def push_and_delete(self, pick: int, seed: int) -> None:
        self._push_seeded(pick, 4, seed, None)
        self._delete(pick, 3)

    def _push_seeded(self, pick: int, count: int, seed: int, key: str | None) -> None:
        batch = [
            make_exemplar(
                (seed + i) % 5,
                i,
                seed=seed + i,
                pad=(seed * 131 + i * 57) % 500,
                phase=seed % 3,
                learner_id=f"l{(seed * i) % 3 // 2}",
            )
            for i in range(count)
        ]
        self._push(pick, batch, key, try_first=bool(seed % 2))

    def _push_again(self, buffer: Buffer, body: bytes, key: str | None, *, same: bool, document: str) -> None:
        if not same:
            with pytest.raises(ConflictError):
                buffer.push(body, idempotency_key=key)
            return
        for dry_run in (True, False):
            answer = buffer.push(body, idempotency_key=key, dry_run=dry_run)
            assert answer.replayed
            assert answer.document == document

    @rule(
        pick=PICKS,
        places=st.lists(st.integers(0, 40), max_size=12, unique=True),
        scores=st.lists(st.floats(-1, 1, width=32), min_size=12, max_size=12) | st.none(),
        ranks=st.lists(st.integers(0, 9), min_size=12, max_size=12) | st.none(),
    )
    def patch(self, pick: int, places: list[int], scores: list[float] | None, ranks: list[int] | None) -> None:
        buffer, model = self._pick(pick)
        if scores is None and ranks is None:
            ranks = [7] * 12
        # Some live, some long gone, some never given.
        ids = list(model.records)
        wanted = [ids[place] if place < len(ids) else model.next_id + place for place in places]
        scores, ranks = scores and scores[: len(wanted)], ranks and ranks[: len(wanted)]
        with self._within_disk(buffer) as refused:
            result = buffer.update(wanted, scores=scores, ranks=ranks)
        if refused:
            return
        model.rescore(wanted, scores, ranks)
        assert result.version == model.version
        assert set(result.missing) == set(wanted) - set(model.records)

    @rule(
        pick=PICKS,
        places=st.lists(st.integers(0, 14), max_size=6, unique=True),
        width=st.sampled_from([0, 1, 8, 300]),
        value=st.integers(0, 3),
        condition=st.sampled_from(["none", "none", "right", "wrong"]),
    )
    def replace_arrays(self, pick: int, places: list[int], width: int, value: int, condition: str) -> None:
        buffer, model = self._pick(pick)
        ids = list(model.records)
        wanted = [ids[place] if place < len(ids) else model.next_id + place for place in places]
        values = np.full((len(wanted), width), value, np.float32)
        known = [model.records[id_].revision if id_ in model.records else 0 for id_ in wanted]
        revisions = {"none": None, "right": known, "wrong": [number + 1 for number in known]}[condition]
        expected = refused_or(lambda: model.plan_replacing(wanted, values))

        def replace_them() -> UpdateResponse:
            return buffer.update(wanted, arrays={"logits": NewArray(values)}, if_revisions=revisions)

        missing = set(wanted) - set(model.records)
        changed = {id_ for id_ in wanted if id_ in model.records and with_logits(model.records[id_], values[0])}
        if revisions is not None and missing:
            with pytest.raises(NotFoundError):
                replace_them()
        elif condition == "wrong" and changed:
            with pytest.raises(ConflictError):
                replace_them()
        elif isinstance(expected, BudgetError):
            answer = refused_or(replace_them)
            assert isinstance(answer, BudgetError)
            assert refusal(answer) == refusal(expected)
        else:
            with self._within_disk(buffer) as refused:
                result = replace_them()
            if refused:
                return
            assert list(result.evicted) == model.replace_logits(wanted, values)
            assert (result.version, set(result.missing)) == (model.version, missing)
            event(f"replaced: {bool(changed)}, evicted: {bool(result.evicted)}")

    @rule(pick=PICKS, every=st.integers(1, 4))
    def delete_some(self, pick: int, every: int) -> None:
        self._delete(pick, every)

    def _delete(self, pick: int, every: int) -> None:
        buffer, model = self._pick(pick)
        wanted = list(model.records)[::every]
        with self._within_disk(buffer) as refused:
            result = buffer.delete(wanted)
        if not refused:
            model.delete(wanted)
            assert (result.deleted, result.version) == (tuple(wanted), model.version)

    @rule(pick=PICKS, every=st.integers(1, 7))
    def erase(self, pick: int, every: int) -> None:
        buffer, model = self._pick(pick)
        # What it has lost, and a fork has, too.
        shared = {name: other.shared_with(model.name) for name, other in sorted(self.models.items())}
        ids = sorted(set[int]().union(*shared.values()))[::every]
        gone = [record for of_it in shared.values() for id_ in ids for record in of_it.get(id_, ())]
        done = refused_or(lambda: self.store.erasures.erase(buffer, ids))
        lost = [name for name, of_it in shared.items() if self.models[name].erase(of_it.keys() & set(ids))]
        self.samples = {key: value for key, value in self.samples.items() if key[0] not in lost}
        if isinstance(done, BudgetError):
            # Nobody can read them, and a later try, or the next start, goes on with it.
            assert done.code == "disk_limit_exceeded"
            event("erase: disk_limit_exceeded")
            return
        event(f"erased: {bool(gone)}")
        assert set(done.deleted) >= set(ids)
        if done.receipt is not None:
            named = {held.exemplar_id for held in done.receipt.elsewhere}
            assert [from_.buffer for from_ in done.receipt.buffers] == lost or not gone
            self._expect_no_trace([record for record in gone if not named])

    def _expect_no_trace(self, gone: list[Record]) -> None:
        files = [path.read_bytes() for path in self.data.rglob("*") if path.is_file()]
        assert not any(record.body in content for record in gone for content in files)

    @rule(pick=PICKS, budget=BUDGETS, headroom=HEADROOM)
    def configure(self, pick: int, budget: Budget, headroom: int) -> None:
        buffer, model = self._pick(pick)
        limit = max(budget.bytes_for(max(4, len(model.classes))), budget.bytes_for(len(model.classes))) + headroom
        before = replace(model, records=dict(model.records))
        old_limit = buffer.config.disk_limit_bytes
        evicted = refused_or(lambda: model.configure(budget))
        done = refused_or(lambda: self._configure(buffer, budget, limit))
        if isinstance(evicted, BudgetError):
            assert isinstance(done, BudgetError)
            assert refusal(done) == refusal(evicted)
        elif isinstance(done, BudgetError):
            assert done.code == "disk_limit_exceeded"
            event("configure: disk_limit_exceeded")
            # One change or none.
            assert buffer.config.disk_limit_bytes == old_limit
            self.models[model.name] = before
        else:
            assert done == evicted
            assert buffer.config.disk_limit_bytes == limit

    def _configure(self, buffer: Buffer, budget: Budget, limit: int) -> list[int]:
        return buffer.configure(lambda config: replace(config, budget=budget, given_disk_limit=limit))

    # Snapshots and forks

    @rule(pick=PICKS, name=st.sampled_from(["s1", "s2", "s3"]))
    def take_snapshot(self, pick: int, name: str) -> None:
        buffer, model = self._pick(pick)
        known = model.snapshots.get(name)
        if known is not None and known.version != model.version:
            with pytest.raises(ConflictError):
                buffer.take_snapshot(name)
            return
        with self._within_disk(buffer) as refused:
            taken, is_new = buffer.take_snapshot(name)
        if refused:
            return
        assert is_new == (known is None)
        assert (taken.version, taken.num_records, taken.bytes_used) == (
            model.version,
            len(model.records),
            model.bytes_used,
        )
        if is_new:
            model.take_snapshot(name)
            if model.records:
                self.samples[model.name, name] = self._sample(buffer, None)

    @precondition(lambda self: any(model.snapshots for model in self.models.values()))
    @rule(pick=PICKS)
    def drop_snapshot(self, pick: int) -> None:
        names = [(model, name) for model in self.models.values() for name in model.snapshots]
        model, name = names[pick % len(names)]
        self.store.buffer(model.name).drop_snapshot(name)
        del model.snapshots[name]

    @precondition(lambda self: 0 < len(self.models) < MAX_BUFFERS)
    @rule(pick=PICKS, headroom=HEADROOM)
    def fork(self, pick: int, headroom: int) -> None:
        source, model = self._pick(pick)
        snapshot = [None, *model.snapshots][pick % (1 + len(model.snapshots))]
        self.forks += 1
        fork = model.fork(f"f{self.forks}", snapshot)
        limit = max(source.config.disk_limit_bytes, fork.budget_bytes + headroom)
        with self._within_disk(source) as refused:
            made = self.store.fork(model.name, fork.name, snapshot=snapshot, disk_limit_bytes=limit)
            assert made.config.disk_limit_bytes == limit
        if not refused:
            event("forked")
            self.models[fork.name] = fork

    @precondition(lambda self: len(self.models) > 1)
    @rule(pick=PICKS)
    def delete_buffer(self, pick: int) -> None:
        name = sorted(self.models)[pick % len(self.models)]
        self.store.delete_buffer(name)
        self._forget(name)
        with pytest.raises(NotFoundError):
            self.store.buffer(name)

    @precondition(lambda self: "b" not in self.models)
    @rule(budget=BUDGETS, policy=st.sampled_from(EVICTION_POLICIES))
    def make_again(self, budget: Budget, policy: Any) -> None:
        self.store.create_buffer("b", budget=budget, eviction=policy)
        self.models["b"] = ModelBuffer("b", budget, policy)

    def _forget(self, name: str) -> None:
        del self.models[name]
        for other in self.models.values():
            # Another one may get its name.
            other.origins.pop(name, None)
        self.answers = {key: value for key, value in self.answers.items() if key[0] != name}

    # Files

    @rule(pick=PICKS)
    def compact(self, pick: int) -> None:
        buffer, _ = self._pick(pick)
        with buffer._changing():
            moved = buffer._commits.compactor.compact_one(buffer.config.disk_limit_bytes)
        event(f"compacted: {bool(moved)}")

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()

    @rule(garbage=st.binary(max_size=40), orphans=st.integers(0, 2), suffix=st.sampled_from([".open", ".zarr.zip"]))
    def crash(self, garbage: bytes, orphans: int, suffix: str) -> None:
        self.store.release()
        for path in list((self.data / "segments").iterdir()):
            if path.suffix == ".open" and garbage:
                # A write, or the whole of a sealing, that no transaction followed.
                disk.append_garbage(path, garbage)
                if suffix == ".zarr.zip":
                    disk.overwrite_first_header(path)
                    path.rename(path.with_suffix(".zarr.zip"))
            elif path.suffix == ".zip" and suffix == ".open":
                # A rename that did not reach the disk before the transaction did.
                path.rename(path.with_name(path.name.removesuffix(".zarr.zip") + ".open"))
        for _ in range(orphans):
            disk.leave_behind(self.data, uuid.uuid4().hex + suffix, b"left behind")
        self.store = self._open()

    # Invariants are checked before @initialize, too.

    @precondition(lambda self: self.models)
    @invariant()
    def the_disk_holds_what_the_model_holds(self) -> None:
        on_disk = disk.read_store(self.data)
        assert not disk.orphans(self.data)
        # A crash leaves nothing that the index does not know.
        assert not (self.data / "quarantine").exists()
        assert set(on_disk) == set(self.models)
        for name, model in self.models.items():
            stored, buffer = on_disk[name], self.store.buffer(name)
            assert all(record.is_whole for record in stored.live.values())
            found = {
                id_: (r.class_id, r.phase, r.learner_id, r.score, r.rank, r.crc32, r.body)
                for id_, r in stored.live.items()
            }
            assert found == {id_: held(record) for id_, record in model.records.items()}
            row = stored.row
            assert row["bytes_used"] == stored.bytes_used == model.bytes_used <= model.budget_bytes
            assert (row["num_records"], row["version"]) == (len(model.records), model.version)
            assert (row["budget_bytes"], row["next_exemplar_id"]) == (model.budget_bytes, model.next_id)
            assert stored.classes == model.classes
            assert list(stored.snapshots) == sorted(model.snapshots)
            figures = buffer.stats()
            assert figures.disk_bytes == stored.file_bytes + figures.index_bytes
            assert figures.disk_bytes <= figures.disk_limit_bytes
            expect_loaded_state(buffer)

    @precondition(lambda self: self.models)
    @invariant()
    def readers_see_what_the_model_holds(self) -> None:
        for name, model in self.models.items():
            buffer = self.store.buffer(name)
            figures = buffer.stats()
            assert (figures.bytes_used, figures.num_records) == (model.bytes_used, len(model.records))
            assert figures.num_classes_seen == len(model.classes)
            assert self._read(buffer, None) == list(model.records.values())
            assert [s.name for s in buffer.snapshots()] == list(model.snapshots)
            for snapshot, taken in model.snapshots.items():
                assert self._read(buffer, snapshot) == list(taken.records.values())
                if taken.records and (name, snapshot) in self.samples:
                    assert self._sample(buffer, snapshot) == self.samples[name, snapshot]
            if model.records:
                self._train(buffer)
            for gone in set(range(1, model.next_id + 1)) - set(model.records):
                with pytest.raises(NotFoundError):
                    buffer.get(gone)

    def _read(self, buffer: Buffer, snapshot: str | None) -> list[Record]:
        body, cursor, _ = buffer.query_encoded(Query(limit=1000), snapshot=snapshot)
        assert cursor is None
        return decode_batch(bytes(body))

    def _train(self, buffer: Buffer) -> None:
        """A step, drawn as it was laid out before the last rule, or as that has changed it."""
        self.step += 1
        request = SampleRequest(5, step=self.step)
        with suppress(BlockingIOError), buffer.draw(request, wait=False, expected=self.expected) as drawn:
            while drawn.next_piece():
                pass
            assert (drawn.stream, drawn.version) == buffer.sample(request)
        buffer.lay_ahead(request, self.expected)

    def _sample(self, buffer: Buffer, snapshot: str | None) -> bytes:
        drawn = []
        for strategy in STRATEGIES:
            request = SampleRequest(5, 3, strategy=strategy, snapshot=snapshot)
            try:
                drawn.append(bytes(buffer.sample(request)[0]))
            except FormatError as error:
                # No score is above 0.
                drawn.append(error.message.encode())
        return b"".join(drawn)


class MemoryStoreMachine(StoreMachine):
    """The same over ports in memory: there is no disk to look at, but all that a store says of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = MemoryStores()

    def _open(self) -> Store:
        return Store(self.data, self.options, open_ports=self.stores.open_ports)

    @rule(garbage=st.binary(max_size=40), orphans=st.integers(0, 2), suffix=st.just(".open"))
    def crash(self, garbage: bytes, orphans: int, suffix: str) -> None:
        self.store.release()
        segments = self.stores.segments(self.data)
        for data in segments.open.values():
            data += garbage
        self.store = self._open()
        assert not segments.set_aside

    @precondition(lambda self: self.models)
    @invariant()
    def the_disk_holds_what_the_model_holds(self) -> None:
        assert {buffer.name for buffer in self.store.buffers()} == set(self.models)
        for name, model in self.models.items():
            buffer = self.store.buffer(name)
            expect_loaded_state(buffer)
            state, figures = buffer.state, buffer.stats()
            assert (state.version, state.next_id, set(state.classes)) == (model.version, model.next_id, model.classes)
            assert state.columns.bytes_used == model.bytes_used <= model.budget_bytes == state.config.budget_bytes
            assert figures.disk_bytes <= figures.disk_limit_bytes
        stems = {s.stem for buffer in self.store.buffers() for s in buffer.state.segments.values()}
        segments = self.stores.segments(self.data)
        assert stems == segments.open.keys() | segments.sealed.keys()


def refused_or(do: Callable[[], T]) -> T | BudgetError:
    """What it gives, or how it is refused."""
    try:
        return do()
    except BudgetError as error:
        return error


NIGHTLY = settings.get_current_profile_name() == "nightly"
pytestmark = pytest.mark.timeout(3600 if NIGHTLY else 300)

TestStoreMachine = StoreMachine.TestCase
TestMemoryStoreMachine = MemoryStoreMachine.TestCase
TestStoreMachine.settings = TestMemoryStoreMachine.settings = settings(
    max_examples=500 if NIGHTLY else 30,
    stateful_step_count=30 if NIGHTLY else 20,
    deadline=None,
    # Shrinking takes many minutes here; the steps of the failure are printed as they were.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
