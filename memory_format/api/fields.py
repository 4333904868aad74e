"""Ranges of what comes from outside, each said once: for requests and for files that are imported.

What SQLite and PostgreSQL hold are integers of 63 bits and text without NUL.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from memory_format.api.terms import (
    FINGERPRINT_PATTERN,
    MAX_BUDGET_BYTES,
    MAX_DESCRIPTION,
    MAX_DISK_LIMIT_BYTES,
    MAX_RETAINED,
    NAME_PATTERN,
)
from memory_format.errors import FormatError
from memory_format.header import LEARNER_ID_PATTERN, MAX_SCORE
from memory_format.text import TEXT_PATTERN, check_text

ClassId = Annotated[int, Field(ge=0, lt=2**32)]
Phase = Annotated[int, Field(ge=0, lt=2**16)]
LearnerId = Annotated[str, Field(pattern=f"^{LEARNER_ID_PATTERN.pattern}$")]
Score = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_SCORE, le=MAX_SCORE)]
Rank = Annotated[int, Field(ge=0, lt=2**32)]
ExemplarId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Version = Annotated[int, Field(ge=0, le=2**63 - 1)]
PatchPx = Annotated[int, Field(ge=1, le=255)]
Fingerprint = Annotated[str, Field(pattern=f"^{FINGERPRINT_PATTERN.pattern}$")]
RetainedSnapshots = Annotated[int, Field(ge=1, le=MAX_RETAINED)]
Timestamp = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=253_402_300_800)]
"""Seconds since 1970; from the year 10,000 on, calendars know none."""

# Said here for who reads the schema; what is beyond is ``invalid_budget``, which the budget says itself.
ByteCount = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_BUDGET_BYTES})]
SampleCount = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_BUDGET_BYTES})]
DiskLimit = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_DISK_LIMIT_BYTES})]

Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$"})]
"""Of a buffer or a snapshot. The store says what is none, and there is nothing under such a name."""


def _kept(text: str) -> str:
    try:
        return check_text("a description", text, max_length=MAX_DESCRIPTION)
    except FormatError as error:
        raise ValueError(error.message) from error


Description = Annotated[
    str, AfterValidator(_kept), Field(json_schema_extra={"maxLength": MAX_DESCRIPTION, "pattern": TEXT_PATTERN})
]
