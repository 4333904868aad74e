#!/usr/bin/env bash
# starlette 1.10.0: a compressed download that is gone on with by If-Range becomes a file of two halves that do not fit.
#
# What: StaticFiles behind GZipMiddleware. A client loads a text compressed, loses the connection after 1,000 bytes, and asks
#   for the rest with Range and, as If-Range, the ETag it was given. It has the same Accept-Encoding both times.
# Guess: the rest of the same bytes, or the whole anew with 200. That is what If-Range is for: a strong ETag names one
#   sequence of bytes (RFC 9110, 8.8.1 and 13.1.5), and nginx makes it weak where it compresses.
# Seen: 206 with the rest of the text as it is on disk. The ETag is that of the file, with compression or without, and stays
#   strong; the range is cut from the file, and a 206 is not compressed. Joined, the bytes cannot be decompressed.
#   Nor is `gzip;q=0` heeded: who says that gzip is not acceptable gets it.
# For this project: the service compresses no answer, as payloads are compressed already. Where a proxy does so, the proxy has
#   to change the ETag. Nothing had to change here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check starlette==1.10.0 uvicorn==0.54.0

cat > "$folder/resumed.py" <<'PYTHON'
import http.client
import pathlib
import socket
import threading
import zlib
from importlib.metadata import version

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

LOADED = 1000

folder = pathlib.Path("static")
folder.mkdir()
text = "\n".join(map(str, range(3000))).encode()
(folder / "numbers.txt").write_bytes(text)
app = Starlette(routes=[Mount("/", StaticFiles(directory=folder))], middleware=[Middleware(GZipMiddleware)])
listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
serving.start()


def get(**headers):
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=30)
    connection.request("GET", "/numbers.txt", headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def unpacked(data):
    try:
        return zlib.decompress(data, zlib.MAX_WBITS | 16) == text
    except zlib.error as error:
        return str(error)


try:
    first, whole = get(Accept_Encoding="gzip")
    etag = first.headers["ETag"]
    rest, part = get(Accept_Encoding="gzip", Range=f"bytes={LOADED}-", If_Range=etag)
    plain, _ = get(Accept_Encoding="identity")
    refused, _ = get(Accept_Encoding="identity, gzip;q=0")
finally:
    server.should_exit = True
    serving.join()
joined = whole[:LOADED] + part
print(f"starlette {version('starlette')}, uvicorn {version('uvicorn')}")
print(f"expected: the other {len(whole) - LOADED} of {len(whole)} bytes with 206, or all of them with 200")
print(f"seen:     the whole: {first.status}, {first.headers['Content-Encoding']}, ETag {etag}: unpacked {unpacked(whole)}")
print(f"          the rest:  {rest.status}, Content-Encoding {rest.headers['Content-Encoding']}, {rest.headers['Content-Range']}")
print(f"          joined: {unpacked(joined)}")
print(f"          not compressed: ETag {plain.headers['ETag']}")
print(f"          Accept-Encoding: identity, gzip;q=0: Content-Encoding {refused.headers['Content-Encoding']}")
print("source:   GZipMiddleware.__call__ and its responder in starlette/middleware/gzip.py: 'gzip' anywhere in the header is")
print("          enough, a 206 is let through, ETag stays as it is; FileResponse in starlette/responses.py makes it")
assert unpacked(whole) is True and plain.headers["Content-Encoding"] is None
assert plain.headers["ETag"] == etag and not etag.startswith("W/"), "changed: the ETag of compressed answers"
assert rest.status == 206 and part == text[LOADED:], "changed: what is given as the rest"
assert unpacked(joined) is not True, "changed: the halves fit"
assert refused.headers["Content-Encoding"] == "gzip", "changed: gzip;q=0 is heeded"
print("as described")
PYTHON
cd "$folder" && venv/bin/python resumed.py
