#!/usr/bin/env bash
# pyarrow 26.0.1: an Arrow IPC stream that stops between two batches is read as a whole one.
#
# What: a stream of four batches, of which only the bytes of the first ones are there.
# Guess: an error. Arrow writes a mark at the end, and a stream that is cut anywhere else is refused.
# Seen: at the end of any batch the reader is content: half the rows, no error, no warning, and nothing in the reader
#   says whether the mark was there.
# For this project: batches of records travel so. The mark may be missing in a good stream, so wire.py
#   does not ask for it. That a body came whole is for HTTP to say: a server or client that loses the connection within
#   one fails. Nothing had to change; what keeps such streams in files must keep their length beside them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1

"$folder/venv/bin/python" -I - <<'PYTHON'
import io

import pyarrow as pa

ROWS = 10
SCHEMA = pa.schema([("number", pa.int64())])
END = b"\xff\xff\xff\xff\0\0\0\0"


def read(data):
    try:
        return pa.ipc.open_stream(data).read_all().num_rows
    except (pa.ArrowInvalid, OSError) as error:
        return type(error).__name__


written, ends = io.BytesIO(), []
with pa.ipc.new_stream(written, SCHEMA) as writer:
    for start in range(0, 4 * ROWS, ROWS):
        writer.write_batch(pa.record_batch([pa.array(range(start, start + ROWS))], SCHEMA))
        ends.append(written.tell())
whole = written.getvalue()
assert whole == whole[: ends[-1]] + END

print(f"pyarrow {pa.__version__}")
print("expected: an error, unless all bytes are there")
print(f"seen:     all {len(whole)} bytes: {read(whole)} rows")
between = {end: read(whole[:end]) for end in ends}
within = {end: read(whole[:end]) for end in (ends[1] + 4, ends[1] + 100, ends[2] - 8)}
for cut, seen in sorted((between | within).items()):
    print(f"          the first {cut} bytes: {seen}{' rows' if cut in between else ''}")
print("source:   the format allows it: 'Arrow columnar format', 'IPC Streaming Format': the end is signalled by the mark, or")
print("          by closing the stream; in C++ arrow/ipc/reader.cc, RecordBatchStreamReader, no bytes left is the end")
assert read(whole) == 4 * ROWS
assert list(between.values()) == [ROWS, 2 * ROWS, 3 * ROWS, 4 * ROWS], "changed: between two batches"
assert all(isinstance(seen, str) for seen in within.values()), "changed: within a batch"
print("as described")
PYTHON
