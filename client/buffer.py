"""One buffer of a service: push, list, look, sample."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from client._answers import buffer_path, list_member, read_json, read_records
from client._transport import Params
from client.batch import ReplayBatch
from client.errors import ProtocolError, ServiceError
from client.models import BufferInfo, BufferStats, ExemplarDetail, ExemplarInfo, PushResult, parse
from memory_format import MEDIA_TYPE, ExemplarMemoryError, Record, encode_batch

if TYPE_CHECKING:
    from client.api import MemoryClient

T = TypeVar("T")
Many: TypeAlias = T | Sequence[T] | None
"""One value, several of which any may match, or None for no condition."""

Strategy = Literal["uniform", "class_balanced"]
Sort = Literal["exemplar_id", "-exemplar_id", "score", "-score", "rank", "-rank"]

_PAGE = 500
# What a record takes on the wire beside its body: the fixed columns, the offsets and the CRC.
_WIRE_OVERHEAD = 128


@dataclass(frozen=True)
class Buffer:
    """One buffer of a service. Get it from a :class:`MemoryClient`."""

    client: MemoryClient
    name: str

    def info(self) -> BufferInfo:
        """Its settings and how full it is."""
        return parse(BufferInfo, self.client._json("GET", buffer_path(self.name)))

    def stats(self) -> BufferStats:
        """Bytes and records, in all and by class, phase and learner."""
        return parse(BufferStats, self.client._json("GET", buffer_path(self.name, "stats")))

    def push(
        self,
        records: Iterable[Record],
        *,
        max_batch_bytes: int = 8 * 1024 * 1024,
        max_batch_records: int = 1000,
        idempotency_key: str | None = None,
    ) -> PushResult:
        """Store records. Each batch is stored whole or not at all.

        The records are read as they are sent: a generator never has more than one batch in memory.

        Args:
            max_batch_bytes: bytes of records a request; a larger record goes alone.
            max_batch_records: records a request.
            idempotency_key: 1..100 printable ASCII characters that name this push; default a random one. With
                the same key and batch limits, the same records are stored once: batches that had arrived are
                answered from memory.

        Raises:
            ValueError: the key or a limit makes no sense.
            BudgetError: they do not fit.
            FormatError: a record is malformed; its ``details["index"]`` counts within the batch.
            ServiceError: no usable answer. Like the errors above it carries, in ``details``,
                ``records_acknowledged`` (of batches that had been stored before) and ``idempotency_key``.
        """
        key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        if not (1 <= len(key) <= 100 and key.isascii() and key.isprintable()):
            raise ValueError(f"an idempotency key is 1..100 printable ASCII characters, got {key!r:.120}")
        answers: list[Mapping[str, Any]] = []
        sent = 0
        for batch in _cut(records, max_batch_bytes, max_batch_records):
            headers = {"Content-Type": MEDIA_TYPE, "Idempotency-Key": f"{key}-{len(answers)}"}
            try:
                response = self.client._request(
                    "POST",
                    buffer_path(self.name, "exemplars"),
                    safe=True,  # by its key
                    content=encode_batch(batch),
                    headers=headers,
                )
                answers.append(read_json(response))
            except (ExemplarMemoryError, ServiceError) as error:
                error.details.update(records_acknowledged=sent, idempotency_key=key)
                raise
            sent += len(batch)
        return self._push_result(answers)

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
    ) -> Iterator[ExemplarInfo]:
        """Exemplars that match, without their contents, page by page as they are asked for.

        Args:
            sort: by which column; ``-`` for descending. Equal values come in the order of their ids.
            limit: the most to give; None = all.
        """
        params = _filters(class_id, phase, learner_id, min_score, max_score, sort)
        return islice(self._exemplars(params, limit), limit)

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
    ) -> Iterator[Record]:
        """As :meth:`query`, but whole records."""
        params = _filters(class_id, phase, learner_id, min_score, max_score, sort)
        return islice(self._records(params, limit), limit)

    def get(self, exemplar_id: int) -> ExemplarDetail:
        """One exemplar: metadata, masks, tokens and the user's JSON.

        Raises:
            NotFoundError: the buffer does not hold it.
        """
        path = buffer_path(self.name, "exemplars", str(int(exemplar_id)))
        return parse(ExemplarDetail, self.client._json("GET", path))

    def image(self, exemplar_id: int) -> bytes:
        """The exemplar as a picture, PNG, its dropped patches greyed.

        Raises:
            NotFoundError: the buffer does not hold it.
        """
        path = buffer_path(self.name, "exemplars", str(int(exemplar_id)), "image.png")
        response = self.client._request("GET", path, safe=True)
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
        decode_threads: int | None = None,
    ) -> ReplayBatch:
        """Draw a replay batch. The same arguments on the same contents give the same batch.

        Args:
            batch_size: B.
            seed, step: name the draw: one seed a run, one step a batch.
            strategy: every record with equal chances, or every class.
            replace: whether a record may be drawn more than once into the batch.
            class_id, phase, learner_id: draw only from these.
            repair_text: probability that a record carries the text of another one of its class.
            decode_threads: as in :meth:`ReplayBatch.from_records`.

        Raises:
            NotFoundError: no exemplar matches.
            FormatError: more are asked for without replacement than there are, or the drawn records have
                different patch sizes.
        """
        body = {
            "batch_size": batch_size,
            "seed": seed,
            "step": step,
            "strategy": strategy,
            "replace": replace,
            "class_id": _list("class_id", class_id),
            "phase": _list("phase", phase),
            "learner_id": _list("learner_id", learner_id),
            "repair_text": repair_text,
        }
        body = {name: value for name, value in body.items() if value is not None}
        response = self.client._request(
            "POST", buffer_path(self.name, "sample"), safe=True, json=body, headers={"Accept": MEDIA_TYPE}
        )
        found = read_records(response)
        if len(found) != batch_size:
            raise ProtocolError(f"{batch_size} records were asked for, {len(found)} came")
        return ReplayBatch.from_records(found, decode_threads=decode_threads)

    def _push_result(self, answers: Sequence[Mapping[str, Any]]) -> PushResult:
        if not answers:
            now = self.info()
            return PushResult((), 0, 0, (), now.bytes_used, now.budget_bytes, now.version, 0)
        try:
            return PushResult(
                exemplar_ids=tuple(item for answer in answers for item in answer["exemplar_ids"]),
                kept=sum(answer["kept"] for answer in answers),
                rejected=sum(answer["rejected"] for answer in answers),
                evicted=tuple(item for answer in answers for item in answer["evicted"]),
                bytes_used=answers[-1]["bytes_used"],
                budget_bytes=answers[-1]["budget_bytes"],
                version=answers[-1]["version"],
                batches=len(answers),
            )
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"the answer to a push lacks {error}") from None

    def _exemplars(self, params: Params, limit: int | None) -> Iterator[ExemplarInfo]:
        cursor: str | None = None
        page = _page_size(limit)
        while True:
            document = self.client._json("GET", buffer_path(self.name, "exemplars"), params=_page(params, page, cursor))
            for item in list_member(document, "exemplars"):
                yield parse(ExemplarInfo, item)
            cursor = document.get("next_cursor")
            if not cursor:
                return

    def _records(self, params: Params, limit: int | None) -> Iterator[Record]:
        cursor: str | None = None
        page = _page_size(limit)
        while True:
            response = self.client._request(
                "GET",
                buffer_path(self.name, "exemplars"),
                safe=True,
                params=_page(params, page, cursor),
                headers={"Accept": MEDIA_TYPE},
            )
            yield from read_records(response)
            cursor = response.headers.get("Exemplar-Memory-Next-Cursor")
            if not cursor:
                return


def _list(name: str, values: int | str | Sequence[int] | Sequence[str] | None) -> list[int | str] | None:
    """A filter's values as plain Python ones, None where there is no condition."""
    if values is None:
        return None
    listed: list[Any] = [values] if isinstance(values, str) or not isinstance(values, Iterable) else [*values]
    if not listed:
        # Nothing matches it, and sent as no values it would match everything.
        raise ValueError(f"{name}: an empty list matches nothing; None means no condition")
    return [value.item() if isinstance(value, np.generic) else value for value in listed]


