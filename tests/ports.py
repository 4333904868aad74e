"""Ports of loopback that somebody comes back to."""

from __future__ import annotations

import socket


def keep(port: int) -> socket.socket:
    """Nobody listens there, and nobody's connection is given the port, until this is closed.

    Whoever may be listened at again in the meantime has to reuse the address, as ``socket.create_server`` does.
    """
    kept = socket.socket()
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", port))
    except OSError:
        kept.close()
        raise
    return kept
