"""Ranges of what comes from outside, each said once: for requests and for files that are imported.

What SQLite and PostgreSQL hold are integers of 63 bits and text without NUL.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from memory_format.api.terms import (
    FINGERPRINT_PATTERN,
    MAX_ARRAY_NAME,
    MAX_BUDGET_BYTES,
    MAX_CLASS_NAME,
    MAX_DESCRIPTION,
    MAX_DISK_LIMIT_BYTES,
    MAX_RETAINED,
    MAX_WORD,
    NAME_PATTERN,
    OWNER_PATTERN,
)
from memory_format.errors import FormatError
from memory_format.header import LEARNER_ID_PATTERN, MAX_SCORE
from memory_format.text import TEXT_PATTERN, check_text
from memory_format.user_fields import FIELD_PATTERN, MAX_FIELD_TEXT

FieldName = Annotated[str, Field(pattern=f"^{FIELD_PATTERN.pattern}$")]
FieldFilter = Annotated[str, Field(pattern=f"^{FIELD_PATTERN.pattern}:", max_length=MAX_FIELD_TEXT + 64)]
"""A field's name, a colon, and a value as it is written."""
MAX_CLASS_ID: Final = 2**32 - 1
ClassId = Annotated[int, Field(ge=0, le=MAX_CLASS_ID)]
Phase = Annotated[int, Field(ge=0, lt=2**16)]
LearnerId = Annotated[str, Field(pattern=f"^{LEARNER_ID_PATTERN.pattern}$")]
Score = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_SCORE, le=MAX_SCORE)]
Rank = Annotated[int, Field(ge=0, lt=2**32)]
ExemplarId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Version = Annotated[int, Field(ge=0, le=2**63 - 1)]
PatchPx = Annotated[int, Field(ge=1, le=255)]
Fingerprint = Annotated[str, Field(pattern=f"^{FINGERPRINT_PATTERN.pattern}$")]
RetainedSnapshots = Annotated[int, Field(ge=1, le=MAX_RETAINED)]
LearnerFloor = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A share of a budget."""
Timestamp = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=253_402_300_800)]
"""Seconds since 1970; from the year 10,000 on, calendars know none."""

# Said here for who reads the schema; what is beyond is ``invalid_budget``, which the budget says itself.
ByteCount = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_BUDGET_BYTES})]
SampleCount = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_BUDGET_BYTES})]
DiskLimit = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": MAX_DISK_LIMIT_BYTES})]

Name = Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME_PATTERN.pattern}$"})]
"""Of a buffer or a snapshot. The store says what is none, and there is nothing under such a name."""


BufferName = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")]
"""Of a buffer that need not be there: nobody but the schema looks at it."""


def _text(what: str, max_length: int) -> tuple[AfterValidator, object]:
    def kept(text: str) -> str:
        try:
            return check_text(what, text, max_length=max_length)
        except FormatError as error:
            raise ValueError(error.message) from error

    return AfterValidator(kept), Field(json_schema_extra={"maxLength": max_length, "pattern": TEXT_PATTERN})


_DESCRIPTION, _WORDS = _text("a description", MAX_DESCRIPTION), _text("a name", MAX_CLASS_NAME)
Description = Annotated[str, _DESCRIPTION[0], _DESCRIPTION[1]]
ClassName = Annotated[str, Field(min_length=1), _WORDS[0], _WORDS[1]]
VocabularyName = Annotated[str, _WORDS[0], _WORDS[1]]
_TOKEN = _text("a word", MAX_WORD)
TokenWord = Annotated[str, _TOKEN[0], _TOKEN[1]]
"""What a token id means."""
_ARRAY = _text("an array's name", MAX_ARRAY_NAME)
ArrayName = Annotated[str, Field(min_length=1), _ARRAY[0], _ARRAY[1]]
Revision = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""How often arrays of an exemplar were replaced."""
RunId = Annotated[str, Field(pattern=f"^{OWNER_PATTERN.pattern}$")]
