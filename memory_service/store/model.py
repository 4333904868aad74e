"""Values that the store takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

from memory_service.store.eviction import EvictionPolicy


@dataclass(frozen=True)
class Options:
    """Limits of a store; ``memory_service.settings`` says what each is for."""

    max_batch_records: int = 10_000
    max_response_bytes: int = 256 * 1024 * 1024
    segment_bytes: int = 16 * 1024 * 1024
    open_segments: int = 256
    idempotency_seconds: float = 24 * 3600.0


@dataclass(frozen=True)
class BufferConfig:
    """What a buffer was made with."""

    id: int
    name: str
    budget_bytes: int
    eviction: EvictionPolicy
    description: str
    created_at: float
    """Seconds since 1970, UTC."""


@dataclass(frozen=True)
class PushResult:
    """What became of a push."""

    exemplar_ids: list[int | None]
    """One entry a record pushed, None where it was not kept."""
    kept: int
    rejected: int
    evicted: list[int]
    """Ids of earlier records that gave way."""
    bytes_used: int
    budget_bytes: int
    version: int


@dataclass(frozen=True)
class PushAnswer:
    """A :class:`PushResult` as JSON, and whether it is the answer to an earlier push with the same key."""

    document: str
    replayed: bool = False
