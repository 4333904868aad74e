"""Between what is said over HTTP and the store's values."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, TypeVar

import numpy as np

from memory_format import FormatError, Record
from memory_format.api.answers import BufferInfo, ExemplarDetail, SnapshotInfo
from memory_format.api.contents import PartInfo
from memory_format.api.requests import (
    BudgetSettings,
    BufferChange,
    DeleteQuery,
    ExemplarQuery,
    FilterQuery,
    SampleBody,
)
from memory_format.api.terms import MAX_REPLACED, MAX_SAMPLE, part_of
from memory_format.api.updates import ArrayValues
from memory_format.bitmask import count_kept
from memory_format.header import FLAG_PARTS
from memory_format.parts import Further
from memory_format.revise import NewArray
from memory_format.user_fields import written
from memory_service.store.buffer import Buffer
from memory_service.store.pure.model import Budget, BufferConfig, Snapshot
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import EVERYTHING, Filter

T = TypeVar("T", int, str)


def budget_of(settings: BudgetSettings) -> Budget:
    """The budget that a request names. Raises ``FormatError`` (``invalid_budget``)."""
    return Budget(**{name: getattr(settings, name) for name in BudgetSettings.model_fields})


def with_changes(config: BufferConfig, change: BufferChange) -> BufferConfig:
    """The settings after a change. Raises ``FormatError`` (``invalid_budget``)."""
    given = change.model_dump(include=change.model_fields_set)
    if given.keys() & BudgetSettings.model_fields.keys():
        # Of a budget in full samples, what is not given stays; one in bytes is given whole.
        in_samples = {} if config.budget.budget_bytes is not None else asdict(config.budget)
        stays = {} if given.get("budget_bytes") is not None else in_samples
        new = {name: given[name] for name in BudgetSettings.model_fields if name in given}
        config = replace(config, budget=Budget(**stays | new))
    names = {"disk_limit_bytes": "given_disk_limit"}
    rest = {names.get(name, name): value for name, value in given.items() if name not in BudgetSettings.model_fields}
    return replace(config, **rest)


def arrays_of(given: Mapping[str, ArrayValues] | None, count: int) -> dict[str, NewArray] | None:
    """Arrays of so many exemplars. Raises ``FormatError``: ``invalid_request`` where they are not such, or
    ``batch_too_large``."""
    if given is None:
        return None
    if count > MAX_REPLACED:
        raise FormatError(
            f"arrays of {count} exemplars at once; at most {MAX_REPLACED} are taken", code="batch_too_large"
        )
    arrays = {}
    for name, said in given.items():
        try:
            values = np.frombuffer(b64decode(said.data, validate=True), "<f4")
        except ValueError as error:
            raise FormatError(f"arrays.{name}.data is not float32 in base64: {error}", code="invalid_request") from None
        needed = count * math.prod(said.shape)
        if len(values) != needed:
            raise FormatError(
                f"arrays.{name}.data has {len(values)} values; {count} arrays of shape {said.shape} have {needed}",
                code="invalid_request",
            )
        arrays[name] = NewArray(values.reshape(count, *said.shape), said.dtype)
    return arrays


def filter_of(request: FilterQuery | SampleBody) -> Filter:
    """The conditions of a request."""
    others = _values(request.not_learner_id) if isinstance(request, ExemplarQuery | SampleBody) else None
    ids = _values(request.exemplar_id) if isinstance(request, DeleteQuery) else None
    if isinstance(request, SampleBody):
        fields = {name: {*map(written, values)} for name, values in (request.fields or {}).items()}
    else:
        fields = {}
        for name, _, text in (condition.partition(":") for condition in request.field):
            fields.setdefault(name, set()).add(text)
    named = tuple((name, tuple(sorted(fields[name]))) for name in sorted(fields))
    return Filter(_values(request.class_id), _values(request.phase), _values(request.learner_id), others, ids, named)


def _values(given: list[T] | None) -> tuple[T, ...] | None:
    return tuple(sorted(set(given))) if given else None


def deletion_of(request: DeleteQuery) -> Filter:
    """Which records to delete. Raises ``FormatError`` (``invalid_query``) without a filter: that is everything."""
    where = filter_of(request)
    if where == EVERYTHING:
        raise FormatError(
            "exemplar_id, class_id, phase, learner_id or field is needed; DELETE the buffer to delete everything",
            code="invalid_query",
        )
    return where


def query_of(request: ExemplarQuery) -> Query:
    """What to list."""
    return Query(filter_of(request), request.min_score, request.max_score, request.sort, request.limit, request.cursor)


def draw_of(request: SampleBody) -> SampleRequest:
    """What to draw.

    Raises:
        FormatError: ``invalid_query``: there is no such part of the batch, or it has too many records.
    """
    _check_part(request)
    return SampleRequest(
        batch_size=request.batch_size,
        seed=request.seed,
        step=request.step,
        strategy=request.strategy,
        replace=request.replace,
        where=filter_of(request),
        repair_text=request.repair_text,
        version=request.version,
        snapshot=request.snapshot,
        stream=request.stream,
        part=request.part,
        parts=request.parts,
    )


def _check_part(request: SampleBody) -> None:
    count, part, parts = request.batch_size, request.part, request.parts
    if parts > count:
        words = f"a batch of {count} has at most as many parts, and not {parts}"
    elif part >= parts:
        words = f"parts are 0..parts - 1, and there is no part {part} of {parts}"
    elif (mine := part_of(count, part, parts)).stop - mine.start > MAX_SAMPLE:
        words = (
            f"at most {MAX_SAMPLE} records are answered at once, part {part} of {parts} has {mine.stop - mine.start}"
        )
    else:
        return
    raise FormatError(words, code="invalid_query", batch_size=count, part=part, parts=parts)


def _same_named(answer: type, *sources: object) -> dict[str, Any]:
    """The members of an answer that have their names there; where several have one, the last."""
    names = [field.name for field in fields(answer)]
    return {name: getattr(source, name) for source in sources for name in names if hasattr(source, name)}


def buffer_info(buffer: Buffer) -> BufferInfo:
    """A buffer's settings, and how full it is."""
    config, columns = buffer.config, buffer.state.columns
    # What the budget comes to now is the settings', not the budget's own.
    return BufferInfo(**_same_named(BufferInfo, config.budget, config, columns))


