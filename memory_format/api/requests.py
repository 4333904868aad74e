"""What the service is asked: bodies in JSON, and query strings."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from memory_format.api.fields import (
    BufferName,
    ByteCount,
    ClassId,
    ClassName,
    Description,
    DiskLimit,
    ExemplarId,
    FieldFilter,
    FieldName,
    Fingerprint,
    LearnerFloor,
    LearnerId,
    Name,
    PatchPx,
    Phase,
    RetainedSnapshots,
    RunId,
    SampleCount,
    Score,
    TokenWord,
    Version,
    VocabularyName,
)
from memory_format.api.problems import shown
from memory_format.api.terms import (
    BUFFERS_PATTERN,
    MAX_DRAW,
    MAX_DRAW_CLASSES,
    MAX_FILTER_VALUES,
    MAX_NAMED,
    MAX_NOTE,
    MAX_PAGE,
    MAX_PATTERNS,
    MAX_SAMPLE,
    MAX_WORDS,
    RECEIPT_PATTERN,
    RUN_CURSOR_PATTERN,
    STREAM_PATTERN,
    EvictionPolicy,
    Role,
    Sort,
    Strategy,
    Want,
)
from memory_format.header import LEARNER_ID_PATTERN
from memory_format.user_fields import MAX_FIELDS, FieldValue


def _text(pattern: str, wanted: str) -> BeforeValidator:
    """What text in a query string or a path must look like: Python would take ``1.0``, ``+1`` and ``1_0``, too."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(f"{wanted} is needed, got {shown(value)}")
        return value

    return BeforeValidator(check)


# In one ``Annotated`` bounds come first: behind a function pydantic 2.14.4 writes ``ge`` into the OpenAPI document for
# ``minimum`` (findings/pydantic_bound_behind_validator.sh).
Digits = _text("-?[0-9]{1,40}", "a whole number in digits")
Decimal = _text(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,5})?", "a number in digits")
Flag = Annotated[bool, _text("true|false", "true or false")]


class Strict(BaseModel):
    """JSON that is sent: ``true``, ``"1"`` and ``1.0`` are no whole numbers."""

    # A misspelt filter must not silently select everything.
    model_config = ConfigDict(extra="forbid", strict=True)


class BudgetSettings(Strict):
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


class BufferRequest(BudgetSettings):
    """Settings of a new buffer."""

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
    learner_floor: LearnerFloor | None = Field(
        None, description="What of the budget each learner keeps, as far as it has so much; default nothing."
    )
    description: Description = ""
    patch_px: PatchPx | None = Field(
        None, description="Side of the patches of its records; default that of the first record pushed."
    )
    vocabulary: Fingerprint | None = Field(
        None, description="Fingerprint of the vocabulary of its token ids; default what the first push with texts says."
    )
    vocabulary_name: VocabularyName = Field("", description="What people call that vocabulary.")
    owner: RunId = Field("", description="Run that the buffer belongs to; empty: it is shared.")


class BufferChange(BufferRequest):
    """Settings to change; what is absent stays. ``null`` as disk_limit_bytes, retain_snapshots, learner_floor,
    num_classes, max_budget_bytes, patch_px or vocabulary sets the default again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"budget_bytes": 3_000_000, "retain_snapshots": 5}]})


class ClassNames(Strict):
    """Names of classes whose ids are asked for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"names": ["cat", "dog"]}]})

    names: list[ClassName] = Field(min_length=1, max_length=MAX_NAMED, description="Each once.")
    class_ids: list[ClassId] | None = Field(
        None, description="The ids that they have; default what the buffer says, for new names ids that are free."
    )


class VocabularyWords(Strict):
    """The words of a buffer's vocabulary."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"words": ["[PAD]", "[CLS]", "[SEP]", "a", "cat"]}]})

    words: list[TokenWord] = Field(
        min_length=1, max_length=MAX_WORDS, description="That of token id 0, of token id 1, and so on."
    )


class ForkRequest(Strict):
    """A new buffer that starts with what another one holds."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "demo-ablation", "snapshot": "phase-3"}]})

    name: Name = Field(description="Of the new buffer.")
    snapshot: Name | None = Field(None, description="Start from this snapshot; default from what is held now.")
    disk_limit_bytes: DiskLimit | None = None
    description: Description | None = None


