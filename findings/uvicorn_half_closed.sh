#!/usr/bin/env bash
# uvicorn 0.54.0, granian 2.8.9: who closes the sending half of a connection behind a request gets no answer, though the request was carried out.
#
# What: a POST by a client that shuts its sending side down behind it, as `nc -N` and some proxies do, and reads on. The application takes half a second,
#   notes in a file that it was there, and answers. Under uvicorn with h11 and httptools, granian, and hypercorn 0.18.0.
# Guess: an answer: HTTP/1.1 says how long a request is, and TCP closes each direction by itself. asyncio tells the end of what comes from a
#   lost connection.
# Seen: hypercorn answers. uvicorn and granian close the connection at once and without a byte. Each has run the application to its end.
# For this project: docs/service.md says so. What was pushed so is stored, and is answered when it is sent again with its Idempotency-Key. To go on
#   would be to not see who has gone, which is seen by the same sign.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0 granian==2.8.9 hypercorn==0.18.0

cat > "$folder/slow.py" <<'PYTHON'
import asyncio
import pathlib


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(0.5)
    with pathlib.Path("done").open("a") as file:
        file.write(scope["path"] + "\n")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
PYTHON
cat > "$folder/closed.py" <<'PYTHON'
import pathlib
import socket
import subprocess
import sys
import time
from importlib.metadata import version

REQUEST = b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
SERVERS = {
    "uvicorn, h11": ["uvicorn", "--http", "h11", "--port", "PORT", "slow:app"],
    "uvicorn, httptools": ["uvicorn", "--http", "httptools", "--port", "PORT", "slow:app"],
    "granian": ["granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "PORT", "slow:app"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:PORT", "slow:app"],
}
DONE = pathlib.Path("done")


def connect(port):
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise TimeoutError("the server did not start")


def ask(port, half):
    """The answer's last two bytes, and whether the application came to its end."""
    DONE.write_text("")
    with connect(port) as connection:
        connection.sendall(REQUEST % half)
        if half:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    for _ in range(100):
        if DONE.read_text():
            break
        time.sleep(0.1)
    return answer[-2:], bool(DONE.read_text())


names = ("uvicorn", "httptools", "h11", "granian", "hypercorn")
print(", ".join(f"{name} {version(name)}" for name in names))
seen = {}
for name, (module, *options) in SERVERS.items():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = [option.replace("PORT", str(port)) for option in options]
    server = subprocess.Popen([sys.executable, "-m", module, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen[name] = ask(port, False), ask(port, True)
    finally:
        server.terminate()
        server.wait()
    whole, half = seen[name]
    print(f"{name:18} open: {whole}; half closed: expected (b'ok', True), seen {half}")
print("source: uvicorn, h11_impl.py and httptools_impl.py: eof_received returns None, with which asyncio closes the connection;")
print("        hyper, which granian is made of: half_close is off where it is not asked for")
for name, (whole, half) in seen.items():
    assert whole == (b"ok", True), f"{name}: {whole}"
    assert half == (b"ok" if name == "hypercorn" else b"", True), f"changed: {name} {half}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python closed.py
