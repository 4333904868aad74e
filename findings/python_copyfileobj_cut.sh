#!/usr/bin/env bash
# Python's http.client: a download that breaks off is no error when it is read in pieces, as `shutil.copyfileobj` does.
#
# What: a server announces 200,000 bytes, sends 98,000 and closes. The same in chunks, without the last one. Read by urllib.request and http.client in
#   each of their ways, and by urllib3 2.8.0, requests 2.34.2, niquests 3.21.2, httpx 0.28.1, httpx2 2.16.2 and aiohttp 3.14.5 in pieces.
# Guess: an error at the end, whoever reads and in whatever way: `read()` has one, IncompleteRead, and both forms say how much is to come.
# Seen: with Content-Length `read(n)`, `readinto`, `read1`, `copyfileobj` and a loop over the lines end without an error; of an answer in chunks the loop
#   does, too. All the others raise. Python's source says why: an error "might break compatibility". 3.11 to 3.13 are alike.
# For this project: the service ends a batch, an export or a backup early where it must, and trusts that its reader sees it (docs/service.md). Who loads
#   with urllib compares the length, or reads all at once. The client is made of httpx.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    urllib3==2.8.0 requests==2.34.2 niquests==3.21.2 httpx==0.28.1 httpx2==2.16.2 aiohttp==3.14.5

"$folder/venv/bin/python" -I - <<'PYTHON'
import asyncio
import io
import platform
import shutil
import socket
import threading
import urllib.request

import aiohttp
import httpx
import httpx2
import niquests
import requests
import urllib3

ANNOUNCED = 200_000
SENT = b"a line\n" * 14_000
HEADS = {
    "/length": b"Content-Length: %d\r\n\r\n" % ANNOUNCED,
    "/chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SENT),
}
SILENT = "no error"


def answer(connection):
    with connection:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(65536)
        path = asked.split()[1].decode()
        end = b"\r\n" if path == "/chunks" else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + HEADS[path] + SENT + end)
        connection.shutdown(socket.SHUT_WR)


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def in_pieces(read):
    num_bytes = 0
    while piece := read(65536):
        num_bytes += len(piece)
    return num_bytes


def into(response):
    place, num_bytes = bytearray(65536), 0
    while num := response.readinto(place):
        num_bytes += num
    return num_bytes


def copied(response):
    file = io.BytesIO()
    shutil.copyfileobj(response, file)
    return file.tell()


def of_urllib(read):
    def get(url):
        with urllib.request.urlopen(url, timeout=30) as response:
            return read(response)

    return get


def of_httpx(library):
    def get(url):
        with library.Client(trust_env=False) as client, client.stream("GET", url) as response:
            return sum(map(len, response.iter_raw()))

    return get


async def of_aiohttp(url):
    num_bytes = 0
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        while piece := await response.content.read(65536):
            num_bytes += len(piece)
    return num_bytes


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
base = f"http://127.0.0.1:{listener.getsockname()[1]}"
ways = {
    "urllib: read()": of_urllib(lambda response: len(response.read())),
    "urllib: read(n)": of_urllib(lambda response: in_pieces(response.read)),
    "urllib: read1(n)": of_urllib(lambda response: in_pieces(response.read1)),
    "urllib: readinto": of_urllib(into),
    "urllib: copyfileobj": of_urllib(copied),
    "urllib: its lines": of_urllib(lambda response: sum(map(len, response))),
    "urllib3: read(n)": lambda url: in_pieces(urllib3.PoolManager().request("GET", url, preload_content=False).read),
    "requests: copyfileobj": lambda url: copied(requests.get(url, stream=True, timeout=30).raw),
    "niquests: copyfileobj": lambda url: copied(niquests.get(url, stream=True, timeout=30).raw),
    "httpx: iter_raw": of_httpx(httpx),
    "httpx2: iter_raw": of_httpx(httpx2),
    "aiohttp: read(n)": lambda url: asyncio.run(of_aiohttp(url)),
}
print(f"Python {platform.python_version()}; expected: an error each time")
seen = {}
for name, get in ways.items():
    for path in HEADS:
        try:
            num_bytes = get(base + path)
            seen[name, path] = SILENT
            told = f"no error, {num_bytes} bytes"
            assert num_bytes == len(SENT), (name, path, num_bytes)
        except Exception as error:
            seen[name, path] = told = type(error).__name__
        print(f"seen: {name:22} {path[1:]:7} {told}")
print("source: HTTPResponse.read, readinto, read1 and peek in Lib/http/client.py: a read of nothing closes the connection where read() compares; the")
print("        lines come by way of peek, which takes an IncompleteRead for the end")
silent = {("urllib: " + how, "/length") for how in ("read(n)", "read1(n)", "readinto", "copyfileobj", "its lines")} | {("urllib: its lines", "/chunks")}
assert {at for at, told in seen.items() if told == SILENT} == silent, "changed: which ways are silent"
print("as described")
PYTHON
