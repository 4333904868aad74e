"""Sockets that keep a deadline, and that another thread can cut.

httpx bounds each read and write by itself, so an answer that drips has no end, and one that does not come is waited for
as long as its timeout says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

_WRITE_BYTES = 64 * 1024


class Deadline:
    """When a call must be over."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self.put_off()

    def put_off(self) -> None:
        """Count its seconds from now."""
        self._at = self._clock() + self._seconds

    def left(self) -> float:
        return self._at - self._clock()


class Within(float):
    """Seconds that one step may take; :meth:`now` is what a deadline leaves of them at the time of the step.

    httpx hands a timeout through as the object that it is, so this one reaches the socket.
    """

    def __new__(cls, seconds: float, deadline: Deadline) -> Within:
        # Never zero, which httpx would read as "at once".
        return super().__new__(cls, max(0.001, min(seconds, deadline.left())))

    def __init__(self, seconds: float, deadline: Deadline) -> None:
        self._seconds = seconds
        self._deadline = deadline

    def now(self) -> float:
        return min(self._seconds, self._deadline.left())


def keep_deadlines(client: httpx.Client) -> None:
    """Make what the client opens keep the deadlines of its timeouts that are :class:`Within`."""
    # httpcore takes a network backend, and httpx has no argument that would hand one on.
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend(pool._network_backend)


def cut(client: httpx.Client) -> None:
    """Make whatever waits for a network of :func:`keep_deadlines` end with an error, now and from now on."""
    for transport in (client._transport, *client._mounts.values()):
        backend = getattr(getattr(transport, "_pool", None), "_network_backend", None)
        if isinstance(backend, _Backend):
            backend.cut()


def cut_socket(connection: socket.socket) -> None:
    """Make whoever waits for a socket in another thread find it closed; who has it still closes it."""
    with contextlib.suppress(OSError):
        # By the plain socket: one with TLS would forget its session under whoever reads.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
        self._is_cut = False

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            streams = list(self._streams)
        for stream in streams:
            stream.cut()

    def _stream(self, inner: httpcore.NetworkStream) -> _Stream:
        stream = _Stream(inner, self._stream)
        with self._lock:
            self._streams.add(stream)
            is_cut = self._is_cut
        if is_cut:
            stream.cut()
        return stream

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return self._stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return self._stream(self._inner.connect_unix_socket(path, left, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(
        self, inner: httpcore.NetworkStream, known: Callable[[httpcore.NetworkStream], httpcore.NetworkStream]
    ) -> None:
        self._inner, self._known = inner, known

    def cut(self) -> None:
        cut_socket(self.get_extra_info("socket"))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces, as a peer that takes a little at a time makes many waits of one.
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return self._known(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    if not isinstance(timeout, Within):
        return timeout
    left = timeout.now()
    if left <= 0:
        raise late("the deadline has passed")
    return left
