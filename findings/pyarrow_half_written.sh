#!/usr/bin/env bash
# pyarrow 26.0.1: a `with` block that raises leaves a whole Parquet file, Arrow file or S3 object, with half of the rows.
#
# What: half of the rows are written in a `with` block, which then raises: a Parquet file, an Arrow file, an Arrow stream, and
#   an object of 12 MiB through pyarrow's S3FileSystem. Then each is read. For comparison a few bytes through obstore's writer.
#   S3 is moto's server on the loopback.
# Guess: the files lack their end, so that reading says so; the upload to S3 is given up, and there is no object.
# Seen: all are read without an error, with half of the rows. To leave the block closes the writer, error or not: the footer is
#   written, and the upload in parts is completed. obstore gives it up.
# For this project: what is made for an import is a temporary file, thrown away on an error, and of an export no footer is sent
#   after one. Who writes a table for others to read does so under another name, and renames it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 obstore==0.12.1 'moto[s3,server]==5.2.5' boto3==1.44.8

"$folder/venv/bin/python" -I -W ignore - "$folder" <<'PYTHON'
import logging
import sys
from contextlib import suppress
from importlib.metadata import version

import boto3
import obstore
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

PART = 12 << 20
folder = sys.argv[1]
half = pa.table({"row": list(range(500))})


class Interrupted(Exception):
    """What the second half meets."""


def write(opened, step):
    with suppress(Interrupted), opened as writer:
        step(writer)
        raise Interrupted


def rows(name, read):
    try:
        return len(read(f"{folder}/{name}"))
    except (pa.ArrowInvalid, OSError) as error:
        return type(error).__name__


seen = {}
write(pa.parquet.ParquetWriter(f"{folder}/parquet", half.schema), lambda writer: writer.write_table(half))
seen["Parquet"] = rows("parquet", pa.parquet.read_table)
write(pa.ipc.new_file(f"{folder}/arrow", half.schema), lambda writer: writer.write_table(half))
seen["Arrow file"] = rows("arrow", lambda path: pa.ipc.open_file(path).read_all())
write(pa.ipc.new_stream(f"{folder}/stream", half.schema), lambda writer: writer.write_table(half))
with open(f"{folder}/stream", "rb") as stream:
    seen["end of the Arrow stream"] = stream.read()[-8:].hex()

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
where = f"{host}:{port}"
keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
boto3.client("s3", endpoint_url=f"http://{where}", region_name="us-east-1", **keys).create_bucket(Bucket="bucket")
store = S3Store("bucket", endpoint=f"http://{where}", region="us-east-1", client_options={"allow_http": True}, **keys)
files = pa.fs.S3FileSystem(
    access_key="key", secret_key="secret", endpoint_override=where, scheme="http", region="us-east-1"
)
write(files.open_output_stream("bucket/pyarrow"), lambda stream: stream.write(bytes(PART)))
write(obstore.open_writer(store, "obstore"), lambda stream: stream.write(b"a few"))
found = {item["path"]: item["size"] for items in store.list() for item in items}
server.stop()
seen["S3 object, pyarrow"] = found.get("pyarrow")
seen["S3 object, obstore"] = found.get("obstore")

print(f"pyarrow {pa.__version__}, obstore {version('obstore')}, moto {version('moto')}")
print("expected: errors, no end of the stream (ffffffff00000000), and no objects")
for name, value in seen.items():
    print(f"seen:     {name}: {value}")
print("source:   __exit__ of ParquetWriter in pyarrow/parquet/core.py, of _CRecordBatchWriter in ipc.pxi and of NativeFile in")
print("          io.pxi: self.close()")
assert seen == {
    "Parquet": 500,
    "Arrow file": 500,
    "end of the Arrow stream": "ffffffff00000000",
    "S3 object, pyarrow": PART,
    "S3 object, obstore": None,
}, "changed"
print("as described")
PYTHON
