"""What the file of a buffer says of it, and in which pieces its records are written and read.

The file is a Zarr store in a ZIP, like a segment, that says all there is to know: docs/format.md describes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from memory_format.api.fields import ClassId, Timestamp
from memory_format.api.terms import MAX_DESCRIPTION, NAME_PATTERN, EvictionPolicy
from memory_service.store.pure.model import BufferConfig, Snapshot

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Bodies read, checked and written at a time."""
PIECE_RECORDS: Final = 16_384
"""And no more records than that, however small they are."""

MAX_COUNT: Final = 2**62
"""Of versions and exemplar ids that are taken over: room for as many again in the index's 63 bits."""


class BufferDescription(BaseModel):
    """What an export says of its buffer, in the attribute ``exemplar_memory_buffer``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=f"^{NAME_PATTERN.pattern}$")
    budget_bytes: int
    full_samples_per_class: int | None
    full_sample_bytes: int | None
    num_classes: int | None
    disk_limit_bytes: int | None
    eviction: EvictionPolicy
    retain_snapshots: int | None = Field(lt=2**63)
    description: str = Field(max_length=MAX_DESCRIPTION)
    created_at: Timestamp
    version: int = Field(ge=0, lt=MAX_COUNT)
    next_exemplar_id: int = Field(ge=1, lt=MAX_COUNT)
    max_budget_bytes: int | None = None
    classes_seen: list[ClassId]
    draw_key: str | None = Field(None, pattern=f"^({NAME_PATTERN.pattern})?$")
    """None in files from before it was stored: buffers drew by their names then."""

    def config(self, name: str) -> BufferConfig:
        """The settings of a buffer that is made of it.

        Raises:
            FormatError: ``invalid_budget``.
        """
        said = self.model_dump() | {"name": name, "draw_key": self.name if self.draw_key is None else self.draw_key}
        config = BufferConfig.of_settings(said)
        budget = config.budget
        if budget.grows and self.budget_bytes > budget.most_bytes and "max_budget_bytes" not in self.model_fields_set:
            # In files from before there was a ceiling.
            budget = replace(budget, max_budget_bytes=self.budget_bytes)
        return replace(config, budget=budget, budget_bytes=budget.bytes_for(len(self.classes_seen)))


def describe(config: BufferConfig, version: int, mark: Snapshot, classes: Iterable[int]) -> BufferDescription:
    """A buffer as it is at ``mark``."""
    return BufferDescription(
        **config.settings(),
        version=version,
        next_exemplar_id=mark.next_exemplar_id,
        classes_seen=sorted(classes),
    )


def pieces(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of records of about :data:`PIECE_BYTES`, of 1 to :data:`PIECE_RECORDS` records each."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PIECE_BYTES, side="right")))
        last = min(last, first + PIECE_RECORDS)
        yield first, last
        first = last
