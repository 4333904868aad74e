#!/usr/bin/env bash
# pyarrow 26.0.1: one row of a binary_view or string_view column, sent over IPC, takes all rows' bytes along.
#
# What: a column of 1,000 values of 1,000 bytes. One row of it, by slice(), is written as an IPC stream.
# Guess: about a kilobyte, as for binary and string: the writer cuts offsets and bytes to the rows that are sent.
# Seen: a view column sends every buffer whole. One row is a megabyte, and nbytes says so. Putting the slice together
#   anew does not help, a cast to binary does. With list_view it is take() and filter() that keep all bytes.
# For this project: bodies travel in a column of binary (docs/format.md, The wire), whose slices are cut. With a view
#   column a batch that is sent in pieces would go with every piece.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import io

import pyarrow as pa

ROWS, LENGTH = 1000, 1000
ALL = ROWS * LENGTH


def sent(column):
    """Bytes of the column as an IPC stream; it is checked that they are read back as the same rows."""
    table = pa.table({"x": column})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    assert pa.ipc.open_stream(stream.getvalue()).read_all().equals(table)
    return stream.tell()


values = [bytes([row % 251]) * LENGTH for row in range(ROWS)]
seen = {}
for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.string_view()):
    column = pa.array([value.hex()[:LENGTH] for value in values] if kind == pa.string_view() else values, kind)
    row = column.slice(5, 1)
    seen[kind] = {"slice": sent(row), "slice put together": sent(pa.concat_arrays([row]))}
    if kind == pa.binary_view():
        seen[kind]["slice, cast to binary"] = sent(row.cast(pa.binary()))
        of_views = row.nbytes
for kind in (pa.list_(pa.uint8()), pa.list_view(pa.uint8())):
    column = pa.array([list(value) for value in values], kind)
    only = pa.array([row == 5 for row in range(ROWS)])
    seen[kind] = {"slice": sent(column.slice(5, 1)), "take": sent(column.take(pa.array([5]))), "filter": sent(column.filter(only))}

print(f"pyarrow {pa.__version__}: one of {ROWS} rows of {LENGTH} bytes")
print("expected: 1,000 bytes and some hundred, or a few thousand")
for kind, cases in seen.items():
    print(f"seen:     {kind}: {', '.join(f'{name} {size}' for name, size in cases.items())}")
print(f"          nbytes of one row of binary_view: {of_views}")
print("source:   cpp/src/arrow/ipc/writer.cc of apache/arrow, RecordBatchSerializer: Visit(BinaryViewArray) adds all variadic")
print("          buffers, where Visit of binary cuts by the offsets")
WHOLE = {(pa.binary_view(), "slice"), (pa.binary_view(), "slice put together")}
WHOLE |= {(pa.string_view(), "slice"), (pa.string_view(), "slice put together")}
WHOLE |= {(pa.list_view(pa.uint8()), "take"), (pa.list_view(pa.uint8()), "filter")}
for kind, cases in seen.items():
    for name, size in cases.items():
        assert (size >= ALL) == ((kind, name) in WHOLE), f"changed: {kind}, {name}: {size} bytes"
        assert size >= ALL or size < 10 * LENGTH, f"changed: {kind}, {name}: {size} bytes"
assert of_views >= ALL, "changed: nbytes"
print("as described")
PYTHON
