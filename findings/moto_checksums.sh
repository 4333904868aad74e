#!/usr/bin/env bash
# moto 5.2.5: its S3 server keeps what arrived damaged: no checksum of a request is compared with the content.
#
# What: put_object and upload_part with a Content-MD5, a SHA-256 or a CRC-32 that are not the content's; and a put and the
#   completion of an upload in parts under an If-Match that does not hold.
# Guess: 400 for a wrong checksum, as S3 says (BadDigest), and 412 for both conditions.
# Seen: 200 for each wrong checksum, and the object is there; 412 for the put, and 200 for the completed upload, which
#   writes over what is there.
# For this project: a test against moto shows nothing of bytes changed under way; records have a CRC-32 of their own, which
#   reads compare. Objects that must be new are put in one request, whose condition moto keeps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.5' boto3==1.44.8

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import base64
import logging
from importlib.metadata import version

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

WRONG = {
    "ContentMD5": base64.b64encode(bytes(16)).decode(),
    "ChecksumSHA256": base64.b64encode(bytes(32)).decode(),
    "ChecksumCRC32": base64.b64encode(bytes(4)).decode(),
}
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)
client.create_bucket(Bucket="bucket")


def status(call, **options):
    try:
        return call(Bucket="bucket", **options)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]


def content(key):
    return client.get_object(Bucket="bucket", Key=key)["Body"].read()


seen = {}
for name, value in WRONG.items():
    seen[f"put, {name}"] = status(client.put_object, Key=name, Body=b"content", **{name: value})
    assert content(name) == b"content", f"changed: {name}"
upload = client.create_multipart_upload(Bucket="bucket", Key="parts", ChecksumAlgorithm="CRC32")["UploadId"]
part = {"Key": "parts", "UploadId": upload, "PartNumber": 1, "Body": b"part"}
seen["part, ChecksumCRC32"] = status(client.upload_part, **part, ChecksumCRC32=WRONG["ChecksumCRC32"])

client.put_object(Bucket="bucket", Key="parts", Body=b"first")
other = '"0123456789abcdef0123456789abcdef"'
seen["put, If-Match"] = status(client.put_object, Key="parts", Body=b"second", IfMatch=other)
assert content("parts") == b"first", "changed: put, If-Match"
upload = client.create_multipart_upload(Bucket="bucket", Key="parts")["UploadId"]
tag = client.upload_part(Bucket="bucket", **{**part, "UploadId": upload})["ETag"]
parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
seen["completed upload, If-Match"] = status(
    client.complete_multipart_upload, Key="parts", UploadId=upload, MultipartUpload=parts, IfMatch=other
)
assert content("parts") == b"part", "changed: completed upload, If-Match"
server.stop()

print(f"moto {version('moto')}, boto3 {version('boto3')}")
for name, code in seen.items():
    print(f"{name}: expected {412 if 'If-Match' in name else 400}, seen {code}")
print("source: moto/s3/responses.py: _get_checksum takes the header's word, and of a completed upload's conditions If-None-Match")
print("        alone is looked at. S3's API reference, PutObject: an error where the digests differ")
expected = dict.fromkeys(seen, 200) | {"put, If-Match": 412}
assert seen == expected, f"changed: {seen}"
print("as described")
PYTHON
