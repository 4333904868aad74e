"""What all answers are made of: how their classes say themselves in JSON Schema, and arrays that are lists in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema


def _require_all(schema: dict[str, Any]) -> None:
    """A default is for reading an older service's answer: this service sends every member."""
    for member in schema.get("properties", {}).values():
        member.pop("default", None)


_CONFIG: Final = ConfigDict(
    use_attribute_docstrings=True,
    json_schema_serialization_defaults_required=True,
    json_schema_extra=_require_all,
)


def one_of(words: tuple[str, ...]) -> Any:
    """One of some words, for the schema. Readers take words that a newer service may know."""
    return Field(json_schema_extra={"enum": list(words)})


def _array(dtype: type[np.generic], listed: Any) -> GetPydanticSchema:
    """An array that is ``listed`` in JSON."""

    def read(values: Any) -> NDArray[Any]:
        try:
            return np.array(values, dtype=dtype)
        except OverflowError as error:
            raise ValueError(str(error)) from None

    def write(values: NDArray[Any]) -> Any:
        return values.astype(int).tolist()

    return GetPydanticSchema(
        lambda _, schema_of: core_schema.no_info_after_validator_function(
            read, schema_of(listed), serialization=core_schema.plain_serializer_function_ser_schema(write)
        )
    )


Grid = Annotated[
    tuple[int, int],
    WithJsonSchema({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
]
Mask = Annotated[NDArray[np.bool_], _array(np.bool_, list[list[int]])]
Integers = Annotated[NDArray[np.int64], _array(np.int64, list[int])]


@dataclass(frozen=True)
class Answer:
    """One answer."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
