#!/usr/bin/env bash
# nginx 1.22.1 before uvicorn 0.54.0: an answer that breaks off is a whole one for the client.
#
# What: an application answers without a length, sends half and fails. Asked directly, and through nginx with nothing but `proxy_pass`, with
#   `proxy_buffering off`, and with `proxy_http_version 1.1`; uvicorn with h11 and with httptools.
# Guess: the client sees that it was cut each time: the last chunk is missing, and a proxy does not add what it did not get.
# Seen: with h11 nginx ends the answer with a last chunk, 200 and half of the bytes. It asks in HTTP/1.0 as long as it is not told otherwise, which
#   knows no chunks: the end of the connection is the end of the answer, also where it is that of a failure. httptools sends chunks to HTTP/1.0 too, which
#   RFC 9112, 6.1, forbids, and which nginx reads: there the cut is seen, by luck. With `proxy_http_version 1.1` both are.
# For this project: an export whose length is not known is whole where its last chunk is (docs/service.md). A proxy has to speak HTTP/1.1 to the service;
#   Caddy, as in deploy/, does.
set -euo pipefail
if ! command -v dpkg > /dev/null || ! command -v apt-get > /dev/null; then
    echo "Debian's apt-get and dpkg are needed, for nginx" >&2
    exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
if command -v nginx > /dev/null; then
    nginx=$(command -v nginx)
else
    # Unpacked here, not installed. `apt-get update` first where the list of packages is old.
    apt-get download --quiet --quiet nginx
    dpkg -x nginx_*.deb nginx
    nginx=$folder/nginx/usr/sbin/nginx
fi
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0

cat > half.py <<'PYTHON'
import asyncio


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
    # So that it is on its way.
    await asyncio.sleep(0.3)
    if scope["path"] == "/half":
        raise RuntimeError("this fails")
    await send({"type": "http.response.body", "body": bytes(100_000)})
PYTHON
cat > cut.py <<'PYTHON'
import http.client
import pathlib
import socket
import subprocess
import sys
import time
from importlib.metadata import version

NGINX = sys.argv[1]
SETTINGS = {"as it is": "", "without buffers": "proxy_buffering off;", "HTTP/1.1": "proxy_http_version 1.1;"}
CONFIGURATION = """
daemon off; master_process off; pid pid; error_log stderr crit;
events {}
http {
    access_log off;
    client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
    server { listen 127.0.0.1:%d; location / { proxy_pass http://127.0.0.1:%d; %s } }
}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ask(port, path):
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.connect()
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return f"{response.status}, {len(response.read())} bytes"
    except http.client.IncompleteRead:
        return "cut"
    finally:
        connection.close()


told = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr.strip().rpartition("/")[2]
print(f"nginx {told}, uvicorn {version('uvicorn')}, h11 {version('h11')}, httptools {version('httptools')}; expected: cut, each time")
seen = {}
for http_of in ("h11", "httptools"):
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "uvicorn", "--log-level", "critical", "--no-access-log", "--http", http_of, "--port", str(port), "half:app"], stderr=subprocess.DEVNULL)
    try:
        assert ask(port, "/whole") == "200, 200000 bytes"
        seen[http_of, "directly"] = ask(port, "/half")
        for name, setting in SETTINGS.items():
            before = free_port()
            pathlib.Path("nginx.conf").write_text(CONFIGURATION % (before, port, setting))
            proxy = subprocess.Popen([NGINX, "-p", ".", "-e", "stderr", "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
            try:
                assert ask(before, "/whole") == "200, 200000 bytes"
                seen[http_of, name] = ask(before, "/half")
            finally:
                proxy.terminate()
                proxy.wait()
    finally:
        server.terminate()
        server.wait()
for (http_of, name), what in seen.items():
    print(f"seen: {http_of:9} {name:15} {what}")
print("source: ngx_http_proxy_module's proxy_http_version, 1.0 unless set; HttpToolsProtocol's RequestResponseCycle.send in uvicorn, which asks for no")
print("        version before it sends chunks, where h11 does")
for (http_of, name), what in seen.items():
    is_whole = http_of == "h11" and name in ("as it is", "without buffers")
    assert what == ("200, 100000 bytes" if is_whole else "cut"), f"changed: {http_of}, {name}: {what}"
print("as described")
PYTHON
venv/bin/python cut.py "$nginx"
