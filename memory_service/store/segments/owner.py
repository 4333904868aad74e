"""What a sealed segment says of the buffer that wrote it: enough to make the buffer again without an index."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memory_format.api.fields import Fingerprint, LearnerFloor, PatchPx, RunId, VocabularyName
from memory_format.api.terms import NAME_PATTERN, EvictionPolicy
from memory_service.store.pure.model import BufferConfig

ATTRIBUTE: Final = "exemplar_memory_segment"


class Owner(BaseModel):
    """The attribute ``exemplar_memory_segment``. The same buffer in the same state makes the same one."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=f"^{NAME_PATTERN.pattern}$")
    created_at: float = Field(allow_inf_nan=False)
    """Tells a buffer from an earlier one of its name."""
    draw_key: str = Field(pattern=f"^({NAME_PATTERN.pattern})?$")
    budget_bytes: int = Field(ge=1)
    full_samples_per_class: int | None
    full_sample_bytes: int | None
    num_classes: int | None
    max_budget_bytes: int | None = None
    disk_limit_bytes: int | None
    eviction: EvictionPolicy
    retain_snapshots: int | None
    learner_floor: LearnerFloor | None = None
    patch_px: PatchPx | None = None
    vocabulary: Fingerprint | None = None
    vocabulary_name: VocabularyName = ""
    owner: RunId = ""
    made_by: str = ""
    version: int = Field(ge=0, lt=2**63)
    next_exemplar_id: int = Field(ge=1, lt=2**63)

    def config(self, name: str, description: str) -> BufferConfig:
        """The settings of a buffer made of it. Raises ``FormatError`` (``invalid_budget``)."""
        return BufferConfig.of_settings(self.model_dump() | {"name": name, "description": description})


def owner_of(config: BufferConfig, version: int, next_exemplar_id: int) -> dict[str, Any]:
    """The attributes of a segment that a buffer seals."""
    settings = config.settings()
    if not isfinite(config.created_at):
        settings["created_at"] = 0.0
    # Not validated: a buffer from before something was checked is sealed as well, and read_owner looks at it.
    owner = Owner.model_construct(**settings, version=version, next_exemplar_id=next_exemplar_id)
    return {ATTRIBUTE: owner.model_dump()}


def read_owner(attributes: dict[str, Any]) -> Owner | None:
    """Whose a sealed segment is; None where it does not say, as those of earlier versions do not."""
    try:
        return Owner.model_validate(attributes.get(ATTRIBUTE))
    except ValidationError:
        return None
