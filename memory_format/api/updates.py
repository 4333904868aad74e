"""What the service is asked to change of stored exemplars: scores, ranks and arrays."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from memory_format.api.fields import ArrayName, ExemplarId, Rank, Revision, Score, Version
from memory_format.api.requests import Strict
from memory_format.api.terms import MAX_ARRAYS, MAX_AXES, MAX_UPDATE
from memory_format.extras import ArrayDtype


class ArrayValues(Strict):
    """Values of one array of all the exemplars that are named."""

    shape: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        max_length=MAX_AXES, description="Of one exemplar's array."
    )
    data: str = Field(
        description="float32, little-endian, row-major, one exemplar's behind the other's, in base64.",
        json_schema_extra={"contentEncoding": "base64"},
    )
    dtype: ArrayDtype | None = Field(
        None, description="How they are stored; default as the array that they replace, or float16 where there is none."
    )


Arrays = Annotated[dict[ArrayName, ArrayValues], Field(min_length=1, max_length=MAX_ARRAYS)]
_LOGITS: Final[dict[str, Any]] = {"logits": {"shape": [2], "data": "AACAPwAAAEA="}}


class ExemplarUpdate(Strict):
    """New scores, ranks or arrays, one for each id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"exemplar_ids": [41, 42], "scores": [0.91, 0.13], "if_version": 12},
                {"exemplar_ids": [41], "arrays": _LOGITS, "if_revisions": [0]},
            ]
        }
    )

    exemplar_ids: list[ExemplarId] = Field(min_length=1, max_length=MAX_UPDATE)
    scores: list[Score] | None = None
    ranks: list[Rank] | None = None
    arrays: Arrays | None = Field(None, description="By name; a record keeps those that are not named.")
    if_revisions: list[Revision] | None = Field(
        None, description="Only if every record is at its revision, or has these arrays already."
    )
    if_version: Version | None = Field(None, description="Only if the buffer is at this version.")


class ExemplarChange(Strict):
    """A new score, rank or arrays of one exemplar."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"arrays": _LOGITS}, {"score": 0.91}]})

    score: Score | None = None
    rank: Rank | None = None
    arrays: Arrays | None = Field(None, description="By name; the record keeps those that are not named.")
