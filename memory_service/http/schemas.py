"""The JSON of the HTTP interface."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from memory_format import FormatError, Record
from memory_format.codecs import codec_by_number
from memory_format.masks import Layout
from memory_format.record import FLAG_EXTRAS, layout_of
from memory_service.store.buffer import Buffer, Row
from memory_service.store.pure.eviction import EvictionPolicy
from memory_service.store.pure.fields import (
    ByteCount,
    ClassId,
    Description,
    DiskLimit,
    ExemplarId,
    LearnerId,
    Phase,
    Rank,
    RetainedSnapshots,
    SampleCount,
    Score,
    Version,
)
from memory_service.store.pure.model import Budget, BufferConfig, Snapshot
from memory_service.store.pure.query import MAX_LIMIT, Query, Sort
from memory_service.store.pure.sampler import EVERYTHING, Filter, SampleRequest, Strategy
from memory_service.store.pure.snapshots import NAME_PATTERN

MAX_SAMPLE = 4096
MAX_FILTER_VALUES = 1000
MAX_UPDATE = 100_000


def _digits(value: object) -> object:
    """A whole number in a query string or a path: digits only. Python would take ``1.0``, ``+1`` and ``1_0``, too."""
    if isinstance(value, str) and not re.fullmatch("-?[0-9]{1,40}", value):
        raise ValueError("a whole number in digits is needed")
    return value


def _decimal(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,5})?", value):
        raise ValueError("a number in digits is needed")
    return value


def _flag(value: object) -> object:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("true or false is needed")
    return value


# A query string and a path are text: what numbers look like there. In one ``Annotated`` bounds come first: behind a
# function pydantic 2.14.4 writes ``ge`` into the OpenAPI document for ``minimum``
# (findings/pydantic_bound_behind_validator.sh).
Digits = BeforeValidator(_digits)
Decimal = BeforeValidator(_decimal)
Flag = Annotated[bool, BeforeValidator(_flag)]


Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$"})]
"""Of a buffer or a snapshot. The store says what is none, and there is nothing under such a name."""


class _Strict(BaseModel):
    """JSON that is sent: ``true``, ``"1"`` and ``1.0`` are no whole numbers."""

    # A misspelt filter must not silently select everything.
    model_config = ConfigDict(extra="forbid", strict=True)


class BudgetSettings(_Strict):
    """``budget_bytes``, or ``full_samples_per_class`` with ``full_sample_bytes``."""

    budget_bytes: ByteCount | None = Field(None, description="Most bytes that the live records may be charged.")
    full_samples_per_class: SampleCount | None = Field(
        None, description="The budget as so many full samples a class, of full_sample_bytes each."
    )
    full_sample_bytes: ByteCount | None = Field(None, description="Bytes of one full sample.")
    num_classes: SampleCount | None = Field(
        None, description="For how many classes; without it the budget grows with the classes seen."
    )
    max_budget_bytes: ByteCount | None = Field(
        None, description="Where the budget grows, to no more than that; default 1,000 classes' worth."
    )

    def budget(self) -> Budget:
        return Budget(**{name: getattr(self, name) for name in BudgetSettings.model_fields})


class BufferRequest(BudgetSettings):
    """Settings of a new buffer; PATCH changes them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"budget_bytes": 2_000_000, "eviction": "class_balanced"},
                {"full_samples_per_class": 20, "full_sample_bytes": 150_528, "description": "grows with the classes"},
            ]
        }
    )

    disk_limit_bytes: DiskLimit | None = Field(
        None, description="Most bytes on disk for the buffer; default 1.5 times the budget, at least 256 KiB over it."
    )
    eviction: EvictionPolicy = "class_balanced"
    retain_snapshots: RetainedSnapshots | None = Field(
        None, description="Keep the newest so many snapshots; default all."
    )
    description: Description = ""


