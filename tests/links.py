"""What lies between a service and its PostgreSQL server: a link that can be cut, or that passes nothing for a while."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

_NAME = ".s.PGSQL.5432"


class Link:
    """A socket that forwards to a server's; :attr:`host` is its directory.

    Who is behind a link that passes nothing sees no connection end, as where packets are lost.

    Args:
        server: directory of the server's socket.
    """

    lost = "socket held"

    def __init__(self, server: Path) -> None:
        # Short, as a socket's path must be.
        self._directory = Path(tempfile.mkdtemp(prefix="link-", dir="/tmp"))
        self.host = str(self._directory)
        self._server = server / _NAME
        self._there, self._back = threading.Event(), threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._directory / _NAME))
        self._listener.listen(64)
        self.pass_all()
        threading.Thread(target=self._accept, daemon=True).start()

    def pass_all(self) -> None:
        """What was held back arrives, also from who has ended since."""
        self._there.set()
        self._back.set()

    def hold(self, *, there: bool = True, back: bool = True) -> None:
        """Pass nothing on to the server, or nothing of what it answers."""
        for held, gate in ((there, self._there), (back, self._back)):
            if held:
                gate.clear()

    def cut(self) -> None:
        """End all connections there are, and lose what is held back."""
        for end in list(self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def remove(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self.pass_all()
        shutil.rmtree(self._directory)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            try:
                server.connect(str(self._server))
            except OSError:
                return
            ends = (client, server)
            self._sockets.update(ends)
            back = threading.Thread(target=_hand_on, args=(server, client, self._back), daemon=True)
            back.start()
            _hand_on(client, server, self._there)
            back.join()
            self._sockets.difference_update(ends)


def _hand_on(source: socket.socket, target: socket.socket, gate: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            gate.wait()
            target.sendall(data)
    with suppress(OSError):
        gate.wait()
        target.shutdown(socket.SHUT_WR)
