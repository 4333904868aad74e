"""How records are pushed: cut into batches, and a batch that finds no room on disk into smaller ones."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from client._address import buffer_path
from client._params import fingerprint, query_string, whole
from client._session import Session
from client.errors import ServiceError
from client.models import PushResult
from memory_format import (
    MEDIA_TYPE,
    BudgetError,
    ConflictError,
    ExemplarMemoryError,
    FormatError,
    Record,
    encode_batch,
)
from memory_format.api.answers import BufferInfo, PushResponse
from memory_format.api.terms import KEY_HEADER, VOCABULARY_HEADER
from memory_format.record import as_pushed

# What a record takes on the wire beside its body: the fixed columns, the offsets and the CRC.
_WIRE_OVERHEAD = 128

Send = Callable[[Sequence[Record], str], PushResponse]
"""Sends a batch under a key and gives its answer."""


def push(
    session: Session,
    buffer: str,
    batches: Iterator[list[Record]],
    key: str | None,
    vocabulary: str | None,
    *,
    dry_run: bool,
) -> PushResult:
    """See :meth:`Buffer.push`."""
    key = _checked(uuid.uuid4().hex if key is None else key)
    path = buffer_path(buffer, "exemplars")
    stated = {} if vocabulary is None else {VOCABULARY_HEADER: fingerprint(vocabulary)}
    params = query_string({"dry_run": "true" if dry_run else None})

    def send(batch: Sequence[Record], batch_key: str) -> PushResponse:
        headers = {"Content-Type": MEDIA_TYPE, KEY_HEADER: batch_key, **stated}
        # Safe by its key.
        return session.value(PushResponse, "POST", path, params=params, content=encode_batch(batch), headers=headers)

    if dry_run:
        answers = [send(batch, f"{key}-0") for batch in _only_batch(batches)]
    else:
        answers = push_batches(batches, key, send)
    if not answers:
        now = session.value(BufferInfo, "GET", buffer_path(buffer))
        return PushResult((), 0, 0, (), now.bytes_used, now.budget_bytes, now.version, 0)
    return _push_result(answers)


def _checked(key: Any) -> str:
    # The service takes 128 characters; the rest is for the numbers of batches and of their pieces.
    if not isinstance(key, str) or not (1 <= len(key) <= 100 and key.isascii() and key.isprintable()):
        raise ValueError(f"an idempotency key is 1..100 printable ASCII characters, got {key!r:.120}")
    return key


def push_batches(batches: Iterable[list[Record]], key: str, send: Send) -> list[PushResponse]:
    """Send batches one after another; returns their answers.

    A batch refused with ``disk_limit_exceeded`` is cut in half, and so are its halves, down to single records.
    Batch ``n`` goes under the key ``KEY-n``. A piece of it that starts at record ``i > 0`` goes under
    ``KEY-n.i``, and the first piece under the batch's own key: a refused batch has changed nothing, so its key
    is free, and once the first piece has taken it, the whole batch can never be stored under it again. Whoever
    repeats the push offers the whole batch, is told that the key was used for something else, cuts as before
    and is answered from memory; were the first piece's key another one, the whole batch would be stored beside
    its pieces as soon as there is room.

    Raises:
        ExemplarMemoryError, ServiceError: with ``records_acknowledged``, ``idempotency_key``, ``exemplar_ids`` and
            ``evicted`` in ``details``.
    """
    answers: list[PushResponse] = []
    acknowledged = 0
    try:
        for number, batch in enumerate(batches):
            pieces = [(0, len(batch))]
            while pieces:
                first, last = pieces.pop()
                try:
                    answers.append(send(batch[first:last], f"{key}-{number}.{first}" if first else f"{key}-{number}"))
                except (BudgetError, ConflictError) as error:
                    if last - first == 1 or not _may_be_cut(error):
                        raise
                    middle = (first + last) // 2
                    pieces += [(middle, last), (first, middle)]
                else:
                    acknowledged += last - first
    except (ExemplarMemoryError, ServiceError) as error:
        error.details.update(
            records_acknowledged=acknowledged,
            idempotency_key=key,
            exemplar_ids=_ids(answers),
            evicted=_evicted(answers),
        )
        raise
    return answers


def _may_be_cut(error: BudgetError | ConflictError) -> bool:
    return error.code in ("disk_limit_exceeded", "idempotency_key_reused")


def _push_result(answers: Sequence[PushResponse]) -> PushResult:
    """All answers of a push, at least one, as one."""
    last = answers[-1]
    return PushResult(
        exemplar_ids=_ids(answers),
        kept=sum(answer.kept for answer in answers),
        rejected=sum(answer.rejected for answer in answers),
        evicted=_evicted(answers),
        bytes_used=last.bytes_used,
        budget_bytes=last.budget_bytes,
        version=last.version,
        batches=len(answers),
    )


def _ids(answers: Sequence[PushResponse]) -> tuple[int | None, ...]:
    return tuple(item for answer in answers for item in answer.exemplar_ids)


def _evicted(answers: Sequence[PushResponse]) -> tuple[int, ...]:
    return tuple(item for answer in answers for item in answer.evicted)


def cut(records: Any, max_bytes: int, max_records: int) -> Iterator[list[Record]]:
    """Batches of consecutive records within both limits; a record over ``max_bytes`` goes alone.

    Raises:
        ValueError: a limit is below 1.
        FormatError: something is no record.
    """
    whole("max_batch_bytes", max_bytes, 1)
    whole("max_batch_records", max_records, 1)
    try:
        records = iter(records)
    except TypeError:
        raise FormatError(f"an iterable of records of make_record is needed, got {records!r:.100}") from None
    batch: list[Record] = []
    size = 0
    for index, record in enumerate(records):
        if not isinstance(record, Record):
            raise FormatError(f"record {index} is none of make_record, but {record!r:.100}", index=index)
        record_bytes = record.body_bytes + _WIRE_OVERHEAD
        if batch and (len(batch) == max_records or size + record_bytes > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(as_pushed(record))
        size += record_bytes
    if batch:
        yield batch


def _only_batch(batches: Iterator[list[Record]]) -> list[list[Record]]:
    """The one batch that there is, or none.

    Raises:
        ValueError: there are more.
    """
    found = list(islice(batches, 2))
    if len(found) > 1:
        raise ValueError(
            "a dry run judges one batch, as the next would depend on what this one changes: give fewer records, or "
            "raise max_batch_records and max_batch_bytes"
        )
    return found
