"""The columns of a batch on the wire, and which streams of others are understood as such a batch."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from memory_format.errors import FormatError
from memory_format.header import HEADER_DTYPE

WIRE_VERSION: Final = "2"
WIRE_KEY: Final = b"exemplar_memory_wire"

SCHEMA: Final = pa.schema(
    [
        pa.field("learner_id", pa.string(), nullable=False)
        if name == "learner"
        else pa.field(name, pa.from_numpy_dtype(HEADER_DTYPE[name]), nullable=False)
        for name in HEADER_DTYPE.names or ()
        if name != "offset"
    ]
    + [pa.field("body", pa.binary(), nullable=False)],
    metadata={WIRE_KEY: WIRE_VERSION},
)
"""The header's columns, with the learner's name for its number, and the body. ``crc32``: of the body, computed
by whoever encoded it, so that damage on the way is seen at the other end."""

DESCRIPTION_KEY: Final = b"exemplar_memory_buffer"
"""Of a table's metadata: the JSON that an exported Zarr store has in its attribute of that name."""
PNG: Final = pa.field("png", pa.binary())
"""A column of exported tables that can be made of the others."""

_LARGE: Final = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
_PICTURES: Final = (PNG.type, pa.large_binary())
_VIEWS: Final = (pa.string_view(), pa.binary_view())


def check_schema(schema: pa.Schema) -> None:
    """Whether a stream's columns are those of a batch, whatever its writer has made of them: in any order, nullable,
    with 64-bit offsets, without metadata, and with pictures beside them.

    Raises:
        FormatError: ``invalid_batch``.
    """
    version = (schema.metadata or {}).get(WIRE_KEY)
    if version is not None and version != WIRE_VERSION.encode():
        raise FormatError(
            f"the batch is of wire version {version.decode(errors='replace')[:20]}, this side speaks {WIRE_VERSION}: "
            "update the older of the two",
            code="invalid_batch",
        )
    if schema.equals(SCHEMA):
        return
    fields = [field for field in schema if field.name != PNG.name or field.type not in _PICTURES]
    types = {field.name: field.type for field in fields}
    if any(kind in _VIEWS for kind in types.values()):
        # Many rows may show the same bytes, and each would be as many again.
        raise FormatError(
            "Arrow's views are not taken, but string and binary, or large_string and large_binary; polars writes those "
            "with compat_level=polars.CompatLevel.oldest()",
            code="invalid_batch",
        )
    if len(types) != len(fields) or not is_batch(types):
        raise FormatError(
            "the Arrow schema is not that of a record batch (docs/format.md); expected columns "
            + ", ".join(f"{field.name}: {field.type}" for field in SCHEMA)
            + unexpected(types),
            code="invalid_batch",
        )


def is_batch(types: dict[str, pa.DataType]) -> bool:
    """Whether these are the columns of a batch."""
    return types.keys() == set(SCHEMA.names) and all(
        types[field.name] in (field.type, _LARGE.get(field.type)) for field in SCHEMA
    )


def unexpected(types: dict[str, pa.DataType]) -> str:
    """What is said of columns that a batch has no place for."""
    others = [name[:40] for name in types if name not in SCHEMA.names][:5]
    return f"; and not {', '.join(others)}" if others else ""
