"""Connections to one service that threads may share, and that no forked process takes over."""

from __future__ import annotations

import ssl
import threading

import httpx

from client._forking import start_anew_when_forked
from client._network import cut, keep_deadlines
from client.errors import ServiceUnavailableError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_NEVER_USED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For services without TLS. httpx would make a context all the same, in whichever thread opens the pool. OpenSSL then
has work to do when that thread ends, under a lock, and a process that is forked at that moment waits for the lock for
ever. Before Python 3.13 not even ``join`` waits for that work (findings/httpx_fork_after_join.sh)."""


class Connections:
    """A pool of connections that is opened when it is first used. A forked process opens one of its own.

    Args:
        url: base address of the service.
        injected: an ``httpx`` transport in place of the network, for tests and in-process use.
        unix_socket: path of the socket by which the service is reached; None = by the address.
        key: that each request shows.
    """

    def __init__(
        self,
        url: httpx.URL,
        injected: httpx.BaseTransport | None = None,
        unix_socket: str | None = None,
        key: str | None = None,
    ) -> None:
        self._url = url
        self.injected = injected
        self._unix_socket = unix_socket
        # httpx writes this header into no log and no error.
        self._authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
        # A proxy meant for the outside world must not come between two processes of one machine.
        self._trust_env = url.host not in _LOOPBACK
        with_tls = url.scheme == "https"
        self._tls = httpx.create_ssl_context(trust_env=self._trust_env) if with_tls else _NEVER_USED
        self._of_a_parent: httpx.Client | None = None
        self._start()
        start_anew_when_forked(self)

    def _start(self) -> None:
        self._opening = threading.Lock()
        self._stopped = threading.Event()
        self._http: httpx.Client | None = None

    def start_anew(self) -> None:
        """In a forked process: leave the pool and the locks to the parent, whose threads may hold them."""
        stopped = self._stopped.is_set()
        # Kept, as closing it is the parent's affair.
        self._of_a_parent = self._http or self._of_a_parent
        self._start()
        if stopped:
            self.stop()

    def http(self) -> httpx.Client:
        """The pool of this process."""
        with self._opening:
            if self._http is None:
                transport = self.injected
                if transport is None and self._unix_socket is not None:
                    transport = httpx.HTTPTransport(uds=self._unix_socket, verify=self._tls)
                self._http = httpx.Client(
                    base_url=self._url,
                    # Payloads are compressed already, and httpx 0.28.1 drops all but the first member of a gzip body
                    # and takes one that is cut for whole (findings/httpx_gzip_members.sh).
                    headers={"Accept-Encoding": "identity", **self._authorization},
                    transport=transport,
                    trust_env=self._trust_env,
                    verify=self._tls,
                )
                keep_deadlines(self._http)
            if self._stopped.is_set():
                cut(self._http)
            return self._http

    def wait(self, seconds: float) -> None:
        """Sleep, and wake early where :meth:`stop` is called."""
        self._stopped.wait(seconds)

    def refuse_if_stopped(self) -> None:
        """Find out before a step whether it may still be taken.

        Raises:
            ServiceUnavailableError: after :meth:`stop`.
        """
        if self._stopped.is_set():
            raise ServiceUnavailableError("the client is closed")

    def stop(self) -> None:
        """Make calls in other threads end with an error, whatever they wait for."""
        self._stopped.set()
        # Unlike the lock's owner this does not wait for anything: whoever opens a pool now finds out by itself.
        if (http := self._http) is not None:
            cut(http)

    def close(self) -> None:
        """Stop, and give the connections back."""
        self.stop()
        with self._opening:
            if self._http is not None:
                self._http.close()
            elif self.injected is not None:
                self.injected.close()