def _filters(
    class_id: Many[int],
    phase: Many[int],
    learner_id: Many[str],
    min_score: float | None,
    max_score: float | None,
    sort: Sort,
) -> Params:
    params: Params = [("sort", sort)]
    params += [("class_id", value) for value in _list("class_id", class_id) or ()]
    params += [("phase", value) for value in _list("phase", phase) or ()]
    params += [("learner_id", value) for value in _list("learner_id", learner_id) or ()]
    params += [(name, v) for name, v in (("min_score", min_score), ("max_score", max_score)) if v is not None]
    return params


def _page_size(limit: int | None) -> int:
    return _PAGE if limit is None else max(1, min(_PAGE, limit))


def _page(params: Params, size: int, cursor: str | None) -> Params:
    return [*params, ("limit", size), *([("cursor", cursor)] if cursor else [])]


def _cut(records: Iterable[Record], max_bytes: int, max_records: int) -> Iterator[list[Record]]:
    """Batches of consecutive records within both limits; a record over ``max_bytes`` goes alone."""
    if max_bytes < 1 or max_records < 1:
        raise ValueError(f"batch limits start at 1, got {max_bytes} bytes and {max_records} records")
    batch: list[Record] = []
    size = 0
    for record in records:
        record_bytes = record.body_bytes + _WIRE_OVERHEAD
        if batch and (len(batch) == max_records or size + record_bytes > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record_bytes
    if batch:
        yield batch