def snapshot_info(snapshot: Snapshot) -> SnapshotInfo:
    """A snapshot's name, and what it holds."""
    return SnapshotInfo(**_same_named(SnapshotInfo, snapshot))


def exemplar_detail(record: Record) -> ExemplarDetail:
    """One record with its masks, tokens and the user's JSON."""
    parts = _parts(record)
    pictures = [part for part in parts if part.grid is not None]
    kept, cells = sum(part.num_patches for part in pictures), sum(math.prod(part.grid or ()) for part in pictures)
    others: dict[str, Any] = {
        "codec": record.codec_id,
        "has_extras": bool(record.extras),
        "num_patches": kept,
        "keep_ratio": kept / cells,
        "parts": tuple(parts),
        "user_json": record.user_json(),
        "fields": record.fields(),
    }
    same = {field.name for field in fields(ExemplarDetail)} - others.keys()
    return ExemplarDetail(**{name: getattr(record, name) for name in same}, **others)


def _parts(record: Record) -> list[PartInfo]:
    if not record.feature_flags & FLAG_PARTS:
        picture = PartInfo("picture", record.grid, record.num_kept)
        return [picture, PartInfo("text", text_length=record.text_length)] if record.text_length else [picture]
    found = []
    for part in record.part_heads:
        if part is None:
            found.append(PartInfo("picture", record.grid, record.num_kept))
        elif isinstance(part, Further):
            found.append(PartInfo("picture", part.grid, count_kept(part.keep_mask_bytes)))
        else:
            found.append(PartInfo("text", role=part.role, text_length=part.text_length))
    return found
