"""Between what is said over HTTP and the store's values."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TypeVar

from memory_format import FormatError, Record
from memory_format.api.answers import BufferInfo, ExemplarDetail, ExemplarInfo, SnapshotInfo
from memory_format.api.requests import (
    BudgetSettings,
    BufferChange,
    DeleteQuery,
    ExemplarQuery,
    FilterQuery,
    SampleBody,
)
from memory_format.codecs import codec_by_number
from memory_format.header import FLAG_EXTRAS, layout_of
from memory_service.store.buffer import Buffer
from memory_service.store.pure.model import Budget, BufferConfig, Snapshot
from memory_service.store.pure.query import Query
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.pure.selection import EVERYTHING, Filter
from memory_service.store.reads import Listed

T = TypeVar("T", int, str)


def budget_of(settings: BudgetSettings) -> Budget:
    """The budget that a request names.

    Raises:
        FormatError: ``invalid_budget``.
    """
    return Budget(**{name: getattr(settings, name) for name in BudgetSettings.model_fields})


def with_changes(config: BufferConfig, change: BufferChange) -> BufferConfig:
    """The settings after a change.

    Raises:
        FormatError: ``invalid_budget``.
    """
    given = change.model_dump(include=change.model_fields_set)
    if given.keys() & BudgetSettings.model_fields.keys():
        # Of a budget in full samples, what is not given stays; one in bytes is given whole.
        in_samples = {} if config.budget.budget_bytes is not None else asdict(config.budget)
        stays = {} if given.get("budget_bytes") is not None else in_samples
        fields = {name: given[name] for name in BudgetSettings.model_fields if name in given}
        config = replace(config, budget=Budget(**stays | fields))
    names = {"disk_limit_bytes": "given_disk_limit"}
    rest = {names.get(name, name): value for name, value in given.items() if name not in BudgetSettings.model_fields}
    return replace(config, **rest)


def filter_of(request: FilterQuery | SampleBody) -> Filter:
    """The conditions of a request."""
    return Filter(_values(request.class_id), _values(request.phase), _values(request.learner_id))


def _values(given: list[T] | None) -> tuple[T, ...] | None:
    return tuple(sorted(set(given))) if given else None


def deletion_of(request: DeleteQuery) -> Filter:
    """Which records to delete.

    Raises:
        FormatError: ``invalid_query``: without a filter this would be everything.
    """
    where = filter_of(request)
    if where == EVERYTHING:
        raise FormatError(
            "at least one of class_id, phase and learner_id is needed; DELETE the buffer to delete everything",
            code="invalid_query",
        )
    return where


def query_of(request: ExemplarQuery) -> Query:
    """What to list."""
    return Query(filter_of(request), request.min_score, request.max_score, request.sort, request.limit, request.cursor)


def draw_of(request: SampleBody) -> SampleRequest:
    """What to draw."""
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
    )


def buffer_info(buffer: Buffer) -> BufferInfo:
    """A buffer's settings, and how full it is."""
    config, columns = buffer.config, buffer.state.columns
    return BufferInfo(
        name=config.name,
        budget_bytes=config.budget_bytes,
        full_samples_per_class=config.budget.full_samples_per_class,
        full_sample_bytes=config.budget.full_sample_bytes,
        num_classes=config.budget.num_classes,
        max_budget_bytes=config.budget.max_budget_bytes,
        disk_limit_bytes=config.disk_limit_bytes,
        eviction=config.eviction,
        retain_snapshots=config.retain_snapshots,
        description=config.description,
        created_at=config.created_at,
        version=columns.version,
        bytes_used=columns.bytes_used,
        num_records=columns.num_records,
    )


def snapshot_info(snapshot: Snapshot) -> SnapshotInfo:
    """A snapshot's name, and what it holds."""
    return SnapshotInfo(
        name=snapshot.name,
        version=snapshot.version,
        num_records=snapshot.num_records,
        bytes_used=snapshot.bytes_used,
        created_at=snapshot.created_at,
    )


def exemplar_info(row: Listed) -> ExemplarInfo:
    """A record without its pixels and tokens."""
    header = row.header
    flags, h, w = int(header["flags"]), int(header["grid_h"]), int(header["grid_w"])
    return ExemplarInfo(
        exemplar_id=int(header["exemplar_id"]),
        class_id=int(header["class_id"]),
        phase=int(header["phase"]),
        learner_id=row.learner_id,
        score=float(header["score"]),
        rank=int(header["rank"]),
        grid=(h, w),
        patch_px=int(header["patch_px"]),
        codec=codec_by_number(int(header["codec"])).codec_id,
        layout=layout_of(flags),
        has_extras=bool(flags & FLAG_EXTRAS),
        text_length=int(header["text_length"]),
        num_tokens=row.num_tokens,
        num_patches=row.num_patches,
        keep_ratio=row.num_patches / (h * w),
        charge=row.charge,
        crc32=int(header["crc32"]),
    )


def exemplar_detail(record: Record) -> ExemplarDetail:
    """One record with its masks, tokens and the user's JSON."""
    h, w = record.grid
    return ExemplarDetail(
        exemplar_id=record.exemplar_id,
        class_id=record.class_id,
        phase=record.phase,
        learner_id=record.learner_id,
        score=record.score,
        rank=record.rank,
        grid=record.grid,
        patch_px=record.patch_px,
        codec=record.codec_id,
        layout=record.layout,
        has_extras=bool(record.extras),
        text_length=record.text_length,
        num_tokens=len(record.token_ids_bytes) // 2,
        num_patches=record.num_kept,
        keep_ratio=record.num_kept / (h * w),
        charge=record.charge,
        crc32=record.crc32,
        keep_mask=record.keep_mask,
        token_ids=record.token_ids,
        token_positions=record.token_positions,
        user_json=record.user_json(),
    )
