"""One buffer of a service: push, list, look, sample, change, and what becomes of it over time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from client import _changes, _listing, _push, _transfer
from client._answers import buffer_path, read_records, read_version
from client._params import UNSET, Many, Sort, Unset, conditions, given, numbers, present, query_string, whole
from client.batch import ReplayBatch
from client.errors import ProtocolError
from client.models import (
    BufferInfo,
    BufferStats,
    ChangedBuffer,
    DeleteResult,
    Diff,
    ExemplarDetail,
    ExemplarInfo,
    PushResult,
    SnapshotInfo,
    UpdateResult,
    parse,
)
from memory_format import MEDIA_TYPE, Dropped, Record, encode_batch

if TYPE_CHECKING:
    from client.api import MemoryClient

Eviction = Literal["class_balanced", "lowest_score", "fifo", "reservoir", "reject"]
Strategy = Literal["uniform", "class_balanced", "score_weighted"]


@dataclass(frozen=True)
class Buffer:
    """One buffer of a service. Get it from a :class:`MemoryClient`.

    Wherever a method takes ``snapshot``, it reads what the buffer held when that was taken, and raises
    ``NotFoundError`` (``unknown_snapshot``) where there is none of that name; None: what it holds now.
    """

    client: MemoryClient
    name: str

    def info(self) -> BufferInfo:
        """Its settings and how full it is."""
        return parse(BufferInfo, self.client._json("GET", buffer_path(self.name)))

    def stats(self) -> BufferStats:
        """Bytes and records, in all and by class, phase and learner."""
        return parse(BufferStats, self.client._json("GET", buffer_path(self.name, "stats")))

    def configure(
        self,
        *,
        budget_bytes: int | Unset = UNSET,
        full_samples_per_class: int | Unset = UNSET,
        full_sample_bytes: int | Unset = UNSET,
        num_classes: int | Unset | None = UNSET,
        max_budget_bytes: int | Unset | None = UNSET,
        disk_limit_bytes: int | Unset | None = UNSET,
        eviction: Eviction | Unset = UNSET,
        retain_snapshots: int | Unset | None = UNSET,
        description: str | Unset = UNSET,
    ) -> ChangedBuffer:
        """Change settings; what is not given stays, and None sets the default again.

        A smaller budget evicts by the buffer's policy. A budget is given whole, as to
        :meth:`MemoryClient.create_buffer`: ``num_classes`` goes with the two numbers of full samples.

        Returns:
            the buffer's settings now, and the ids that were evicted.

        Raises:
            FormatError: a setting is not a usable one.
            BudgetError: what is held does not fit, and may not be evicted; or what snapshots hold does not.
        """
        changes = given(
            {
                "budget_bytes": budget_bytes,
                "full_samples_per_class": full_samples_per_class,
                "full_sample_bytes": full_sample_bytes,
                "num_classes": num_classes,
                "max_budget_bytes": max_budget_bytes,
                "disk_limit_bytes": disk_limit_bytes,
                "eviction": eviction,
                "retain_snapshots": retain_snapshots,
                "description": description,
            }
        )
        return parse(ChangedBuffer, self.client._json("PATCH", buffer_path(self.name), json=changes))

    def push(
        self,
        records: Iterable[Record],
        *,
        dry_run: bool = False,
        max_batch_bytes: int = 8 * 1024 * 1024,
        max_batch_records: int = 1000,
        idempotency_key: str | None = None,
    ) -> PushResult:
        """Store records. Each batch is stored whole or not at all.

        The records are read as they are sent: a generator never has more than one batch in memory.

        A batch for which the service has no room on disk until it has cleaned up (``disk_limit_exceeded``) is
        cut in half, and so are its halves: each piece is judged and stored by itself.

        Args:
            dry_run: change nothing, and say what would be kept and evicted now, and which ids would be given.
                For one batch only, as the second would depend on the first.
            max_batch_bytes: bytes of records a request; a larger record goes alone.
            max_batch_records: records a request.
            idempotency_key: 1..100 printable ASCII characters that name this push; default a random one. With
                the same key and batch limits, the same records are stored once: batches that had arrived are
                answered from memory, cut as they were then.

        Raises:
            ValueError: the key or a limit makes no sense, or a dry run would need several batches.
            BudgetError: they do not fit.
            FormatError: a record is malformed; its ``details["index"]`` counts within the batch.
            BusyError: the service takes no more pushes now, also after the last try.
            ServiceError: no usable answer. Like the errors above it carries, in ``details``,
                ``records_acknowledged`` (of batches that had been stored before) and ``idempotency_key``.
        """
        key = _push.check_key(uuid.uuid4().hex if idempotency_key is None else idempotency_key)
        batches: Iterable[list[Record]] = _push.cut(records, max_batch_bytes, max_batch_records)
        params = query_string({"dry_run": "true" if dry_run else None})

        def send(batch: Sequence[Record], batch_key: str) -> Mapping[str, Any]:
            headers = {"Content-Type": MEDIA_TYPE, "Idempotency-Key": batch_key}
            content = encode_batch(batch)
            # Safe by its key.
            path = buffer_path(self.name, "exemplars")
            answer: Mapping[str, Any] = self.client._json("POST", path, params=params, content=content, headers=headers)
            return answer

        if dry_run:
            answers = [send(batch, f"{key}-0") for batch in _push.only_batch(iter(batches))]
        else:
            answers = _push.push_batches(batches, key, send)
        if not answers:
            now = self.info()
            return PushResult((), 0, 0, (), now.bytes_used, now.budget_bytes, now.version, 0)
        return _push.push_result(answers)

    def update_scores(
        self,
        exemplar_ids: ArrayLike,
        scores: ArrayLike | None = None,
        ranks: ArrayLike | None = None,
        *,
        if_version: int | None = None,
    ) -> UpdateResult:
        """Give exemplars other scores, ranks or both. They count from the next eviction and sample on.

        Many are sent in several requests, one after another; with ``if_version`` in one.

        Args:
            exemplar_ids: ``(N,)`` integers, each once. Those that the buffer does not hold (any more) are passed
                over and named in the result.
            scores: ``(N,)`` finite numbers; kept as float32.
            ranks: ``(N,)`` integers, 0..2**32-1, the best first.
            if_version: only if the buffer is at this version. It is not tried again after a broken connection,
                as the buffer may be at the next version then by this very request.

        Raises:
            ValueError: the arrays are not such, or more than 100,000 go with ``if_version``.
            ConflictError: ``stale_version``.
            FormatError: a number is out of range.
            ServiceError: no usable answer. Like the errors above it carries ``ids_acknowledged`` in ``details``:
                how many of the first ids had been dealt with before.
        """
        return _changes.update(self, exemplar_ids, scores, ranks, if_version)

    def delete(
        self,
        exemplar_ids: int | ArrayLike | None = None,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
    ) -> DeleteResult:
        """Delete exemplars: those named, or those that match all the conditions given. Snapshots keep theirs.

        Args:
            exemplar_ids: one id or several; a request each, one after another. Those that the buffer does not
                hold (any more) are passed over and named in the result.

        Returns:
            what was deleted; after a broken connection, ids that an earlier try deleted may be lacking where
            conditions were given.

        Raises:
            ValueError: neither ids nor conditions are given, or both.
        """
        where = conditions(class_id, phase, learner_id)
        if (exemplar_ids is None) == (not where):
            raise ValueError("either exemplar_ids are needed, or at least one of class_id, phase and learner_id")
        if exemplar_ids is None:
            path = buffer_path(self.name, "exemplars")
            return parse(DeleteResult, self.client._json("DELETE", path, params=query_string(where)))
        return _changes.delete_each(self, numbers("exemplar_ids", np.atleast_1d(np.asarray(exemplar_ids))).tolist())

    def query(
        self,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        min_score: float | None = None,
        max_score: float | None = None,
        sort: Sort = "exemplar_id",
        limit: int | None = None,
        snapshot: str | None = None,
    ) -> Iterator[ExemplarInfo]:
        """Exemplars that match, without their contents, page by page as they are asked for.

        Args:
            sort: by which column; ``-`` for descending. Equal values come in the order of their ids.
            limit: the most to give; None = all.
        """
        where = {**conditions(class_id, phase, learner_id), "min_score": min_score, "max_score": max_score}
        return _listing.infos(self, {**where, "sort": sort, "snapshot": snapshot}, limit)

    def records(
        self,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        min_score: float | None = None,
        max_score: float | None = None,
        sort: Sort = "exemplar_id",
        limit: int | None = None,
        snapshot: str | None = None,
    ) -> Iterator[Record]:
        """As :meth:`query`, but whole records."""
        where = {**conditions(class_id, phase, learner_id), "min_score": min_score, "max_score": max_score}
        return _listing.records(self, {**where, "sort": sort, "snapshot": snapshot}, limit)

    def get(self, exemplar_id: int, *, snapshot: str | None = None) -> ExemplarDetail:
        """One exemplar: metadata, masks, tokens and the user's JSON.

        Raises:
            NotFoundError: the buffer does not hold it.
        """
        path = buffer_path(self.name, "exemplars", str(whole("exemplar_id", exemplar_id, 0)))
        return parse(ExemplarDetail, self.client._json("GET", path, params=query_string({"snapshot": snapshot})))

    def image(
        self, exemplar_id: int, *, dropped: Dropped = "grey", scale: int = 1, snapshot: str | None = None
    ) -> bytes:
        """The exemplar as a picture, PNG.

        Args:
            dropped: what stands for dropped patches: ``grey``, ``black`` or ``transparent``.
            scale: 1..8, pixels of the picture for one of the record's, along each side.

        Raises:
            NotFoundError: the buffer does not hold it.
            FormatError: an argument is not such, or the picture would be too large.
        """
        path = buffer_path(self.name, "exemplars", str(whole("exemplar_id", exemplar_id, 0)), "image.png")
        params = query_string({"dropped": dropped, "scale": scale, "snapshot": snapshot})
        response = self.client._request("GET", path, safe=True, params=params)
        if not response.content.startswith(b"\x89PNG"):
            raise ProtocolError(f"{path} did not answer with a PNG image")
        return response.content

    def sample(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        step: int = 0,
        strategy: Strategy = "uniform",
        replace: bool = True,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        repair_text: float = 0.0,
        version: int | None = None,
        snapshot: str | None = None,
        decode_threads: int | None = None,
        pixels: bool = True,
    ) -> ReplayBatch:
        """Draw a replay batch. The same arguments on the same contents give the same batch.

        Args:
            batch_size: B.
            seed, step: name the draw: one seed a run, one step a batch.
            strategy: ``uniform``: every record with equal chances; ``class_balanced``: every class;
                ``score_weighted``: every record in proportion to its score, and none of 0 or less.
            replace: whether a record may be drawn more than once into the batch.
            class_id, phase, learner_id: draw only from these.
            repair_text: probability that a record carries the text of another one of its class.
            version: draw only if the buffer, or the snapshot, is at this version.
            decode_threads, pixels: as in :meth:`ReplayBatch.from_records`.

        Raises:
            NotFoundError: no exemplar matches.
            ConflictError: ``stale_version``.
            FormatError: more are asked for without replacement than there are, or the drawn records have
                different patch sizes.
        """
        body = {
            "batch_size": batch_size,
            "seed": seed,
            "step": step,
            "strategy": strategy,
            "replace": replace,
            **conditions(class_id, phase, learner_id),
            "repair_text": repair_text,
            **present({"version": version, "snapshot": snapshot}),
        }
        response = self.client._request(
            "POST", buffer_path(self.name, "sample"), safe=True, json=body, headers={"Accept": MEDIA_TYPE}
        )
        found = read_records(response)
        if len(found) != batch_size:
            raise ProtocolError(f"{batch_size} records were asked for, {len(found)} came")
        version = read_version(response)
        return ReplayBatch.from_records(found, decode_threads=decode_threads, pixels=pixels, version=version)

    def take_snapshot(self, name: str) -> SnapshotInfo:
        """Name what the buffer holds now; nothing happens where the name stands for just that already.

        A snapshot costs no copy. What it holds and the buffer no longer does counts towards the disk limit.

        Raises:
            ConflictError: ``snapshot_exists``: the name stands for an earlier version.
            BudgetError: ``disk_limit_exceeded``.
        """
        return parse(SnapshotInfo, self.client._json("PUT", buffer_path(self.name, "snapshots", name)))

    def snapshots(self) -> list[SnapshotInfo]:
        """All snapshots, oldest first."""
        return list(_listing.listed(self.client, buffer_path(self.name, "snapshots"), "snapshots", SnapshotInfo))

    def snapshot(self, name: str) -> SnapshotInfo:
        """One snapshot.

        Raises:
            NotFoundError: there is none of that name.
        """
        return parse(SnapshotInfo, self.client._json("GET", buffer_path(self.name, "snapshots", name)))

    def delete_snapshot(self, name: str) -> None:
        """Remove a snapshot, and from the disk what only it holds.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.client._delete(buffer_path(self.name, "snapshots", name))

    def diff(self, before: str, after: str | None = None) -> Diff:
        """What came and went between a snapshot and another one, or now.

        Raises:
            NotFoundError: there is no such snapshot.
        """
        params = query_string({"from": before, "to": after})
        return parse(Diff, self.client._json("GET", buffer_path(self.name, "diff"), params=params))

    def fork(
        self,
        name: str,
        *,
        snapshot: str | None = None,
        disk_limit_bytes: int | None = None,
        description: str | None = None,
    ) -> Buffer:
        """A new buffer that starts with what this one holds, and goes its own way from there.

        Nothing is copied. Budget, eviction, ids and version are this buffer's; its snapshots are not taken
        over. It is not tried again after a broken connection, as nobody knows then whether it was made.

        Args:
            disk_limit_bytes, description: None = this buffer's.

        Raises:
            ConflictError: there is a buffer of that name.
            BudgetError: ``disk_limit_exceeded``.
        """
        wanted = {
            "name": name,
            "snapshot": snapshot,
            "disk_limit_bytes": disk_limit_bytes,
            "description": description,
        }
        self.client._request("POST", buffer_path(self.name, "forks"), safe=False, json=present(wanted))
        return Buffer(self.client, name)

    def export(self, path: str | os.PathLike[str], *, snapshot: str | None = None, progress: bool = False) -> Path:
        """Write the buffer to a file, a ZIP with a Zarr store; :meth:`MemoryClient.import_buffer` reads it.

        It is received piece by piece, in a file beside ``path`` that takes its place, and that of what was
        there before, when it is whole.

        Args:
            progress: show a bar; needs ``tqdm``.

        Returns:
            ``path``.

        Raises:
            ProtocolError: what came is not a whole ZIP file.
            OSError: it cannot be written.
        """
        target = Path(path)
        with _transfer.replacing(target) as partial:
            self.client._request(
                "GET",
                buffer_path(self.name, "export"),
                safe=True,
                params=query_string({"snapshot": snapshot}),
                receive=lambda response, chunks: _transfer.save(response, chunks, partial, progress=progress),
            )
        return target
