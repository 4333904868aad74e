"""Counts what a client waits for: a proxy before a PostgreSQL server's socket."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

_NAME = ".s.PGSQL.5432"
_ASKING = b"QSHp"
"""A statement by itself, the end of some, a wish for what there is of answers, a password."""


class _Said:
    """What a client has said, in messages of PostgreSQL's protocol."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._typed = 0
        """Bytes of a message's kind: the first has none."""

    def asks(self, data: bytes) -> bool:
        """Whether it waits for an answer once it has said this, too: statements in a pipeline do not."""
        self._rest += data
        asked = False
        while len(self._rest) >= self._typed + 4:
            length = self._typed + int.from_bytes(self._rest[self._typed : self._typed + 4])
            if len(self._rest) < length:
                break
            asked |= not self._typed or self._rest[0] in _ASKING
            del self._rest[:length]
            self._typed = 1
        return asked


class CountingProxy:
    """Listens in a directory of its own, which is what ``host`` is to be; forwards to the server's."""

    def __init__(self, directory: Path, server: Path) -> None:
        self.round_trips = 0
        """How often a client has asked for answers, and got some."""
        self.is_silent = False
        """Nothing is forwarded then, and nobody is told: as of a server that is frozen."""
        self.num_dropped = 0
        """What was not."""
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
            said, asked = _Said(), False
            while True:
                for key, _ in either.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 20)
                    if not data:
                        return
                    if self.is_silent:
                        self.num_dropped += 1
                        continue
                    if source is client:
                        asked |= said.asks(data)
                    else:
                        self.round_trips += asked
                        asked = False
                    key.data.sendall(data)

    def close(self) -> None:
        self._listener.close()