class KeyRequest(Strict):
    """A key to be made."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"role": "write", "buffers": ["left-*"], "learner_id": "left", "days": 30}]}
    )

    role: Role = Field("read", description="What it is for; the later ones include the others.")
    buffers: list[Annotated[str, Field(pattern=f"^{BUFFERS_PATTERN.pattern}$")]] = Field(
        ["*"], min_length=1, max_length=MAX_PATTERNS, description="Patterns of the names that it is for."
    )
    learner_id: LearnerId | None = Field(None, description="The only learner whose records it may push or change.")
    days: float | None = Field(
        None, ge=0.001, lt=1_000_000, allow_inf_nan=False, description="Good for so long; default until it is revoked."
    )
    note: str = Field("", max_length=MAX_NOTE, description="Whose it is, say.")
    trusted: bool = Field(False, description="Take what it pushes without decoding it.")


FieldValues = Annotated[list[FieldValue], Field(min_length=1, max_length=MAX_FILTER_VALUES)]
"""Any of them; none at all would match nothing, and is no condition either."""


class SampleBody(Strict):
    """What to draw; the same request on the same version of a buffer gives the same batch."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"batch_size": 64, "seed": 1, "step": 250, "strategy": "class_balanced"}]}
    )

    batch_size: int = Field(ge=1, le=MAX_DRAW, description=f"At most {MAX_SAMPLE} of them in a part.")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    step: int = Field(0, ge=0, le=2**63 - 1)
    strategy: Strategy = "uniform"
    replace: bool = True
    class_id: list[ClassId] | None = Field(None, min_length=1, max_length=MAX_DRAW_CLASSES)
    phase: list[Phase] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] | None = Field(None, min_length=1, max_length=MAX_FILTER_VALUES)
    not_learner_id: list[LearnerId] | None = Field(
        None, min_length=1, max_length=MAX_FILTER_VALUES, description="Leave out the records of these."
    )
    fields: dict[FieldName, FieldValues] | None = Field(
        None,
        max_length=MAX_FIELDS,
        description="Of these fields of the user's, records that have one of the values listed.",
    )
    repair_text: float = Field(0.0, ge=0, le=1, description="Chance of carrying the text of another of its class.")
    version: Version | None = Field(None, description="Draw only if the buffer is at this version.")
    snapshot: Name | None = Field(None, description="Draw from what the buffer held at this snapshot.")
    want: Want = Field("records", description="Whole records, or in JSON which ones they are.")
    stream: str = Field(
        "",
        pattern=f"^{STREAM_PATTERN.pattern}$",
        description="A label of up to 64 printable ASCII characters: another one is an independent draw.",
    )
    part: int = Field(0, ge=0, lt=MAX_DRAW, description="Answer this part of the batch, 0..parts - 1.")
    parts: int = Field(1, ge=1, le=MAX_DRAW, description="How many parts the batch has, no more than records.")


class RecordsBody(Strict):
    """Which records to give."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"exemplar_ids": [41, 42]}]})

    exemplar_ids: list[ExemplarId] = Field(min_length=1, max_length=MAX_SAMPLE)
    snapshot: Name | None = Field(None, description="Look at what the buffer held at this snapshot.")


class PhaseEntry(Strict):
    """In which phase a learner is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"phase": 2}]})

    phase: Phase
    ended: bool = Field(False, description="It has gone through all its phases: nobody waits for it any more.")


class _QueryString(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _PageQuery(_QueryString):
    """Which part of a list."""

    limit: Annotated[int, Digits] = Field(100, ge=1, le=MAX_PAGE)


class BufferQuery(_PageQuery):
    """A page of buffers."""

    cursor: Name | None = Field(None, description="The next_cursor of the page before.")


class RunQuery(_PageQuery):
    """A page of runs."""

    cursor: str | None = Field(
        None,
        description="The next_cursor of the page before.",
        json_schema_extra={"pattern": f"^{RUN_CURSOR_PATTERN.pattern}$"},
    )


class ReceiptQuery(_PageQuery):
    """A page of receipts."""

    cursor: str | None = Field(
        None,
        description="The next_cursor of the page before.",
        json_schema_extra={"pattern": f"^{RECEIPT_PATTERN.pattern}$"},
    )
    buffer: BufferName | None = Field(None, description="Of erasures from this one, or from what it was forked from.")


class SnapshotQuery(_PageQuery):
    """A page of snapshots."""

    cursor: str | None = Field(
        None, description="The next_cursor of the page before.", json_schema_extra={"pattern": "^[0-9]{1,19}$"}
    )


class PhaseQuery(_PageQuery):
    """A page of learners."""

    cursor: str | None = Field(
        None,
        description="The next_cursor of the page before.",
        json_schema_extra={"pattern": f"^{LEARNER_ID_PATTERN.pattern}$"},
    )


class DeleteBufferQuery(_QueryString):
    """Whether to delete a buffer."""

    owner: RunId | None = Field(None, description="Only if it belongs to this run; empty: only if it is shared.")


class ClassQuery(_PageQuery):
    """A page of named classes."""

    cursor: str | None = Field(
        None, description="The next_cursor of the page before.", json_schema_extra={"pattern": "^[0-9]{1,10}$"}
    )


ERASE: Final = "Also from snapshots and forks, and from every file: answered when their bytes are gone, with a receipt."


class FilterQuery(_QueryString):
    """Conditions; one given several times matches any of its values."""

    class_id: list[Annotated[ClassId, Digits]] = Field([], max_length=MAX_FILTER_VALUES)
    phase: list[Annotated[Phase, Digits]] = Field([], max_length=MAX_FILTER_VALUES)
    learner_id: list[LearnerId] = Field([], max_length=MAX_FILTER_VALUES)
    field: list[FieldFilter] = Field(
        [],
        max_length=MAX_FILTER_VALUES,
        description="NAME:VALUE, a field of the user's and a value as it is written; of one name any, of several all.",
    )


class ExemplarQuery(FilterQuery):
    """The query string of a listing. A filter given several times matches any of its values."""

    not_learner_id: list[LearnerId] = Field(
        [], max_length=MAX_FILTER_VALUES, description="Leave out the records of these."
    )
    min_score: Annotated[Score, Decimal] | None = None
    max_score: Annotated[Score, Decimal] | None = None
    sort: Sort = "exemplar_id"
    limit: Annotated[int, Digits] = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=1024)
    snapshot: Name | None = Field(None, description="List what the buffer held at this snapshot.")


class CountQuery(FilterQuery):
    """Which records to count."""

    limit: Annotated[int, Digits] = Field(100, ge=1, le=MAX_PAGE, description="Values listed, the most frequent first.")
    snapshot: Name | None = Field(None, description="Count what the buffer held at this snapshot.")


class DeleteQuery(FilterQuery):
    """Which records to delete."""

    exemplar_id: list[Annotated[ExemplarId, Digits]] = Field(
        [], max_length=MAX_FILTER_VALUES, description="Those of these that are held; the others are passed over."
    )
    erase: Flag = Field(False, description=ERASE)
