"""The limit of any HTTP answer from this machine: a bare uvicorn app that answers from memory.

    python -m benchmarks.storage.bare       prints its address; POST /NUM_BYTES answers with as many bytes

Same server, same event loop, same settings as the service; no framework, no store.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]

_bodies: dict[int, bytes] = {}


async def answer(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """An ASGI app: takes the whole request, answers with the bytes that its path asks for."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    num_bytes = int(scope["path"].lstrip("/") or 0)
    if num_bytes not in _bodies:
        _bodies[num_bytes] = os.urandom(num_bytes)
    body = _bodies[num_bytes]
    headers = [
        (b"content-type", b"application/vnd.apache.arrow.stream"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    # As the service binds: naming the protocol lets asyncio switch Nagle's algorithm off.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(answer, log_config=None, access_log=False, lifespan="off"))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
