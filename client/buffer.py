"""One buffer of a service: push, list, look, sample; :mod:`client._changing` and :mod:`client._named` have the rest,
:mod:`client._phases` who learns with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

from numpy.typing import ArrayLike

from client import _cached, _listing, _push, _sampling
from client._address import buffer_path
from client._changing import Changing
from client._params import BufferSettings, Fields, Many, conditions, numbers, query_string, whole
from client._phases import InStep
from client.batch import ReplayBatch
from client.cache import PixelCache
from client.errors import ProtocolError
from client.models import PushResult
from memory_format import Dropped, Record
from memory_format.api.answers import BufferInfo, BufferStats, ChangedBuffer, ExemplarDetail, ExemplarInfo
from memory_format.api.contents import FieldCounts
from memory_format.api.terms import MAX_SAMPLE, Sort, Strategy


@dataclass(frozen=True)
class Buffer(Changing, InStep):
    """One buffer of a service. Get it from a :class:`MemoryClient`.

    Wherever a method takes ``snapshot``, it reads what the buffer held when that was taken, and raises
    ``NotFoundError`` (``unknown_snapshot``) where there is none of that name; None: what it holds now.
    """

    def info(self) -> BufferInfo:
        """Its settings and how full it is."""
        return self._ask(BufferInfo, "GET")

    def stats(self) -> BufferStats:
        """Bytes and records, in all and by class, phase and learner."""
        return self._ask(BufferStats, "GET", "stats")

    def configure(self, **changes: Unpack[BufferSettings]) -> ChangedBuffer:
        """Change settings; what is not given stays, and None sets the default again.

        A smaller budget evicts by the buffer's policy. A budget is given whole, as to
        :meth:`MemoryClient.create_buffer`: ``num_classes`` goes with the two numbers of full samples.

        Returns:
            the buffer's settings now, and the ids that were evicted.

        Raises:
            FormatError: a setting is not a usable one.
            BudgetError: what is held does not fit, and may not be evicted; or what snapshots hold does not.
            ConflictError: what is held has patches of another size, or texts of a vocabulary that was named.
        """
        if unknown := changes.keys() - BufferSettings.__annotations__.keys():
            raise TypeError(f"configure() got an unexpected keyword argument {min(unknown)!r}")
        return self._ask(ChangedBuffer, "PATCH", json=changes)

    def push(
        self,
        records: Iterable[Record],
        *,
        dry_run: bool = False,
        max_batch_bytes: int = 8 * 1024 * 1024,
        max_batch_records: int = 1000,
        idempotency_key: str | None = None,
        vocabulary: str | None = None,
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

            vocabulary: of the token ids (:func:`memory_format.vocabulary_fingerprint`). A buffer has texts of one
                vocabulary; where it has been named, every push with texts has to.

        Raises:
            ConflictError: the buffer has patches of another size (``patch_size_mismatch``), or token ids of another
                vocabulary (``vocabulary_mismatch``).
            ValueError: the key or a limit makes no sense, or a dry run would need several batches.
            BudgetError: they do not fit.
            FormatError: a record is malformed; its ``details["index"]`` counts within the batch.
            BusyError: the service takes no more pushes now, also after the last try.
            ServiceError: no usable answer. Like the errors above it carries, in ``details``,
                ``records_acknowledged`` (of batches that had been stored before), their ``exemplar_ids``, whom they
                ``evicted``, and ``idempotency_key``.
        """
        batches = _push.cut(records, max_batch_bytes, max_batch_records)
        return _push.push(self.client.session, self.name, batches, idempotency_key, vocabulary, dry_run=dry_run)

    def query(
        self,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        not_learner_id: Many[str] = None,
        fields: Fields = None,
        min_score: float | None = None,
        max_score: float | None = None,
        sort: Sort = "exemplar_id",
        limit: int | None = None,
        snapshot: str | None = None,
    ) -> Iterator[ExemplarInfo]:
        """Exemplars that match, without their contents, page by page as they are asked for.

        Args:
            class_id, phase, learner_id: only these; ``not_learner_id``: all but those of these learners.
            fields: only those with one of these values in each of these fields of the user's,
                ``{"split": "train", "source": ["a", "b"]}``. Values match as they are written, 3 and ``"3"`` alike.
            sort: by which column; ``-`` for descending. Equal values come in the order of their ids.
            limit: the most to give; None = all.
        """
        more = {"min_score": min_score, "max_score": max_score, "sort": sort, "snapshot": snapshot}
        where = conditions(class_id, phase, learner_id, not_learner_id, fields, **more)
        return _listing.infos(self.client.session, self.name, where, limit)

    def records(
        self,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        not_learner_id: Many[str] = None,
        fields: Fields = None,
        min_score: float | None = None,
        max_score: float | None = None,
        sort: Sort = "exemplar_id",
        limit: int | None = None,
        snapshot: str | None = None,
    ) -> Iterator[Record]:
        """As :meth:`query`, but whole records."""
        more = {"min_score": min_score, "max_score": max_score, "sort": sort, "snapshot": snapshot}
        where = conditions(class_id, phase, learner_id, not_learner_id, fields, **more)
        return _listing.records(self.client.session, self.name, where, limit)

    def fetch(
        self,
        exemplar_ids: ArrayLike,
        *,
        snapshot: str | None = None,
        decode_threads: int | None = None,
        pixels: bool = True,
    ) -> ReplayBatch:
        """Exemplars by their ids as a batch, in the order given, in one request.

        Args:
            exemplar_ids: ``(B,)`` integers, 1..4096 of them, each once.
            decode_threads, pixels: as in :meth:`ReplayBatch.from_records`.

        Raises:
            ValueError: they are not such.
            NotFoundError: ``unknown_exemplar``: some are not held (any more); ``details["exemplar_ids"]`` are these.
            FormatError: they have different patch sizes, or are too many bytes for one answer (``batch_too_large``).
        """
        ids = numbers("exemplar_ids", exemplar_ids).tolist()
        if len(set(ids)) != len(ids) or not 1 <= len(ids) <= MAX_SAMPLE:
            raise ValueError(f"1..{MAX_SAMPLE} exemplar_ids are needed, each once, got {ids!r:.100}")
        found = _listing.fetched(self.client.session, self.name, ids, snapshot)
        return ReplayBatch.from_batch(found, decode_threads=decode_threads, pixels=pixels)

    def count_by(
        self,
        field: str,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        fields: Fields = None,
        limit: int = 100,
        snapshot: str | None = None,
    ) -> FieldCounts:
        """Exemplars and bytes by a field of the user's, of all or of those that match, as in :meth:`query`.

        Args:
            limit: values that are listed, the most frequent first; at most 1,000.
        """
        where = conditions(class_id, phase, learner_id, fields=fields, limit=limit, snapshot=snapshot)
        return self._ask(FieldCounts, "GET", "exemplars", "counts", field, params=query_string(where))

    def get(self, exemplar_id: int, *, snapshot: str | None = None) -> ExemplarDetail:
        """One exemplar: metadata, masks, tokens and the user's JSON.

        Raises:
            NotFoundError: the buffer does not hold it.
        """
        exemplar = str(whole("exemplar_id", exemplar_id, 0))
        return self._ask(ExemplarDetail, "GET", "exemplars", exemplar, params=query_string({"snapshot": snapshot}))

    def image(
        self,
        exemplar_id: int,
        *,
        dropped: Dropped = "grey",
        scale: int = 1,
        picture: int = 0,
        snapshot: str | None = None,
    ) -> bytes:
        """The exemplar as a picture, PNG.

        Args:
            dropped: what stands for dropped patches: ``grey``, ``black`` or ``transparent``.
            picture: which of several, from 0.
            scale: 1..8, pixels of the picture for one of the record's, along each side.

        Raises:
            NotFoundError: the buffer does not hold it.
            FormatError: an argument is not such, or the picture would be too large.
        """
        path = buffer_path(self.name, "exemplars", str(whole("exemplar_id", exemplar_id, 0)), "image.png")
        params = query_string({"dropped": dropped, "scale": scale, "picture": picture or None, "snapshot": snapshot})
        response = self.client.session.request("GET", path, params=params)
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
        not_learner_id: Many[str] = None,
        fields: Fields = None,
        repair_text: float = 0.0,
        version: int | None = None,
        snapshot: str | None = None,
        stream: str = "",
        part: int = 0,
        parts: int = 1,
        next_step: int | None = None,
        decode_threads: int | None = None,
        pixels: bool = True,
        cache: PixelCache[Any] | None = None,
    ) -> ReplayBatch:
        """Draw a replay batch, or one part of it. The same arguments on the same contents give the same batch.

        Args:
            batch_size: records that are drawn: B, or those of all parts together.
            seed, step: name the draw: one seed a run, one step a batch.
            stream: a label of up to 64 printable ASCII characters. Another one is an independent draw: for several
                draws of one seed and step.
            part, parts: of a batch in so many parts, ask for this one, 0..parts - 1. The parts one after another are
                the batch, and no two differ by more than one record.
            strategy: ``uniform``: every record with equal chances; ``class_balanced``: every class;
                ``score_weighted``: every record in proportion to its score, and none of 0 or less.
            replace: whether a record may be drawn more than once into the batch.
            class_id, phase, learner_id: draw only from these.
            not_learner_id: leave out those of these learners: of everybody but me, say.
            fields: draw only from records with these fields, as in :meth:`query`.
            repair_text: probability that a record carries the text of another one of its class.
            version: draw only if the buffer, or the snapshot, is at this version.
            next_step: the step that is sampled next, at once, and with all else the same. On the service's machine it
                is drawn, and counted, before this batch is read: what is changed in between, it does not show.
            decode_threads, pixels: as in :meth:`ReplayBatch.from_records`.
            cache: an :class:`ExemplarCache`. Exemplars that it has are not decoded again, and it keeps the others. Such
                a batch has no ``records``. It is not asked without ``pixels``.

        Raises:
            NotFoundError: no exemplar matches.
            ConflictError: ``stale_version``.
            FormatError: more are asked for without replacement than there are, or the drawn records have
                different patch sizes, or there is no such part.
        """
        wanted = {"seed": seed, "step": step, "strategy": strategy, "replace": replace, "repair_text": repair_text}
        wanted |= conditions(
            class_id,
            phase,
            learner_id,
            not_learner_id,
            fields,
            version=version,
            snapshot=snapshot,
            stream=stream or None,
        )
        if (part, parts) != (0, 1):
            wanted |= {"part": part, "parts": parts}
        if cache is not None and pixels:
            return _cached.sample(self.client.session, self.name, batch_size, wanted, next_step, cache, decode_threads)
        return _sampling.sample(self.client.session, self.name, batch_size, wanted, next_step, decode_threads, pixels)
