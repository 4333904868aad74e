"""Tables of records that other libraries have written: Arrow and Parquet files, and what is in their memory.

What is read here is one's own. A service takes Arrow streams alone, which unpack to what they are long: a few bytes of
Parquet may stand for any number.
"""

from __future__ import annotations

import io
import mmap
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from memory_format.api.forms import FORMS
from memory_format.errors import FormatError
from memory_format.record import Record
from memory_format.wire import decode_batch
from memory_format.wire_schema import DESCRIPTION_KEY, PNG, SCHEMA, WIRE_KEY, unexpected

WITHOUT_DESCRIPTION: Final = (
    "it does not say of what buffer it is: the schema's metadata got lost on the way, as polars, pandas and DuckDB "
    "drop it. Create a buffer, and push what memory_format.read_records gives of the file"
)
_ROWS: Final = 100
"""Of a batch that is made: of bodies of up to 16 MiB each, less than the 2 GiB that it can hold."""


def read_records(source: Any) -> Iterator[Record]:
    """Records of a table, for :meth:`client.Buffer.push`, say, which gives them new ids.

    Args:
        source: an Arrow stream or file or a Parquet file by its path, or a table of pyarrow, polars, DuckDB, arro3 or
            whatever else has Arrow's ``__arrow_c_stream__``. Its columns are those of an exported table, in any order
            and of types that hold the same values; ``png`` and an index of pandas may be there, too.

    Raises:
        FormatError: ``invalid_export``: it is no such table; or a record's own code.
        OSError: it cannot be read.
    """
    for batch in _batches(*_opened(source)):
        out = io.BytesIO()
        with pa.ipc.new_stream(out, SCHEMA) as writer:
            writer.write_batch(batch)
        yield from decode_batch(out.getvalue())


Progress = Callable[[int, int | None, str], object]
"""Called with the bytes that were written, those there will be, as far as that is known, and the name of the file."""


def write_stream(path: Path, out: BinaryIO, progress: Progress | None = None) -> None:
    """An exported table, whatever has written it again, as the Arrow stream that a service imports.

    Raises:
        FormatError, OSError: as :func:`read_records`; it does not say of what buffer it is. ``out`` is to be thrown
            away then: pyarrow ends the stream all the same, and it looks whole (findings/pyarrow_half_written.sh).
    """
    schema, batches = _opened(path)
    metadata = schema.metadata or {}
    if DESCRIPTION_KEY not in metadata:
        raise FormatError(f"{path.name}: {WITHOUT_DESCRIPTION}", code="invalid_export")
    kept = {**SCHEMA.metadata, **{key: metadata[key] for key in (WIRE_KEY, DESCRIPTION_KEY) if key in metadata}}
    with pa.ipc.new_stream(out, SCHEMA.with_metadata(kept)) as writer:
        for batch in _batches(schema, batches):
            writer.write_batch(batch)
            if progress is not None:
                progress(out.tell(), None, path.name)


def is_zip(path: Path) -> bool:
    """Whether it is a Zarr store, or may be, and no table."""
    with path.open("rb") as file:
        beginning = file.read(8)
    return not any(beginning.startswith(form.begins) for name, form in FORMS.items() if name != "zarr")


def _opened(source: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        if hasattr(source, "__arrow_c_stream__"):
            reader = pa.RecordBatchReader.from_stream(source)
            return reader.schema, iter(reader)
        path = Path(source)
        with path.open("rb") as file:
            beginning = file.read(8)
        if beginning.startswith(FORMS["parquet"].begins):
            from pyarrow import parquet

            table = parquet.ParquetFile(path, memory_map=True)
            return table.schema_arrow, table.iter_batches(_ROWS)
        if not beginning:
            raise pa.ArrowInvalid("the file is empty")
        with path.open("rb") as file:
            mapped = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if beginning.startswith(FORMS["arrow-file"].begins):
            batches = pa.ipc.open_file(mapped)
            return batches.schema, (batches.get_batch(number) for number in range(batches.num_record_batches))
        if mapped[-8:].to_pybytes() != FORMS["arrow-stream"].ends:
            # Arrow takes one that was cut between two batches for a whole one.
            raise pa.ArrowInvalid("an Arrow stream says where it ends, and this does not: it was cut, or is none")
        reader = pa.ipc.open_stream(mapped)
        return reader.schema, iter(reader)
    except pa.ArrowException as error:
        raise _not_a_table(str(error).splitlines()[0][:200]) from error


def _batches(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of :data:`SCHEMA`. Raises ``FormatError``: ``invalid_export``."""
    names = [name for name in schema.names if name != PNG.name and not name.startswith("__index_level_")]
    if sorted(names) != sorted(SCHEMA.names):
        expected = ", ".join(f"{field.name}: {field.type}" for field in SCHEMA)
        types = dict.fromkeys(names, pa.null())
        raise _not_a_table(f"expected columns {expected}{unexpected(types)}")
    version = (schema.metadata or {}).get(WIRE_KEY, SCHEMA.metadata[WIRE_KEY])
    if version != SCHEMA.metadata[WIRE_KEY]:
        raise _not_a_table(f"it is of wire version {version.decode(errors='replace')[:20]}; update this side")
    try:
        for batch in batches:
            for first in range(0, batch.num_rows, _ROWS):
                part = batch.slice(first, _ROWS)
                yield pa.RecordBatch.from_arrays([_column(part, field) for field in SCHEMA], schema=SCHEMA)
    except pa.ArrowException as error:
        raise _not_a_table(str(error).splitlines()[0][:200]) from error


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    try:
        # A class 1.9 is refused. pa.array of Python's numbers would cut it off (findings/pyarrow_float_cut_off.sh).
        column = batch.column(field.name).cast(field.type)
    except pa.ArrowException as error:
        raise _not_a_table(f"its column {field.name}: {error}") from error
    if column.null_count:
        raise _not_a_table(f"its column {field.name} has nulls")
    return column


def _not_a_table(why: str) -> FormatError:
    return FormatError(f"it is no table of records: {why}", code="invalid_export")


@contextmanager
def as_imported(path: Path, progress: Progress | None = None) -> Iterator[tuple[Path, str]]:
    """A file as a service imports it, and its media type: a Zarr store as it is, a table as an Arrow stream in a
    temporary file. Raises as :func:`write_stream`."""
    if is_zip(path):
        yield path, FORMS["zarr"].media_type
        return
    with tempfile.TemporaryDirectory(prefix="exemplar-memory-") as folder:
        stream = Path(folder) / path.name
        with stream.open("wb") as out:
            write_stream(path, out, progress)
        yield stream, FORMS["arrow-stream"].media_type
