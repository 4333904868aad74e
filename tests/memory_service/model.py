"""What a store must do, in memory and without files: dictionaries of records, judged by the pure policies.

It does not know what disk space things take, so it says nothing of ``disk_limit_exceeded``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, Record
from memory_format.api.terms import EvictionPolicy
from memory_format.extras import Revision, decode_extras
from memory_service.store.pure import eviction
from memory_service.store.pure.model import Budget

Held = tuple[int, int, str, float, int, int, bytes]
"""Class, phase, learner, score, rank, CRC-32 and body of a record."""


def held(record: Record) -> Held:
    return (
        record.class_id,
        record.phase,
        record.learner_id,
        record.score,
        record.rank,
        record.crc32,
        record.body,
    )


@dataclass(frozen=True)
class ModelSnapshot:
    """What a buffer held when a snapshot was taken."""

    version: int
    records: dict[int, Record]


@dataclass
class ModelBuffer:
    """One buffer."""

    name: str
    budget: Budget
    policy: EvictionPolicy
    retain: int | None = None
    draw_key: str = ""
    learner_floor: float | None = None
    budget_bytes: int = 0
    version: int = 0
    next_id: int = 1
    records: dict[int, Record] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    snapshots: dict[str, ModelSnapshot] = field(default_factory=dict)
    origins: dict[str, int] = field(default_factory=dict)
    """What it was forked from, and that from; and the id that each was to give next then."""

    def __post_init__(self) -> None:
        self.budget_bytes = self.budget_bytes or self.budget.bytes_for(0)

    @property
    def bytes_used(self) -> int:
        return sum(record.charge for record in self.records.values())

    @property
    def readable(self) -> set[int]:
        """Ids of all records that anybody can read."""
        return set(self.records).union(*(snapshot.records for snapshot in self.snapshots.values()))

    def plan_push(self, batch: Sequence[Record]) -> dict[str, Any]:
        """What a push is answered; changes nothing.

        Raises:
            BudgetError: it is refused.
        """
        budget = self._budget_with(batch)
        ids = range(self.next_id, self.next_id + len(batch))
        stays = set(self.records) | set(ids)
        keeps_free = self.policy == "reject" and self.learner_floor is not None
        if self.bytes_used + sum(record.charge for record in batch) > budget or keeps_free:
            stays = self._chosen(dict(self.records) | dict(zip(ids, batch, strict=True)), len(self.records), budget)
        evicted = sorted(set(self.records) - stays)
        kept = [id_ if id_ in stays else None for id_ in ids]
        num_kept = sum(id_ is not None for id_ in kept)
        used = sum(record.charge for id_, record in self.records.items() if id_ in stays)
        used += sum(record.charge for id_, record in zip(kept, batch, strict=True) if id_ is not None)
        return {
            "exemplar_ids": kept,
            "kept": num_kept,
            "rejected": len(batch) - num_kept,
            "evicted": evicted,
            "bytes_used": used,
            "budget_bytes": budget,
            "version": self.version + bool(num_kept or evicted),
        }

    def push(self, batch: Sequence[Record]) -> dict[str, Any]:
        """Raises:
        BudgetError: it is refused; nothing has changed.
        """
        answer = self.plan_push(batch)
        seen = {record.class_id for record in batch} - self.classes
        # What leaves no trace takes no ids either, but for the policy that draws by them.
        if answer["version"] > self.version or seen or self.policy == "reservoir":
            self.next_id += len(batch)
        for exemplar_id in answer["evicted"]:
            del self.records[exemplar_id]
        for exemplar_id, record in zip(answer["exemplar_ids"], batch, strict=True):
            if exemplar_id is not None:
                self.records[exemplar_id] = replace(record, exemplar_id=exemplar_id)
        self.classes |= seen
        self.version, self.budget_bytes = answer["version"], answer["budget_bytes"]
        return answer

    def configure(self, budget: Budget) -> list[int]:
        """Returns the ids evicted.

        Raises:
            BudgetError: ``reject`` refuses; nothing has changed.
        """
        budget_bytes = budget.bytes_for(len(self.classes))
        evicted: list[int] = []
        if self.bytes_used > budget_bytes:
            stays = self._chosen(self.records, len(self.records), budget_bytes)
            evicted = sorted(set(self.records) - stays)
        for exemplar_id in evicted:
            del self.records[exemplar_id]
        self.version += bool(evicted)
        self.budget, self.budget_bytes = budget, budget_bytes
        return evicted

    def rescore(self, exemplar_ids: Sequence[int], scores: Sequence[float] | None, ranks: Sequence[int] | None) -> None:
        changed = False
        for place, exemplar_id in enumerate(exemplar_ids):
            old = self.records.get(exemplar_id)
            if old is None:
                continue
            score = old.score if scores is None else float(np.float32(scores[place]))
            new = replace(old, score=score, rank=old.rank if ranks is None else ranks[place])
            changed |= new != old
            self.records[exemplar_id] = new
        self.version += changed

    def plan_replacing(
        self, exemplar_ids: Sequence[int], values: NDArray[np.float32]
    ) -> tuple[dict[int, Record], set[int]]:
        """Those that come to have another array ``logits``, and ids of all that stay then; changes nothing.

        Raises:
            BudgetError: it is refused.
        """
        pairs = [(id_, value) for id_, value in zip(exemplar_ids, values, strict=True) if id_ in self.records]
        changed = {id_: new for id_, value in pairs if (new := with_logits(self.records[id_], value)) is not None}
        after = self.records | changed
        used = sum(record.charge for record in after.values())
        if used <= self.budget_bytes:
            return changed, set(after)
        largest = max(after[id_].charge for id_, _ in pairs)
        if largest > self.budget_bytes:
            raise BudgetError("", code="record_exceeds_budget", requested_bytes=largest)
        if self.policy == "reject":
            raise BudgetError("", requested_bytes=used - self.bytes_used)
        return changed, self._chosen(after, len(after), self.budget_bytes)

    def replace_logits(self, exemplar_ids: Sequence[int], values: NDArray[np.float32]) -> list[int]:
        """Returns the ids evicted. Raises as :meth:`plan_replacing`; nothing has changed then."""
        changed, stays = self.plan_replacing(exemplar_ids, values)
        evicted = sorted(set(self.records) - stays)
        self.records = {id_: record for id_, record in (self.records | changed).items() if id_ in stays}
        # What takes the place of a record is stored under a new id.
        self.next_id += len(changed)
        self.version += bool(changed)
        return evicted

    def delete(self, exemplar_ids: Sequence[int]) -> None:
        for exemplar_id in exemplar_ids:
            del self.records[exemplar_id]
        self.version += bool(exemplar_ids)

    def shared_with(self, name: str) -> dict[int, list[Record]]:
        """Exemplars that it has from another buffer, or itself, and that anybody can read, as they are anywhere."""
        below = self.next_id if name == self.name else self.origins.get(name, 0)
        found: dict[int, list[Record]] = {}
        for shown in (self.records, *(snapshot.records for snapshot in self.snapshots.values())):
            for id_, record in shown.items():
                if id_ < below:
                    found.setdefault(id_, []).append(record)
        return found

    def erase(self, gone: set[int]) -> bool:
        """Forget records; in snapshots too. Returns whether it or one of those held any."""

        def without(records: dict[int, Record]) -> dict[int, Record]:
            return {id_: record for id_, record in records.items() if id_ not in gone}

        before = self.readable
        left = without(self.records)
        self.version += len(left) < len(self.records)
        self.records = left
        self.snapshots = {
            name: replace(snapshot, records=without(snapshot.records)) for name, snapshot in self.snapshots.items()
        }
        return self.readable != before

    def take_snapshot(self, name: str) -> None:
        self.snapshots[name] = ModelSnapshot(self.version, dict(self.records))
        if self.retain is not None:
            for oldest in list(self.snapshots)[: -self.retain]:
                del self.snapshots[oldest]

    def fork(self, name: str, snapshot: str | None) -> ModelBuffer:
        source = ModelSnapshot(self.version, self.records) if snapshot is None else self.snapshots[snapshot]
        return replace(
            self,
            name=name,
            version=source.version,
            records=dict(source.records),
            classes=set(self.classes),
            snapshots={},
            origins={**self.origins, self.name: self.next_id},
        )

    def _budget_with(self, batch: Sequence[Record]) -> int:
        if not self.budget.grows:
            return self.budget_bytes
        return max(self.budget_bytes, self.budget.bytes_for(len(self.classes | {r.class_id for r in batch})))

    def _chosen(self, records: dict[int, Record], num_stored: int, budget_bytes: int) -> set[int]:
        """Ids of those that stay."""
        ids = np.array(list(records), dtype=np.uint64)
        values = list(records.values())
        candidates = eviction.Candidates(
            class_id=np.array([record.class_id for record in values], dtype=np.int64),
            rank=np.array([record.rank for record in values], dtype=np.int64),
            score=np.array([record.score for record in values], dtype=np.float32),
            charge=np.array([record.charge for record in values], dtype=np.int64),
            order=np.arange(len(ids)),
            key=eviction.reservoir_keys(self.draw_key, ids),
            learner=np.unique([record.learner_id for record in values], return_inverse=True)[1].astype(np.uint32),
        )
        keep = eviction.plan(self.policy, candidates, num_stored, budget_bytes, self.learner_floor)
        return set(ids[keep].tolist())


def with_logits(record: Record, values: NDArray[np.float32]) -> Record | None:
    """A record with this array, None where it has it."""
    extras, new = decode_extras(record.extras), values.astype(np.float16)
    if (old := extras.arrays.get("logits")) is not None and np.array_equal(old, new):
        return None
    revision = Revision(record.exemplar_id, record.revision + 1)
    extras = replace(extras, arrays={**extras.arrays, "logits": new}, revision=revision)
    return replace(record, extras=extras.encode(), feature_flags=extras.feature_flags)


def refusal(error: BudgetError) -> dict[str, Any]:
    """What of an error the store and the model must agree on."""
    return {"code": error.code, **{name: error.details.get(name) for name in ("index", "requested_bytes")}}
