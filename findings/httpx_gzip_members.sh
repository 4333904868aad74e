#!/usr/bin/env bash
# httpx 0.28.1 and httpx2 2.16.2 give the first member of a gzip body and drop the others, without an error.
#
# What: a server answers with Content-Encoding: gzip and a body of two members, as `cat a.gz b.gz`, bgzip and logs that are
#   appended to make them. The same with two frames of Zstandard. Content-Length is right, every byte arrives.
# Guess: both parts are there, as gzip.decompress and urllib3 give them: RFC 1952 says that a gzip file is a series of
#   members, and RFC 9110 names that format. Or an error, since bytes are left over.
# Seen: half the text, status 200. Zstandard is whole. A gzip body that ends in the middle is no error either (in urllib3
#   neither): what was there is the answer. With Zstandard all three refuse it.
# For this project: the client asks for `identity` (client/_connections.py), which keeps every answer out of this. Who
#   turns compression on again must decode by other means.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    httpx==0.28.1 httpx2==2.16.2 urllib3==2.8.0 zstandard==0.25.0 backports.zstd==1.8.0

"$folder/venv/bin/python" -I - <<'PYTHON'
import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import httpx2
import urllib3
import zstandard

PARTS = (b"first\n" * 1000, b"second\n" * 1000)
WHOLE = b"".join(PARTS)
BODIES = {
    "/gzip": ("gzip", b"".join(map(gzip.compress, PARTS))),
    "/zstd": ("zstd", b"".join(map(zstandard.compress, PARTS))),
    "/gzip-cut": ("gzip", gzip.compress(WHOLE)[:-20]),
    "/zstd-cut": ("zstd", zstandard.compress(WHOLE)[:-5]),
}
assert gzip.decompress(BODIES["/gzip"][1]) == WHOLE


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        encoding, body = BODIES[self.path]
        self.send_response(200)
        self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def tell(get):
    try:
        body = get()
    except Exception as error:
        return type(error).__name__
    return f"{len(body)} of {len(WHOLE)} bytes"


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
print(f"httpx {httpx.__version__}, httpx2 {httpx2.__version__}, urllib3 {urllib3.__version__}")
print(f"expected: {len(WHOLE)} bytes of two members or frames, and an error where bytes are missing")
seen = {}
with httpx.Client(trust_env=False) as old, httpx2.Client(trust_env=False) as new, urllib3.PoolManager() as pool:
    ways = {
        "httpx": lambda path: old.get(url + path).content,
        "httpx2": lambda path: new.get(url + path).content,
        "urllib3": lambda path: pool.request("GET", url + path, retries=False).data,
    }
    for path in BODIES:
        for name, get in ways.items():
            seen[name, path] = tell(lambda: get(path))
            print(f"seen:     {path[1:]:8} {name:7} {seen[name, path]}")
server.shutdown()
print("source:   GZipDecoder in httpx/_decoders.py and httpx2/_decoders.py: one zlib.decompressobj, whose unused_data and eof")
print("          nobody looks at; ZStandardDecoder beside it goes on with the next frame, and asks for eof at the end")
whole, half = f"{len(WHOLE)} of {len(WHOLE)} bytes", f"{len(PARTS[0])} of {len(WHOLE)} bytes"
assert seen["urllib3", "/gzip"] == seen["urllib3", "/zstd"] == whole
for name in ("httpx", "httpx2"):
    assert seen[name, "/gzip"] == half, f"changed: {name}, two members"
    assert seen[name, "/zstd"] == whole, f"changed: {name}, two frames"
    assert seen[name, "/gzip-cut"].endswith("bytes"), f"changed: {name}, a cut gzip body"
    assert seen[name, "/zstd-cut"] == "DecodingError", f"changed: {name}, a cut Zstandard body"
print("as described")
PYTHON
