"""A way to a service that breaks when it is told to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.ports import keep


class Link:
    """Listens on a port of its own and forwards to a service's. What is forwarded can be cut, or stand still."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self.num_connections = 0
        """That were made to it."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                service = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            with self._lock:
                self.num_connections += 1
                self._sockets |= {client, service}
            for source, target in ((client, service), (service, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """As if what listens was killed: connections break, and none can be made."""
        with suppress(OSError):
            # Or who accepts would go on with the one that comes next.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = keep(self.port)
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for end in sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def mend(self) -> None:
        """Listen again, on the same port."""
        with self._listener:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start()

    def stand_still(self) -> None:
        """Take what comes and pass nothing on."""
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self.go_on()
        self.cut()
        self._listener.close()
