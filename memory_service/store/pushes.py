"""Pushes: several that wait at the same time are judged one after another and written in one go.

One thread at a time holds the buffer's lock. Whoever gets it takes all pushes that have gathered meanwhile, so
a disk that takes a millisecond to confirm a write confirms many pushes in it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_format import BudgetError, ExemplarMemoryError
from memory_format.api.answers import PushResponse
from memory_service.store.commits import Commits
from memory_service.store.contents import Contents
from memory_service.store.idempotency import replayed
from memory_service.store.index.quotas import RacedError
from memory_service.store.learner_quota import Expect
from memory_service.store.pure import eviction
from memory_service.store.pure.change import Answer, Change, PushKey
from memory_service.store.pure.columns import Columns, Rows, charge_of, concatenated
from memory_service.store.pure.fit import fitted
from memory_service.store.pure.model import BufferConfig, PushAnswer
from memory_service.store.pure.state import State
from memory_service.store.turns import Turns

MAX_GROUP_BYTES = 64 * 1024 * 1024
"""Bodies that are written in one go: bounds the memory of a group, and the pause of its last push."""


@dataclass
class Pending:
    """A push that waits, and then its answer or error."""

    new: Rows
    bodies: Sequence[memoryview]
    key: PushKey | None = None
    digest: bytes = b""
    vocabulary: str | None = None
    """Fingerprint of that of its token ids, where the pusher has said."""
    answer: PushAnswer | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def num_bytes(self) -> int:
        return int(self.new["length"].sum())


def digest_of(new: Rows, learner_ids: Sequence[str]) -> bytes:
    """What tells one push from another: its headers, in which every body has its CRC."""
    digest = hashlib.blake2b("\n".join(learner_ids).encode(), digest_size=16)
    for name in sorted(new.dtype.names or ()):
        if name not in ("learner", "segment", "offset", "exemplar_id"):
            digest.update(new[name].tobytes())
    return digest.digest()


class PushQueue:
    """Pushes on their way into one buffer, whose lock is held while a group is judged and written."""

    def __init__(self, turns: Turns, contents: Contents, commits: Commits) -> None:
        self._turns = turns
        self._contents = contents
        self._commits = commits
        self._waiting: deque[Pending] = deque()

    def submit(self, push: Pending) -> None:
        """Wait until a push is answered."""
        self._waiting.append(push)
        with self._turns.lock:
            while not push.done:
                self._run(self._take())

    def try_out(self, push: Pending) -> PushAnswer:
        """What a push would be answered. Raises as :meth:`GroupPlan.take_in`, and as :meth:`Turns.changing`;
        ``ConflictError`` (``idempotency_key_reused``)."""
        with self._turns.lock, self._planning([push]) as (plan, answers):
            return _judged(push, plan, answers)

    @contextmanager
    def _planning(self, group: Sequence[Pending]) -> Iterator[tuple[GroupPlan, Mapping[PushKey, Answer]]]:
        """The buffer, for the holder of its lock, and the answers to earlier pushes with the keys of a group."""
        answers = self._commits.answers
        wanted = answers.wanted([push.key for push in group if push.key is not None])
        with self._turns.alone(wanted) as found:
            yield self._plan(group), answers.find(wanted, found)

    def _plan(self, group: Sequence[Pending]) -> GroupPlan:
        pushers = (learner_id for push in group for learner_id in self._contents.learner_ids(push.new))
        return GroupPlan(self._contents.state, self._commits.learner_quota.expecting(pushers))

    def _take(self) -> list[Pending]:
        """The pushes that go together; of one idempotency key, the first only."""
        group: list[Pending] = []
        num_bytes = 0
        keys: set[PushKey] = set()
        while self._waiting and (not group or num_bytes + self._waiting[0].num_bytes <= MAX_GROUP_BYTES):
            if self._waiting[0].key in keys:
                break
            group.append(self._waiting.popleft())
            num_bytes += group[-1].num_bytes
            if group[-1].key is not None:
                keys.add(group[-1].key)
        return group

    def _run(self, group: list[Pending]) -> None:
        try:
            while True:
                with suppress(RacedError):
                    return self._write(group)
                # Others have taken what there was. What is left now is looked up again.
                for push in group:
                    push.answer = push.error = None
        except BudgetError as error:
            if len(group) == 1:
                group[0].error = error
                return
            # One of them may be what does not fit: each by itself then.
            for push in group:
                push.answer = push.error = None
                self._run([push])
        except ExemplarMemoryError as error:
            # Not tried again: where it cannot be told what was committed, that would be the second time.
            for push in group:
                push.error = error
        except BaseException as error:
            for push in group:
                push.error = error
            raise

    def _write(self, group: list[Pending]) -> None:
        with self._planning(group) as (plan, answers):
            for push in group:
                try:
                    push.answer = _judged(push, plan, answers)
                except ExemplarMemoryError as error:
                    push.error = error
            if plan.needs_commit:
                self._commits.commit(plan.change())
                if plan.pushed_bytes:
                    self._commits.tidy(plan.pushed_bytes)


def _judged(push: Pending, plan: GroupPlan, answers: Mapping[PushKey, Answer]) -> PushAnswer:
    known = None if push.key is None else replayed(answers.get(push.key), push.key, push.digest)
    return known or plan.take_in(push)


class GroupPlan:
    """What a buffer becomes push by push; nothing of it happens before :meth:`change` is committed.

    Args:
        expect: see :data:`Expect`.
    """

    def __init__(self, state: State, expect: Expect | None = None) -> None:
        self._state = state
        self._expect = expect
        self._old = state.columns
        self._config = state.config
        self._next_id = self._first_new_id = state.next_id
        self._version = self._old.version
        self._bytes_used = self._old.bytes_used
        self._died = np.zeros(0, np.uint64)
        """The version at which each stored record dies, 0 = it stays; empty while all do."""
        self._new: list[Rows] = []
        self._new_bodies: list[memoryview] = []
        self._new_stays = np.zeros(0, bool)
        self._classes: set[int] = set()
        self._answers: list[Answer] = []
        self.pushed_bytes = 0

    @property
    def needs_commit(self) -> bool:
        """Whether anything is to be written: ids count too, of what a policy draws by."""
        drawn = self._config.eviction == "reservoir" and self._next_id > self._first_new_id
        return self._version > self._old.version or bool(self._answers or self._classes or drawn)

    def take_in(self, push: Pending) -> PushAnswer:
        """Judge a push after all that were judged before; where it raises, the plan is as before.

        Raises:
            BudgetError: see :func:`memory_service.store.pure.eviction.plan`; ``learner_quota_exceeded``.
            ConflictError: see :func:`memory_service.store.pure.fit.fitted`.
        """
        incoming, num = push.new, len(push.new)
        config = fitted(self._config, [*self._state.held, *self._new], incoming, push.vocabulary)
        # Every record of a push that changes anything takes an id, kept or not.
        incoming["exemplar_id"] = np.arange(self._next_id, self._next_id + num, dtype=np.uint64)
        seen = set(np.unique(incoming["class_id"]).tolist()) - self._state.classes - self._classes
        num_seen = len(self._state.classes) + len(self._classes) + len(seen)
        budget = self._config.budget_bytes
        if self._config.budget.grows:
            budget = max(budget, self._config.budget_for(num_seen))

        charge = charge_of(incoming["length"])
        evicted: list[int] = []
        accepted = np.ones(num, dtype=bool)
        stays, new_stays = self._lives(), self._new_stays
        # Where nothing is evicted, room that is free may be others'.
        keeps_free = self._config.eviction == "reject" and self._config.learner_floor is not None
        if self._bytes_used + int(charge.sum()) > budget or keeps_free:
            stays, new_stays, accepted = self._judge(incoming, budget)
            evicted = self._old.shown_ids[self._lives() & ~stays].tolist()
            new_ids = [id_ for part in self._new for id_ in part["exemplar_id"].tolist()]
            evicted += [new_ids[place] for place in np.flatnonzero(self._new_stays & ~new_stays)]
        self._expect_room(stays, new_stays, incoming, accepted)
        changed = bool(accepted.any() or evicted)
        self._version += changed
        if evicted:
            if not len(self._died):
                self._died = np.zeros(self._old.num_records, np.uint64)
            self._died[(self._died == 0) & ~stays] = self._version
            self._new_stays &= new_stays
        kept = np.flatnonzero(accepted)
        self._new.append(incoming if len(kept) == num else incoming.take(kept))
        self._new_bodies += [push.bodies[place] for place in kept.tolist()]
        self._new_stays = np.concatenate([self._new_stays, np.ones(int(accepted.sum()), bool)])
        self._bytes_used = self._stored_bytes()
        if changed or seen or self._config.eviction == "reservoir":
            # A push of which nothing is left takes no ids, so that there is nothing of it to write but its answer.
            self._next_id += num
        self._classes |= seen
        self.pushed_bytes += int(charge[accepted].sum())
        if not changed:
            config = self._config
        if config.budget_bytes != budget:
            config = replace(config, budget_bytes=budget)
        self._config = config
        result = PushResponse(
            exemplar_ids=tuple(
                id_ if is_kept else None
                for id_, is_kept in zip(incoming["exemplar_id"].tolist(), accepted.tolist(), strict=True)
            ),
            kept=int(accepted.sum()),
            rejected=num - int(accepted.sum()),
            evicted=tuple(sorted(evicted)),
            bytes_used=self._bytes_used,
            budget_bytes=budget,
            version=self._version,
        )
        document = json.dumps(vars(result), separators=(",", ":"))
        if push.key is not None:
            self._answers.append(Answer.of(push.key, push.digest, document))
        return PushAnswer(document, kept=result.kept, rejected=result.rejected, evicted=len(evicted))

    def change(self) -> Change:
        """All of it as one change."""
        dead = np.flatnonzero(self._died)
        new = concatenated(self._new)
        bodies = self._new_bodies
        if not self._new_stays.all():
            new = new[self._new_stays]
            bodies = [body for body, stays in zip(bodies, self._new_stays.tolist(), strict=True) if stays]
        return Change(
            version=self._version,
            next_id=self._next_id,
            config=self._config,
            new=new,
            bodies=bodies,
            dead=dead,
            died=self._died[dead],
            classes=frozenset(self._classes),
            answers=self._answers,
        )

    def _judge(self, incoming: Rows, budget: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the stored, the newly taken in and the incoming records stay."""
        lives = np.flatnonzero(self._lives())
        new = np.flatnonzero(self._new_stays)
        parts: list[Rows | Columns] = [self._old.kept(self._version, self._lives()) if len(self._died) else self._old]
        if len(new):
            parts.append(concatenated(self._new).take(new))
        parts.append(incoming)
        competing = candidates(parts, self._config)
        num_stored = len(lives) + len(new)
        keep = eviction.plan(self._config.eviction, competing, num_stored, budget, self._config.learner_floor)
        stays = np.zeros(self._old.num_records, dtype=bool)
        stays[lives] = keep[: len(lives)]
        new_stays = np.zeros(len(self._new_stays), dtype=bool)
        new_stays[new] = keep[len(lives) : len(lives) + len(new)]
        return stays, new_stays, keep[len(lives) + len(new) :]

    def _expect_room(
        self,
        stays: NDArray[np.bool_],
        new_stays: NDArray[np.bool_],
        incoming: Rows,
        accepted: NDArray[np.bool_],
    ) -> None:
        """Raises ``BudgetError``: what would stay is too much of a learner."""
        if self._expect is None:
            return
        held: list[Rows | Columns] = [self._old.take(np.flatnonzero(stays)), incoming.take(np.flatnonzero(accepted))]
        if self._new:
            held.append(concatenated(self._new).take(np.flatnonzero(new_stays)))
        lengths = np.concatenate([part["length"] for part in held])
        self._expect(np.concatenate([part["learner"] for part in held]), charge_of(lengths))

    def _lives(self) -> NDArray[np.bool_]:
        return self._died == 0 if len(self._died) else np.ones(self._old.num_records, dtype=bool)

    def _stored_bytes(self) -> int:
        total = self._old.bytes_used
        if len(self._died):
            total -= int(self._old.charge[self._died > 0].sum())
        lengths = np.concatenate([np.zeros(0, np.uint32), *(part["length"] for part in self._new)])
        return total + int(charge_of(lengths[self._new_stays]).sum())


def candidates(parts: Sequence[Rows | Columns], config: BufferConfig) -> eviction.Candidates:
    """Rows, oldest first, as what a policy chooses from."""

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([part[name] for part in parts])

    ids = np.concatenate([part.shown_ids if isinstance(part, Columns) else part["exemplar_id"] for part in parts])
    order = np.arange(len(ids))
    if any(isinstance(part, Columns) and len(part.revised) for part in parts):
        # An exemplar is as old as it is, however often its arrays were replaced.
        order[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return eviction.Candidates(
        class_id=joined("class_id"),
        rank=joined("rank"),
        score=joined("score").astype(np.float32),
        charge=charge_of(joined("length")),
        order=order,
        key=eviction.reservoir_keys(config.draw_key, ids) if config.eviction == "reservoir" else None,
        learner=None if config.learner_floor is None else joined("learner"),
    )
