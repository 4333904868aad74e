"""What a library keeps, in a buffer of the service: pushed, removed, and at hand again by id."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client import Buffer, PushResult, ReplayBatch
from client.cache import default_bytes
from memory_format import ConflictError, ExemplarMemoryError, Record
from memory_format.extras import StoredArray

T = TypeVar("T")

_FORMAT: Final = 1
_CHUNK: Final = 128
"""Exemplars that are fetched or decoded together."""


@dataclass(frozen=True)
class Pushed:
    """What became of a push."""

    exemplar_ids: NDArray[np.int64]
    """``(N,)``; -1 = not kept, as the budget has no room for it."""
    evicted: frozenset[int]
    """Exemplars of before that had to make room."""
    result: PushResult
    """The same as the client has it, for :func:`client.phase_report.phase_report`."""


class Exemplars(Generic[T]):
    """Exemplars by id, each decoded once.

    Args:
        buffer: where they are kept. Nobody else may change it meanwhile: the library decides what stays.
        decode: exemplars of a batch as the library has them.
        size_of: bytes of one of these.
        cache_bytes: the most that decoded ones may take; those beyond are fetched whenever they are asked for. None =
            256 MiB, or a sixteenth of the machine's memory where that is less.
    """

    def __init__(
        self,
        buffer: Buffer,
        decode: Callable[[ReplayBatch], Iterable[T]],
        size_of: Callable[[T], int],
        *,
        cache_bytes: int | None = None,
    ) -> None:
        self.buffer = buffer
        self._decode = decode
        self._size_of = size_of
        self._room = default_bytes() if cache_bytes is None else cache_bytes
        self._largest = 1
        """Bytes of the largest one so far."""
        self._held: dict[int, T] = {}
        self._unfinished: tuple[Sequence[Record], str] | None = None
        """Of a push that failed: what it may have stored, and under which key."""
        self._lost: frozenset[int] = frozenset()
        """What it evicted."""

    def push(self, records: Sequence[Record]) -> Pushed:
        """Store records, in this order: all of them, in several requests where one would be too large, or none.

        What a push that fails has stored already is deleted again: at once, or before the next one where the service
        does not answer, unless that is of the same records and goes on with it. What it has evicted is gone, and named
        by the next one.
        """
        if self._unfinished is not None and [*records] == [*self._unfinished[0]]:
            key = self._unfinished[1]
        else:
            self._undo()
            key = uuid.uuid4().hex
        self._unfinished = records, key
        try:
            result = self.buffer.push(records, idempotency_key=key)
        except ExemplarMemoryError as error:
            self._take_back(error.details)
            raise
        self._unfinished = None
        evicted, self._lost = self._lost.union(result.evicted), frozenset()
        ids = [-1 if id_ is None or id_ in evicted else id_ for id_ in result.exemplar_ids]
        self._forget(evicted)
        kept = ((id_, record) for id_, record in zip(ids, records, strict=True) if id_ >= 0)
        while part := list(islice(kept, self._fitting())):
            # As the service would give them, without asking it.
            self._keep((id_ for id_, _ in part), ReplayBatch.from_records(record for _, record in part))
        return Pushed(np.array(ids, dtype=np.int64), evicted, result)

    def _undo(self) -> None:
        """Delete what a push that failed has stored. The same key gives the same answers, and their ids."""
        if self._unfinished is None:
            return
        records, key = self._unfinished
        try:
            stored = self.buffer.push(records, idempotency_key=key)
        except ExemplarMemoryError as error:
            self._take_back(error.details)
        else:
            self._take_back({"exemplar_ids": stored.exemplar_ids, "evicted": stored.evicted})

    def _take_back(self, stored: Mapping[str, Any]) -> None:
        """Delete what is stored of an unfinished push; what got no answer before a refusal is not."""
        evicted = frozenset(stored.get("evicted", ()))
        ids = {id_ for id_ in stored.get("exemplar_ids", ()) if id_ is not None}
        self.remove(ids - evicted)
        self._lost = (self._lost | evicted) - ids
        self._forget(self._lost)
        self._unfinished = None

    def replace(self, exemplar_ids: Sequence[int], arrays: Mapping[str, ArrayLike]) -> frozenset[int]:
        """Give exemplars other arrays, ``(N, ...)`` by name. Returns the ids of those that are gone: that had to make
        room, or were not held."""
        result = self.buffer.replace(exemplar_ids, arrays)
        gone = frozenset((*result.evicted, *result.missing))
        self._forget(gone)
        return gone

    def remove(self, exemplar_ids: Iterable[int]) -> None:
        """Delete exemplars; snapshots keep theirs."""
        ids = list(exemplar_ids)
        if ids:
            self.buffer.delete(ids)
            self._forget(ids)

    def get(self, exemplar_ids: Sequence[int], ahead: Iterable[int] = ()) -> list[T]:
        """Exemplars in the order asked for, the same one any number of times.

        Args:
            ahead: others that will be asked for; they come along as far as there is room for them.

        Raises:
            NotFoundError: the service does not hold one any more.
        """
        missing = [id_ for id_ in dict.fromkeys(exemplar_ids) if id_ not in self._held]
        if not missing:
            return [self._held[id_] for id_ in exemplar_ids]
        others = (id_ for id_ in ahead if id_ not in self._held and id_ not in missing)
        missing += islice(others, max(0, self._fitting() - len(missing)))
        fresh: dict[int, T] = {}
        for first in range(0, len(missing), _CHUNK):
            part = missing[first : first + _CHUNK]
            fresh |= self._keep(part, self.buffer.fetch(part))
        return [fresh[id_] if id_ in fresh else self._held[id_] for id_ in exemplar_ids]

    def arrays(self, exemplar_ids: Sequence[int]) -> Iterator[tuple[int, dict[str, StoredArray]]]:
        """Ids and what arrays their records have, as they are in the service.

        Raises:
            NotFoundError: the service does not hold one any more.
        """
        for first in range(0, len(exemplar_ids), _CHUNK):
            part = exemplar_ids[first : first + _CHUNK]
            yield from zip(part, self.buffer.fetch(part, pixels=False).arrays(), strict=True)

    def _fitting(self) -> int:
        """About how many more there is room for, at most a chunk."""
        return min(_CHUNK, self._room // self._largest)

    def _keep(self, exemplar_ids: Iterable[int], batch: ReplayBatch) -> dict[int, T]:
        found = dict(zip(exemplar_ids, self._decode(batch), strict=True))
        for id_, one in found.items():
            size = self._size_of(one)
            self._largest = max(self._largest, size)
            if size <= self._room:
                self._room -= size
                self._held[id_] = one
        return found

    def _forget(self, exemplar_ids: Iterable[int]) -> None:
        for id_ in exemplar_ids:
            one = self._held.pop(id_, None)
            if one is not None:
                self._room += self._size_of(one)

    def state_dict(self) -> dict[str, Any]:
        """The name of a snapshot that is taken now: what a checkpoint needs in place of the data."""
        self._undo()
        version = self.buffer.info().version
        name = f"state-{version}"
        taken = self.buffer.take_snapshot(name)
        if taken.version != version:
            raise ConflictError(f"buffer {self.buffer.name!r} is changed by others: {name} is of {taken.version}")
        return {"format": _FORMAT, "buffer": self.buffer.name, "snapshot": name, "version": version}

    def load_state_dict(self, state: Any) -> None:
        """Go on with what was held when a state was taken: in the buffer itself where nothing has changed since, else
        in a fork of the snapshot, :attr:`buffer` from then on.

        Raises:
            ValueError: it is no such state, or of a newer format.
            NotFoundError: the buffer or the snapshot is gone.
        """
        expect_state("exemplars", state, "format", "buffer", "snapshot", "version")
        if state["format"] > _FORMAT:
            raise ValueError(f"the state is of format {state['format']}, this version reads up to {_FORMAT}")
        buffer = Buffer(self.buffer.client, state["buffer"])
        if buffer.info().version != state["version"]:
            buffer = _forked(buffer, state["snapshot"], f"{buffer.name[:40]}-{state['version']}")
        if buffer.name != self.buffer.name:
            # Ids that were given after the snapshot are others there.
            self._forget(list(self._held))
        self.buffer = buffer


def expect_state(what: str, state: Any, *parts: str) -> None:
    """Raises ``ValueError``: a state lacks parts, so it is of something else."""
    if not isinstance(state, Mapping) or not {*parts} <= state.keys():
        raise ValueError(f"this is no state of {what}: {state!r:.100}")


def _forked(buffer: Buffer, snapshot: str, stem: str) -> Buffer:
    """A fork under a name that is free."""
    for number in count(1):
        try:
            return buffer.fork(stem if number == 1 else f"{stem}-{number}", snapshot=snapshot)
        except ConflictError as error:
            if error.code != "buffer_exists":
                raise
    raise AssertionError