class BufferChange(BudgetSettings):
    """Settings to change; what is absent stays. ``null`` as disk_limit_bytes, retain_snapshots, num_classes or
    max_budget_bytes sets the default again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"budget_bytes": 3_000_000, "retain_snapshots": 5}]})

    disk_limit_bytes: DiskLimit | None = None
    eviction: EvictionPolicy = "class_balanced"
    retain_snapshots: RetainedSnapshots | None = None
    description: Description = ""

    def applied_to(self, config: BufferConfig) -> BufferConfig:
        given = self.model_dump(include=self.model_fields_set)
        if given.keys() & BudgetSettings.model_fields.keys():
            # Of a budget in full samples, what is not given stays; one in bytes is given whole.
            in_samples = {} if config.budget.budget_bytes is not None else asdict(config.budget)
            stays = {} if given.get("budget_bytes") is not None else in_samples
            fields = {name: given[name] for name in BudgetSettings.model_fields if name in given}
            config = replace(config, budget=Budget(**stays | fields))
        names = {"disk_limit_bytes": "given_disk_limit"}
        rest = {
            names.get(name, name): value for name, value in given.items() if name not in BudgetSettings.model_fields
        }
        return replace(config, **rest)


class BufferInfo(BaseModel):
    name: str
    budget_bytes: int
    full_samples_per_class: int | None
    full_sample_bytes: int | None
    num_classes: int | None
    max_budget_bytes: int | None
    disk_limit_bytes: int
    eviction: EvictionPolicy
    retain_snapshots: int | None
    description: str
    created_at: float
    version: int
    bytes_used: int
    num_records: int

    @classmethod
    def of(cls, buffer: Buffer) -> BufferInfo:
        config, columns = buffer.config, buffer.contents.columns
        return cls(
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


class ChangedBuffer(BufferInfo):
    evicted: list[int] = Field(description="Ids of the records that a smaller budget evicted.")


class _PageQuery(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Digits] = Field(100, ge=1, le=MAX_LIMIT)


class BufferQuery(_PageQuery):
    cursor: Name | None = Field(None, description="The next_cursor of the page before.")


class SnapshotQuery(_PageQuery):
    cursor: str | None = Field(
        None, description="The next_cursor of the page before.", json_schema_extra={"pattern": "^[0-9]{1,19}$"}
    )


class BufferList(BaseModel):
    buffers: list[BufferInfo]
    next_cursor: str | None


class PushResponse(BaseModel):
    exemplar_ids: list[int | None]
    kept: int
    rejected: int
    evicted: list[int]
    bytes_used: int
    budget_bytes: int
    version: int


class ScoreUpdate(_Strict):
    """New scores or ranks, one for each id."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"exemplar_ids": [41, 42], "scores": [0.91, 0.13], "if_version": 12}]}
    )

    exemplar_ids: list[ExemplarId] = Field(min_length=1, max_length=MAX_UPDATE)
    scores: list[Score] | None = None
    ranks: list[Rank] | None = None
    if_version: Version | None = Field(None, description="Only if the buffer is at this version.")


class UpdateResponse(BaseModel):
    updated: int
    missing: list[int] = Field(description="Ids that the buffer does not hold (any more).")
    version: int


class DeleteResponse(BaseModel):
    deleted: list[int]
    bytes_used: int
    version: int


class SnapshotInfo(BaseModel):
    name: str
    version: int
    num_records: int
    bytes_used: int
    created_at: float

    @classmethod
    def of(cls, snapshot: Snapshot) -> SnapshotInfo:
        return cls(**{name: getattr(snapshot, name) for name in cls.model_fields})


class SnapshotList(BaseModel):
    snapshots: list[SnapshotInfo]
    next_cursor: str | None


class ForkRequest(_Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "demo-ablation", "snapshot": "phase-3"}]})

    name: Name = Field(description="Of the new buffer.")
    snapshot: Name | None = Field(None, description="Start from this snapshot; default from what is held now.")
    disk_limit_bytes: DiskLimit | None = None
    description: Description | None = None


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def where(self) -> Filter:
        values = (getattr(self, name) for name in ("class_id", "phase", "learner_id"))
        return Filter(*(tuple(sorted(set(value))) if value else None for value in values))


class _FilterQuery(_Filters):
    class_id: list[Annotated[ClassId, Digits]] = Field([], max_length=MAX_FILTER_VALUES)
    phase: list[Annotated[Phase, Digits]] = Field([], max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] = Field([], max_length=MAX_FILTER_VALUES)


class ExemplarQuery(_FilterQuery):
    """The query string of a listing. A filter given several times matches any of its values."""

    min_score: Annotated[Score, Decimal] | None = None
    max_score: Annotated[Score, Decimal] | None = None
    sort: Sort = "exemplar_id"
    limit: Annotated[int, Digits] = Field(100, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=1024)
    snapshot: Name | None = Field(None, description="List what the buffer held at this snapshot.")

    def query(self) -> Query:
        return Query(self.where(), self.min_score, self.max_score, self.sort, self.limit, self.cursor)


