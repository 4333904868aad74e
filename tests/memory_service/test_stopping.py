"""The end of a service, whatever its clients do at that time."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from memory_format import encode_batch, lending
from tests.memory_service.helpers import (
    ARROW,
    Server,
    all_records,
    make_exemplar,
    push,
    put_buffer,
    segment_records,
    wait_until,
)

BATCH = encode_batch([make_exemplar(9)])
WANTED = json.dumps({"batch_size": 8, "replace": False}).encode()
DRAWN = json.dumps({"buffer": "b", "batch_size": 4}).encode()


def head(request: str, length: int = 0, kind: str = "application/json") -> bytes:
    lines = (f"{request} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


PUSH = head("POST /v1/buffers/b/exemplars", len(BATCH), ARROW["Content-Type"]) + BATCH
EXPORT = head("GET /v1/buffers/b/export")
STALLED = (
    b"",
    EXPORT[:20],
    PUSH[:-100],
    head("POST /v1/buffers/c/import", 10**6, "application/zip") + bytes(1000),
    EXPORT,
    head("GET /v1/backup"),
    head("POST /v1/buffers/b/sample", len(WANTED)) + WANTED,
)


def test_it_ends_within_ten_seconds_whatever_clients_do(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_SERVICE_STOP_SECONDS", "1")
    path = str(tmp_path / "s")
    with ExitStack() as stack:
        server = stack.enter_context(Server(data, "--uds", path))
        client = stack.enter_context(server.client())
        put_buffer(client, 200_000_000)
        push(client, [make_exemplar(rank=rank, pad=1_000_000) for rank in range(8)])
        port = int(server.url.rpartition(":")[2])

        def connect(family: socket.AddressFamily) -> socket.socket:
            found = stack.enter_context(socket.socket(family))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            found.settimeout(30)
            found.connect(path if family == socket.AF_UNIX else ("127.0.0.1", port))
            return found

        for family in (socket.AF_INET, socket.AF_UNIX):
            for sent in STALLED:
                connect(family).sendall(sent)
        # They keep what they were lent, or do not end what they began to say.
        for rest in (DRAWN, b""):
            local = connect(socket.AF_UNIX)
            local.sendall(lending.PREFACE + lending.REQUEST.pack(lending.DRAW, len(DRAWN)) + rest)
            assert local.recv(1)
        finishing = connect(socket.AF_INET)
        finishing.sendall(PUSH[:-100])
        # Of two backups at once the second is refused.
        wait_until(lambda: "exemplar_requests_in_progress 11.0\n" in client.get("/metrics").text)
        server.process.send_signal(signal.SIGTERM)
        # Who ends what was begun has an answer.
        finishing.sendall(PUSH[-100:])
        assert finishing.recv(1024).startswith(b"HTTP/1.1 200 ")
        status, out, log = server.stop(seconds=10)
        assert (status, out) == (0, "")
        assert "Traceback" not in log
    # Nothing is there by half.
    assert len(segment_records(data)) == 9
    assert {path.suffix for path in (data / "segments").iterdir()} == {".zip"}
    assert not any((data / "incoming").iterdir())
    with Server(data) as server, server.client() as client:
        assert len(all_records(client)) == 9
