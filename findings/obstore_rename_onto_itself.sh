#!/usr/bin/env bash
# obstore 0.12.1: MemoryStore.rename(x, x) deletes the object; LocalStore keeps it; S3 refuses.
#
# What: an object renamed to the name that it has, in three stores. S3 is moto 5.2.5's server on the loopback.
# Guess: nothing happens, as with os.rename, and in all stores the same.
# Seen: in memory the object is gone, without an error; with overwrite=False it is refused, and kept. On disk it stays.
#   From S3 comes an error, and it stays.
# For this project: a store in memory that stands in for another in tests differs from it just where data are lost
#   (docs/decisions/0004-segments-speak-for-themselves.md). Segments are files, whose names are drawn anew for each.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1 'moto[s3,server]==5.2.5' boto3==1.44.8

"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import boto3
from moto.server import ThreadedMotoServer
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, S3Store

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint, keys = f"http://{host}:{port}", {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket="bucket")
STORES = {
    "MemoryStore": MemoryStore(),
    "LocalStore": LocalStore(sys.argv[1]),
    "S3Store": S3Store(
        "bucket",
        endpoint=endpoint,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
        **keys,
    ),
}


def renamed(store, overwrite):
    """What rename says, and what is there afterwards."""
    store.put("object", b"content")
    try:
        store.rename("object", "object", overwrite=overwrite)
        said = "no error"
    except (BaseError, NotImplementedError) as error:
        said = type(error).__name__
    try:
        return said, bytes(store.get("object").bytes())
    except FileNotFoundError:
        return said, None


seen = {(name, overwrite): renamed(store, overwrite) for name, store in STORES.items() for overwrite in (True, False)}
server.stop()
print(f"obstore {version('obstore')}, moto {version('moto')}")
print("expected: the object is there afterwards")
for (name, overwrite), (said, content) in seen.items():
    print(f"seen:     {name}, overwrite={overwrite}: {said}; then {content}")
print("source:   src/memory.rs and src/lib.rs of apache/arrow-rs-object-store: rename is a copy, and then the old name is")
print("          deleted; src/local.rs calls the system's rename")
assert seen["MemoryStore", True] == ("no error", None), "changed: MemoryStore"
assert seen["LocalStore", True] == ("no error", b"content"), "changed: LocalStore"
assert seen["S3Store", True][0] != "no error" and seen["S3Store", True][1] == b"content", "changed: S3Store"
for name in STORES:
    assert seen[name, False][0] != "no error" and seen[name, False][1] == b"content", f"changed: {name}, overwrite=False"
print("as described")
PYTHON