class DeleteQuery(_FilterQuery):
    """Which records to delete."""

    def filter(self) -> Filter:
        """Raises:
        FormatError: ``invalid_query``: without a filter this would be everything.
        """
        where = self.where()
        if where == EVERYTHING:
            raise FormatError(
                "at least one of class_id, phase and learner_id is needed; DELETE the buffer to delete everything",
                code="invalid_query",
            )
        return where


class SampleBody(_Filters, _Strict):
    """What to draw; the same request on the same version of a buffer gives the same batch."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"batch_size": 64, "seed": 1, "step": 250, "strategy": "class_balanced"}]}
    )

    batch_size: int = Field(ge=1, le=MAX_SAMPLE)
    seed: int = Field(0, ge=0, le=2**63 - 1)
    step: int = Field(0, ge=0, le=2**63 - 1)
    strategy: Strategy = "uniform"
    replace: bool = True
    class_id: list[ClassId] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    phase: list[Phase] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    repair_text: float = Field(0.0, ge=0, le=1, description="Chance of carrying the text of another of its class.")
    version: Version | None = Field(None, description="Draw only if the buffer is at this version.")
    snapshot: Name | None = Field(None, description="Draw from what the buffer held at this snapshot.")

    def request(self) -> SampleRequest:
        return SampleRequest(
            batch_size=self.batch_size,
            seed=self.seed,
            step=self.step,
            strategy=self.strategy,
            replace=self.replace,
            where=self.where(),
            repair_text=self.repair_text,
            version=self.version,
            snapshot=self.snapshot,
        )


class ExemplarInfo(BaseModel):
    """A record without its pixels and tokens."""

    exemplar_id: int
    class_id: int
    phase: int
    learner_id: str
    score: float
    rank: int
    grid: Annotated[list[int], Field(min_length=2, max_length=2, description="Rows and columns.")]
    patch_px: int
    codec: str
    layout: Layout
    has_extras: bool
    text_length: int
    num_tokens: int
    num_patches: int
    keep_ratio: float
    charge: int
    crc32: int

    @classmethod
    def of_row(cls, row: Row) -> ExemplarInfo:
        header = row.header
        flags, h, w = int(header["flags"]), int(header["grid_h"]), int(header["grid_w"])
        return cls(
            exemplar_id=int(header["exemplar_id"]),
            class_id=int(header["class_id"]),
            phase=int(header["phase"]),
            learner_id=row.learner_id,
            score=float(header["score"]),
            rank=int(header["rank"]),
            grid=[h, w],
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


class ExemplarPage(BaseModel):
    exemplars: list[ExemplarInfo]
    next_cursor: str | None
    version: int


class ExemplarDetail(ExemplarInfo):
    """One record with its masks, tokens and the user's JSON."""

    keep_mask: list[list[int]] = Field(description="Rows of 0 and 1, 1 = kept.")
    token_ids: list[int]
    token_positions: list[int]
    user_json: dict[str, Any]

    @classmethod
    def of_record(cls, record: Record) -> ExemplarDetail:
        h, w = record.grid
        num_patches = int(record.keep_mask.sum())
        return cls(
            exemplar_id=record.exemplar_id,
            class_id=record.class_id,
            phase=record.phase,
            learner_id=record.learner_id,
            score=record.score,
            rank=record.rank,
            grid=list(record.grid),
            patch_px=record.patch_px,
            codec=record.codec_id,
            layout=record.layout,
            has_extras=bool(record.extras),
            text_length=record.text_length,
            num_tokens=len(record.token_ids),
            num_patches=num_patches,
            keep_ratio=num_patches / (h * w),
            charge=record.charge,
            crc32=record.crc32,
            keep_mask=record.keep_mask.astype(int).tolist(),
            token_ids=record.token_ids.tolist(),
            token_positions=record.token_positions.tolist(),
            user_json=record.user_json(),
        )


class ServiceInfo(BaseModel):
    service: str
    version: str
    wire_version: str
    segment_format: int
    codecs: list[str]
    schema_version: str
    eviction: list[str]
    strategies: list[str]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
