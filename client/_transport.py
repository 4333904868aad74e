"""One HTTP exchange with the service: timeouts on everything, retries only where a retry is safe."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx

from client._network import Deadline, Within, keep_deadlines
from client.errors import (
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    error_from_response,
    retry_after_seconds,
)
from memory_format import ExemplarMemoryError
from memory_format.arguments import is_number, is_whole

log = logging.getLogger(__name__)

Params = list[tuple[str, str | int | float | bool | None]]

Upload = Callable[[], Generator[bytes, None, None]]
"""A body that is sent piece by piece, from its beginning at each try."""
Receive = Callable[[httpx.Response, Iterator[bytes]], object]
"""Takes an answer piece by piece; called again, from the answer's beginning, where the connection broke."""

_BUSY = 429
_RETRIED_STATUS = (_BUSY, 503)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST = 1e9
_PUT_OFF_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Timeout:
    """Seconds to wait.

    Args:
        connect: for a connection.
        read: for the next bytes of an answer, and for the service to take the next bytes of a body.
        total: for one call with all its retries, however slowly its answer comes. A buffer that goes to a file or
            comes from one takes as long as it takes: there it bounds each MiB.
    """

    connect: float = 5.0
    read: float = 60.0
    total: float = 120.0

    def __post_init__(self) -> None:
        if not all(is_number(value, 0, _LONGEST) and value for value in (self.connect, self.read, self.total)):
            raise ValueError(f"timeouts must be positive seconds, at most {_LONGEST:g}, got {self}")


@dataclass(frozen=True)
class Retries:
    """How often a safe request is tried, and the waits between: 8 to 16 seconds in all, which a restart of the
    service fits into.

    Args:
        tries: the most requests that one call makes; 1 = no retries.
        first_wait: seconds before the second try; doubled for each one after. The wait is drawn between half
            of it and all of it, so that learners which lost the service together do not return together.
        max_wait: the longest of these waits. A longer ``Retry-After`` is honoured all the same.
    """

    tries: int = 8
    first_wait: float = 0.2
    max_wait: float = 5.0

    def __post_init__(self) -> None:
        waits = (self.first_wait, self.max_wait)
        if not is_whole(self.tries, 1, 2**31) or not all(is_number(wait, 0, _LONGEST) for wait in waits):
            raise ValueError(f"tries must be at least 1 and waits not negative, got {self}")


