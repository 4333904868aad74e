"""Every change of a buffer: plan, write segment files, one transaction, then the picture in memory.

Whatever fails on the way, the buffer is as before: files are removed unless the transaction that speaks of
    them has
committed. Called by the holder of the buffer's lock.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from memory_format import ConflictError, StorageError
from memory_service.store import compaction, eviction, index, rows
from memory_service.store.columns import Arrays, Columns, charge_of, headers_of_rows
from memory_service.store.contents import Contents
from memory_service.store.model import BufferConfig, Options, PushAnswer, PushResult
from memory_service.store.segments import SegmentFiles, SegmentGoneError, WrittenSegment

logger = logging.getLogger(__name__)


class Commits:
    """Changes one buffer."""

    def __init__(
        self,
        config: BufferConfig,
        next_exemplar_id: int,
        index_: index.Index,
        segments: SegmentFiles,
        contents: Contents,
        options: Options,
    ) -> None:
        self._config = config
        self._next_id = next_exemplar_id
        self._index = index_
        self._segments = segments
        self._contents = contents
        self._options = options

    def known_answer(self, key: str, digest: str) -> PushAnswer | None:
        """The answer to an earlier push with this key.

        Raises:
            ConflictError: ``idempotency_key_reused``, the body was another.
        """
        c = index.pushes.c
        with self._index.read() as connection:
            found = connection.execute(
                sa.select(c.body_digest, c.response).where(c.buffer_id == self._config.id, c.idempotency_key == key)
            ).one_or_none()
        if found is None:
            return None
        if found.body_digest != digest:
            raise ConflictError(
                f"the idempotency key {key!r} was used for another body; new records take a new key",
                code="idempotency_key_reused",
            )
        return PushAnswer(found.response, replayed=True)

    def push(self, incoming: Arrays, bodies: Sequence[bytes], key: str | None, digest: str) -> PushAnswer:
        """Take in records; ``key`` and ``digest`` are remembered with the answer.

        Raises:
            BudgetError: see :func:`~memory_service.store.eviction.plan`.
            StorageError: they could not be stored.
        """
        old, states = self._contents.columns, self._contents.states
        keep = self._plan(old, incoming)
        stays, accepted = keep[: old.num_records], np.flatnonzero(keep[old.num_records :])
        new = {name: values[accepted] for name, values in incoming.items()}
        next_id = self._next_id + len(accepted)
        new["exemplar_id"] = np.arange(self._next_id, next_id, dtype=np.uint64)
        evicted = old["exemplar_id"][~stays].tolist()
        version = old.version + bool(len(accepted) or evicted)
        gone = rows.live_by_segment(old["segment"][~stays], old.charge[~stays])
        emptied = [states[id_] for id_, (count, _) in gone.items() if count == states[id_].live_records]

        kept_bodies = [bodies[place] for place in accepted.tolist()]
        with self._new_segments(new, kept_bodies) as written, self._index.write() as connection:
            added = rows.insert_segments(connection, self._config.id, written)
            new["segment"], new["offset"] = _places(written, added)
            rows.insert_records(connection, self._config.id, new, self._contents.learners)
            rows.delete_records(connection, self._config.id, evicted)
            rows.delete_segments(connection, [state.id for state in emptied])
            columns = (old.kept(version, stays) if evicted else old).appended(version, new)
            # The database's CHECK refuses it too; this one says so in words.
            assert columns.bytes_used <= self._config.budget_bytes, "the plan is over the budget"
            rows.update_counters(connection, self._config.id, old.version, columns, next_id)
            document = self._document(accepted, new["exemplar_id"], evicted, len(bodies), columns)
            if key is not None:
                self._remember(connection, key, digest, document)

        for segment_id, (count, charge) in gone.items():
            states[segment_id].live_records -= count
            states[segment_id].live_bytes -= charge
        _count_live(added, new)
        self._contents.adopt(columns, added, emptied)
        self._next_id = next_id
        return PushAnswer(document)

    def compact(self) -> None:
        """Rewrite the emptiest segments when too much of the files is dead. Does not raise: nothing depends
        on it."""
        columns = self._contents.columns
        chosen = compaction.choose(self._contents.states.values())
        if not chosen:
            return
        positions = np.flatnonzero(np.isin(columns["segment"], [state.id for state in chosen]))
        moved = columns.take(positions)
        try:
            bodies = self._contents.read_bodies(moved)
            with self._new_segments(moved, bodies) as written, self._index.write() as connection:
                added = rows.insert_segments(connection, self._config.id, written)
                moved["segment"], moved["offset"] = _places(written, added)
                rows.move_records(connection, self._config.id, moved)
                rows.delete_segments(connection, [state.id for state in chosen])
        except (StorageError, SegmentGoneError) as error:
            logger.exception("compaction of buffer %s failed; nothing is lost", self._config.name)
            damaged = error.details.get("segment") if isinstance(error, StorageError) else str(error)
            for state in chosen:
                state.damaged |= state.name == damaged
            return
        _count_live(added, moved)
        self._contents.adopt(columns.moved(positions, moved["segment"], moved["offset"]), added, chosen)

    def drop(self) -> None:
        """Delete the buffer's rows, then its files."""
        with self._index.write() as connection:
            for table in (index.records, index.segments, index.pushes):
                connection.execute(table.delete().where(table.c.buffer_id == self._config.id))
            connection.execute(index.buffers.delete().where(index.buffers.c.id == self._config.id))
        self._segments.delete(state.name for state in self._contents.states.values())

    def _plan(self, old: Columns, incoming: Arrays) -> NDArray[np.bool_]:
        charge = charge_of(incoming["length"])
        if old.bytes_used + int(charge.sum()) <= self._config.budget_bytes:
            return np.ones(old.num_records + len(charge), dtype=bool)
        candidates = eviction.Candidates(
            class_id=np.concatenate([old["class_id"], incoming["class_id"]]),
            rank=np.concatenate([old["rank"], incoming["rank"]]),
            score=np.concatenate([old["score"], incoming["score"]]),
            charge=np.concatenate([old.charge, charge]),
            order=np.arange(old.num_records + len(charge)),
        )
        return eviction.plan(self._config.eviction, candidates, old.num_records, self._config.budget_bytes)

    def _document(
        self,
        accepted: NDArray[np.int64],
        ids: NDArray[np.uint64],
        evicted: list[int],
        num_pushed: int,
        columns: Columns,
    ) -> str:
        exemplar_ids: list[int | None] = [None] * num_pushed
        for place, exemplar_id in zip(accepted.tolist(), ids.tolist(), strict=True):
            exemplar_ids[place] = exemplar_id
        result = PushResult(
            exemplar_ids=exemplar_ids,
            kept=len(accepted),
            rejected=num_pushed - len(accepted),
            evicted=evicted,
            bytes_used=columns.bytes_used,
            budget_bytes=self._config.budget_bytes,
            version=columns.version,
        )
        return json.dumps(asdict(result), separators=(",", ":"))

    def _remember(self, connection: sa.Connection, key: str, digest: str, document: str) -> None:
        now = time.time()
        too_old = index.pushes.c.created_at < now - self._options.idempotency_seconds
        connection.execute(index.pushes.delete().where(too_old))
        connection.execute(
            index.pushes.insert(),
            {
                "buffer_id": self._config.id,
                "idempotency_key": key,
                "body_digest": digest,
                "response": document,
                "created_at": now,
            },
        )

    @contextmanager
    def _new_segments(self, new: Arrays, bodies: Sequence[bytes]) -> Iterator[list[WrittenSegment]]:
        """Write files for the transaction in the block; remove them when it does not commit."""
        written = self._segments.write(
            headers_of_rows(new),
            self._contents.learner_ids(new),
            bodies,
            segment_bytes=self._options.segment_bytes,
        )
        try:
            yield written
        except BaseException:
            self._undo([segment.name for segment in written])
            raise

    def _undo(self, names: list[str]) -> None:
        try:
            with self._index.read() as connection:
                c = index.segments.c
                committed = connection.execute(sa.select(c.id).where(c.name.in_(names))).first() is not None
                if committed:
                    # The commit was reported as failed and yet took place: follow what is on disk.
                    self._contents.load(connection)
                    b = index.buffers.c
                    statement = sa.select(b.next_exemplar_id).where(b.id == self._config.id)
                    self._next_id = connection.execute(statement).scalar_one()
        except StorageError:
            logger.exception("cannot tell whether a change was committed; its files stay until the next start")
            return
        if not committed:
            self._segments.delete(names)


def _places(
    written: Sequence[WrittenSegment], states: Sequence[compaction.SegmentState]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Segment ids and offsets of the records in the order in which they were written."""
    ids = [np.full(part.last - part.first, state.id) for part, state in zip(written, states, strict=True)]
    offsets = [part.offsets for part in written]
    empty = [np.zeros(0, dtype=np.int64)]
    return np.concatenate(ids + empty).astype(np.uint32), np.concatenate(offsets + empty).astype(np.uint32)


def _count_live(states: Sequence[compaction.SegmentState], placed: Arrays) -> None:
    """Note in new segments' states what was written to them."""
    live = rows.live_by_segment(placed["segment"], charge_of(placed["length"]))
    for state in states:
        state.live_records, state.live_bytes = live[state.id]
