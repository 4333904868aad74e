"""The JSON of the HTTP interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from memory_format import Record
from memory_format.codecs import codec_by_number
from memory_format.masks import Layout
from memory_format.record import FLAG_EXTRAS, FLAG_IN_PLACE
from memory_service.store.buffer import Buffer
from memory_service.store.eviction import EvictionPolicy
from memory_service.store.query import MAX_LIMIT, Query, Sort
from memory_service.store.sampler import Filter, SampleRequest, Strategy

MAX_SAMPLE = 4096
MAX_FILTER_VALUES = 1000

ClassId = Annotated[int, Field(ge=0, lt=2**32)]
Phase = Annotated[int, Field(ge=0, lt=2**16)]
LearnerId = Annotated[str, Field(min_length=1, max_length=64)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    # A misspelt filter must not silently select everything.
    model_config = ConfigDict(extra="forbid")


class BufferRequest(_Strict):
    """Settings of a buffer; they do not change later."""

    budget_bytes: StrictInt = Field(description="Most bytes that the live records may be charged.")
    eviction: EvictionPolicy = "class_balanced"
    description: str = ""


class BufferInfo(BaseModel):
    name: str
    budget_bytes: int
    eviction: EvictionPolicy
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
            eviction=config.eviction,
            description=config.description,
            created_at=config.created_at,
            version=columns.version,
            bytes_used=columns.bytes_used,
            num_records=columns.num_records,
        )


class BufferList(BaseModel):
    buffers: list[BufferInfo]


class PushResponse(BaseModel):
    exemplar_ids: list[int | None]
    kept: int
    rejected: int
    evicted: list[int]
    bytes_used: int
    budget_bytes: int
    version: int


class _Filters(_Strict):
    def where(self) -> Filter:
        values = (getattr(self, name) for name in ("class_id", "phase", "learner_id"))
        return Filter(*(tuple(sorted(set(value))) if value else None for value in values))


class ExemplarQuery(_Filters):
    """The query string of a listing. A filter given several times matches any of its values."""

    class_id: list[ClassId] = Field([], max_length=MAX_FILTER_VALUES)
    phase: list[Phase] = Field([], max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] = Field([], max_length=MAX_FILTER_VALUES)
    min_score: Score | None = None
    max_score: Score | None = None
    sort: Sort = "exemplar_id"
    limit: int = Field(100, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=1024)

    def query(self) -> Query:
        return Query(self.where(), self.min_score, self.max_score, self.sort, self.limit, self.cursor)


class SampleBody(_Filters):
    """What to draw; the same request on the same version of a buffer gives the same batch."""

    batch_size: int = Field(ge=1, le=MAX_SAMPLE)
    seed: int = Field(0, ge=0, lt=2**63)
    step: int = Field(0, ge=0, lt=2**63)
    strategy: Strategy = "uniform"
    replace: bool = True
    class_id: list[ClassId] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    phase: list[Phase] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    repair_text: float = Field(0.0, ge=0, le=1, description="Chance of carrying the text of another of its class.")
    version: int | None = Field(None, ge=0, description="Draw only if the buffer is at this version.")

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
        )


class ExemplarInfo(BaseModel):
    """A record without its pixels and tokens."""

    exemplar_id: int
    class_id: int
    phase: int
    learner_id: str
    score: float
    rank: int
    grid: tuple[int, int]
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
    def of_row(cls, row: sa.Row[Any]) -> ExemplarInfo:
        """From a row of the index."""
        return cls(
            exemplar_id=row.exemplar_id,
            class_id=row.class_id,
            phase=row.phase,
            learner_id=row.learner_id,
            score=row.score,
            rank=row.rank,
            grid=(row.grid_h, row.grid_w),
            patch_px=row.patch_px,
            codec=codec_by_number(row.codec).codec_id,
            layout="in_place" if row.flags & FLAG_IN_PLACE else "mosaic",
            has_extras=bool(row.flags & FLAG_EXTRAS),
            text_length=row.text_length,
            num_tokens=row.num_tokens,
            num_patches=row.num_patches,
            keep_ratio=row.num_patches / (row.grid_h * row.grid_w),
            charge=row.charge,
            crc32=row.crc32,
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
            grid=record.grid,
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
    eviction: list[str]
    strategies: list[str]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