class Transport:
    """An HTTP connection pool to one service. Threads may share it; a forked process opens connections of its own.

    Args:
        url: base address of the service.
        transport: an ``httpx`` transport in place of the network, for tests and in-process use.
        sleep, clock, rng: what waits, tells the time and draws jitter.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: Timeout,
        retries: Retries,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._url = service_url(url)
        self.url = str(self._url).rstrip("/")
        self.timeout = timeout
        self.retries = retries
        self.injected = transport
        self._given_sleep = sleep
        self._clock = clock
        self._rng = rng or random.Random()
        self._of_a_parent: httpx.Client | None = None
        self._start()
        _transports.add(self)

    def _start(self) -> None:
        self._opening = threading.Lock()
        self._stopped = threading.Event()
        self._sleep = self._given_sleep or self._stopped.wait
        self._http: httpx.Client | None = None

    def start_anew(self) -> None:
        """In a forked process: leave connections and locks to the parent, whose threads may hold them."""
        stopped = self._stopped.is_set()
        # Kept, as closing it is the parent's affair.
        self._of_a_parent = self._http or self._of_a_parent
        self._start()
        self._rng = random.Random()  # the parent's would draw the same waits in every child
        if stopped:
            self._stopped.set()

    def _connections(self) -> httpx.Client:
        with self._opening:
            if self._http is None:
                self._http = httpx.Client(
                    base_url=self.url,
                    # Payloads are compressed already.
                    headers={"Accept-Encoding": "identity"},
                    transport=self.injected,
                    # A proxy meant for the outside world must not come between two processes of one machine.
                    trust_env=self._url.host not in _LOOPBACK,
                )
                keep_deadlines(self._http)
            return self._http

    def request(
        self,
        method: str,
        path: str,
        *,
        safe: bool,
        params: Params | None = None,
        json: Any = None,
        content: bytes | Upload | None = None,
        headers: Mapping[str, str] | None = None,
        accept_status: tuple[int, ...] = (),
        receive: Receive | None = None,
    ) -> httpx.Response:
        """Send a request and read its answer.

        Args:
            safe: sending it twice does what sending it once does. Only then is it tried again, and only after
                a broken connection, 429 or 503; an answer that is late may still be on its way, so a read
                that times out is not repeated. 429 says that nothing was done, so what is not safe is tried
                again after it too.
            accept_status: error statuses that the caller wants to see rather than have raised.
            receive: is given the content of a good answer, which is then not kept.

        Raises:
            ExemplarMemoryError: the service refused, in its own words.
            ServiceUnavailableError, ServiceTimeoutError, ProtocolError: it could not be asked.
        """
        deadline = Deadline(self.timeout.total, self._clock)
        for attempt in range(1, self.retries.tries + 1):
            self._refuse_if_stopped()
            wait: float | None = None
            again = safe
            error: ExemplarMemoryError | ServiceError
            try:
                response = self._exchange(
                    content,
                    receive,
                    deadline,
                    method=method,
                    url=path,
                    params=params or None,
                    json=json,
                    headers=headers,
                    timeout=self._timeout_until(deadline),
                )
            except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout) as cause:
                error = self._lost(method, path, cause, deadline, tries=attempt)
                error.__cause__ = cause
            except httpx.TimeoutException as cause:
                raise self._lost(method, path, cause, deadline, tries=attempt) from cause
            except httpx.HTTPError as cause:
                raise ServiceError(f"{method} {self.url}{path}: {cause or type(cause).__name__}") from cause
            else:
                # httpx leaves a cycle of references here, which would keep both bodies, megabytes each, until
                # the garbage collector comes by. The answer is read by now.
                response.stream = httpx.ByteStream(b"")
                if response.is_success or response.status_code in accept_status:
                    return response
                error = error_from_response(response)
                if attempt > 1:
                    error.details["tries"] = attempt
                if response.status_code not in _RETRIED_STATUS:
                    raise error
                wait = retry_after_seconds(response)
                if wait is not None:
                    error.details.setdefault("retry_after", wait)
                again = safe or response.status_code == _BUSY
            if attempt == self.retries.tries or not again:
                raise error
            wait = self._backoff(attempt) if wait is None else wait
            if wait >= deadline.left():
                raise error
            if isinstance(error, ServiceError):
                log.warning("%s; trying again in %.1f s", error.message, wait)
            self._sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    def _exchange(
        self, content: bytes | Upload | None, receive: Receive | None, deadline: Deadline, **arguments: Any
    ) -> httpx.Response:
        http = self._connections()
        with ExitStack() as stack:
            if callable(content):
                body: bytes | Iterable[bytes] | None = self._moved(stack.enter_context(closing(content())), deadline)
            else:
                body = content
            request = http.build_request(content=body, **arguments)
            response = http.send(request, stream=True)
            stack.callback(response.close)
            if receive is not None and response.is_success:
                receive(response, self._moved(response.iter_bytes(), deadline))
            else:
                response.read()
            return response

    def _moved(self, pieces: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
        moved = 0
        for piece in pieces:
            self._refuse_if_stopped()
            moved += len(piece)
            if moved >= _PUT_OFF_BYTES:
                moved = 0
                deadline.put_off()
            yield piece

    def stop(self) -> None:
        """Make calls in other threads end at their next step instead of trying on."""
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        with self._opening:
            if self._http is not None:
                self._http.close()
            elif self.injected is not None:
                self.injected.close()

    def _refuse_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise ServiceUnavailableError("the client is closed")

    def _timeout_until(self, deadline: Deadline) -> httpx.Timeout:
        return httpx.Timeout(Within(self.timeout.read, deadline), connect=Within(self.timeout.connect, deadline))

    def _backoff(self, attempt: int) -> float:
        longest = min(self.retries.max_wait, self.retries.first_wait * 2.0 ** (attempt - 1))
        return longest * self._rng.uniform(0.5, 1.0)

    def _lost(
        self, method: str, path: str, cause: httpx.TransportError, deadline: Deadline, tries: int
    ) -> ServiceError:
        what = f"{method} {self.url}{path}"
        if isinstance(cause, httpx.TimeoutException) and deadline.left() <= 0:
            total = f"{self.timeout.total:g} s, the most that a call may take (Timeout.total)"
            return ServiceTimeoutError(f"{what}: not done within {total}", tries=tries)
        if isinstance(cause, httpx.ConnectTimeout):
            return ServiceTimeoutError(f"{what}: no connection within {self.timeout.connect:g} s", tries=tries)
        if isinstance(cause, httpx.TimeoutException):
            return ServiceTimeoutError(f"{what}: no answer within {self.timeout.read:g} s", tries=tries)
        return ServiceUnavailableError(f"{what}: {str(cause) or type(cause).__name__}", tries=tries)


def service_url(url: str) -> httpx.URL:
    """The address of a service; ``host:port`` stands for ``http://host:port``.

    Raises:
        ValueError: it is none.
    """
    problem = f"the service's address must be http(s)://host[:port], got {url!r}"
    if not isinstance(url, str):
        raise ValueError(problem)
    try:
        parsed = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{problem}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(problem)
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError(f"{problem}: ports lie in 1..65535")
    return parsed


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _start_anew() -> None:
    for transport in list(_transports):
        transport.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
