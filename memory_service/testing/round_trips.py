"""Counts what a client waits for: a proxy before a PostgreSQL server's socket."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

_NAME = ".s.PGSQL.5432"


class CountingProxy:
    """Listens in a directory of its own, which is what ``host`` is to be; forwards to the server's."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.round_trips = 0
        """How often the server has answered what a client had sent."""
        self._server = server / _NAME
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / _NAME))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        # Either may be killed.
        with suppress(ConnectionError):
            self._forward_all(client)

    def _forward_all(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as either:
            server.connect(str(self._server))
            either.register(client, selectors.EVENT_READ, server)
            either.register(server, selectors.EVENT_READ, client)
            asked = False
            while True:
                for key, _ in either.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 20)
                    if not data:
                        return
                    self.round_trips += source is server and asked
                    asked = source is client
                    key.data.sendall(data)

    def close(self) -> None:
        self._listener.close()
