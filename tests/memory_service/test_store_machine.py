"""A state machine over pushes, evictions, deletions and restarts; after every step the files are read and
counted."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_format import BudgetError, Record, encode_batch
from memory_service.store import Store, compaction
from memory_service.store.model import Options
from memory_service.store.query import Query
from memory_service.store.sampler import SampleRequest
from memory_service.store.stats import stats
from tests.memory_service.helpers import make_exemplar, segment_records

OPTIONS = Options(segment_bytes=1500)


class StoreMachine(RuleBasedStateMachine):
    """One buffer, and a dictionary of what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.data = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self.store = Store(self.data, OPTIONS)
        self.model: dict[int, Record] = {}
        self.given_ids: set[int] = set()
        self.slack = compaction.SLACK_BYTES
        # Small, so that compaction has work with small records; the frames of ten files fit.
        compaction.SLACK_BYTES = 100_000

    def teardown(self) -> None:
        compaction.SLACK_BYTES = self.slack
        self.store.close()
        shutil.rmtree(self.data)

    @initialize(budget=st.integers(200, 6000), policy=st.sampled_from(["class_balanced", "reject"]))
    def create(self, budget: int, policy: Any) -> None:
        self.budget, self.policy = budget, policy
        _, created = self.store.create_buffer("b", budget_bytes=budget, eviction=policy)
        assert created

    @rule(
        records=st.lists(
            st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 400), st.integers(0, 9)),
            max_size=8,
        )
    )
    def push(self, records: list[tuple[int, int, int, int]]) -> None:
        batch = [make_exemplar(c, rank, pad=pad, seed=seed) for c, rank, pad, seed in records]
        buffer = self.store.buffer("b")
        before = stats(buffer)
        needed = sum(record.charge for record in batch)
        too_large = any(record.charge > self.budget for record in batch)
        if too_large or (self.policy == "reject" and needed > before.bytes_free):
            with pytest.raises(BudgetError):
                buffer.push(encode_batch(batch))
            assert stats(buffer) == before
            return
        document = buffer.push(encode_batch(batch)).document

        answer = json.loads(document)
        kept = {id_: record for id_, record in zip(answer["exemplar_ids"], batch, strict=True) if id_ is not None}
        assert not self.given_ids & set(kept)
        assert list(kept) == sorted(kept)
        self.given_ids |= set(kept)
        for exemplar_id in answer["evicted"]:
            del self.model[exemplar_id]
        if self.policy == "reject":
            assert not answer["evicted"]
            assert len(kept) == len(batch)
        self.model |= kept
        assert answer["version"] == before.version + bool(kept or answer["evicted"])

    @rule()
    def delete_and_make_again(self) -> None:
        self.store.delete_buffer("b")
        assert list((self.data / "segments").iterdir()) == []
        self.store.create_buffer("b", budget_bytes=self.budget, eviction=self.policy)
        self.model, self.given_ids = {}, set()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.data, OPTIONS)

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 9), strategy=st.sampled_from(["uniform", "class_balanced"]))
    def sample(self, seed: int, strategy: Any) -> None:
        records, _ = self.store.buffer("b").sample(SampleRequest(5, seed, strategy=strategy))
        for record in records:
            assert record.body == self.model[record.exemplar_id].body

    # Invariants are checked before @initialize, too.
    @precondition(lambda self: hasattr(self, "budget"))
    @invariant()
    def holds_what_the_model_holds(self) -> None:
        buffer = self.store.buffer("b")
        records, cursor, _ = buffer.query_records(Query(limit=1000))
        assert cursor is None
        assert {r.exemplar_id: (r.class_id, r.rank, r.body) for r in records} == {
            id_: (r.class_id, r.rank, r.body) for id_, r in self.model.items()
        }
        figures = stats(buffer)
        on_disk = segment_records(self.data)
        assert figures.bytes_used == sum(on_disk[exemplar_id][1] for exemplar_id in self.model) <= self.budget
        assert figures.bytes_used == sum(record.charge for record in self.model.values())
        assert figures.num_records == len(self.model)
        files = list((self.data / "segments").iterdir())
        assert figures.disk_bytes == sum(path.stat().st_size for path in files)
        assert figures.segments == len(files)
        assert figures.dead_bytes <= compaction.dead_limit(figures.bytes_used)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
