"""One call to the service: timeouts on everything, retries only where a retry is safe."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx

from client._address import service_addresses
from client._addresses import Address, Addresses
from client._limits import Retries, Timeout
from client._network import Deadline, Within
from client.errors import (
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    error_from_response,
    retry_after_seconds,
)
from memory_format import ExemplarMemoryError

log = logging.getLogger(__name__)

Params = list[tuple[str, str | int | float | bool | None]]

Upload = Callable[[], Generator[bytes, None, None]]
"""A body that is sent piece by piece, from its beginning at each try."""
Receive = Callable[[httpx.Response, Iterator[bytes]], object]
"""Takes an answer piece by piece; called again, from the answer's beginning, where the connection broke."""

_BUSY = 429
_RETRIED_STATUS = (_BUSY, 503)
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
"""Nothing came back, or not all of it. An answer that is late may be on its way."""
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
"""There was no connection that a request could have gone by."""
_PUT_OFF_BYTES = 1024 * 1024


@dataclass(frozen=True)
class _Failed:
    """What became of a request."""

    error: ExemplarMemoryError | ServiceError
    again: bool
    """It may be tried again."""
    elsewhere: bool
    """And at another address."""
    wait: float | None = None
    """Seconds that the service asks to wait."""


class Transport:
    """What sends a request, as often as it takes, and reads the answer. Threads and forked processes may share it.

    Args:
        url: base address of the service, or several (:func:`~client._address.service_addresses`).
        key: that each request shows.
        transport: an ``httpx`` transport in place of the network, for tests and in-process use.
        sleep, clock, rng: what waits, tells the time and draws jitter.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout: Timeout,
        retries: Retries,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.timeout = timeout
        self.retries = retries
        self.key = key
        # Another generator would draw the same waits in every forked process.
        self._rng = rng or random.SystemRandom()
        self.addresses = Addresses(service_addresses(url), injected=transport, key=key, clock=clock, rng=self._rng)
        self.url = ",".join(self.addresses.urls)
        self._sleep = sleep or self.addresses.wait
        self._clock = clock

    def deadline(self) -> Deadline:
        """When a call that begins now must be over."""
        return Deadline(self.timeout.total, self._clock)

    def request(
        self,
        method: str,
        path: str,
        *,
        safe: bool,
        params: Params | None = None,
        content: bytes | Upload | None = None,
        headers: Mapping[str, str] | None = None,
        accept_status: tuple[int, ...] = (),
        receive: Receive | None = None,
    ) -> httpx.Response:
        """Send a request and read its answer.

        Where the service has several addresses, each try goes to one after another until one answers. What an address
        may have done already goes to the next one only if it is safe.

        Args:
            safe: sending it twice does what sending it once does. Only then is it tried again, and only after
                a broken connection, 429 or 503; an answer that is late may still be on its way, so a read
                that times out is not repeated, but at another address. 429 says that nothing was done, so what is not
                safe is tried again after it too.
            accept_status: error statuses that the caller wants to see rather than have raised.
            receive: is given the content of a good answer, which is then not kept.

        Raises:
            ExemplarMemoryError: the service refused, in its own words.
            ServiceUnavailableError, ServiceTimeoutError: it could not be asked.
            ProtocolError: no usable answer, or one of another store than that of the other addresses.
        """
        deadline = self.deadline()
        num_sent = 0
        for attempt in range(1, self.retries.tries + 1):
            failed: list[_Failed] = []
            for address in self.addresses.in_turn():
                if failed and (not failed[-1].elsewhere or deadline.left() <= 0):
                    break
                self.addresses.refuse_if_stopped()
                num_sent += 1
                try:
                    response = self._exchange(
                        address,
                        content,
                        receive,
                        deadline,
                        method=method,
                        url=path,
                        params=params or None,
                        headers=headers,
                        timeout=self._timeout_until(deadline),
                    )
                except httpx.HTTPError as cause:
                    self.addresses.refuse_if_stopped()
                    self.addresses.lost(address)
                    error = self._lost(f"{method} {address.url}{path}", cause, deadline, tries=num_sent)
                    error.__cause__ = cause
                    failed.append(
                        _Failed(error, safe and isinstance(cause, _BROKEN), safe or isinstance(cause, _UNSENT))
                    )
                    continue
                self.addresses.answered(address)
                if response.is_success or response.status_code in accept_status:
                    return response
                failed.append(_refused(response, safe=safe, tries=num_sent))
            wait = self._wait(failed, attempt, deadline)
            if isinstance(failed[-1].error, ServiceError):
                log.warning("%s; trying again in %.1f s", failed[-1].error.message, wait)
            self._sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    def _wait(self, failed: Sequence[_Failed], attempt: int, deadline: Deadline) -> float:
        """Seconds until the next try, after one that failed at all addresses that were asked. Raises the last of the
        errors: there is none."""
        last = failed[-1]
        asked_for = [each.wait for each in failed if each.wait is not None]
        wait = min(asked_for) if asked_for else self._backoff(attempt)
        if attempt == self.retries.tries or not last.again or wait >= deadline.left():
            if len(failed) > 1:
                others = "; ".join(each.error.message for each in failed[:-1])
                last.error.message += f" (and before: {others})"
                last.error.args = (last.error.message,)
            raise last.error
        return wait

    def _exchange(
        self,
        address: Address,
        content: bytes | Upload | None,
        receive: Receive | None,
        deadline: Deadline,
        **arguments: Any,
    ) -> httpx.Response:
        with ExitStack() as stack:
            if callable(content):
                body: bytes | Iterable[bytes] | None = self._moved(stack.enter_context(closing(content())), deadline)
            else:
                body = content
            http = address.connections.http()
            request = http.build_request(content=body, **arguments)
            response = http.send(request, stream=True)
            stack.callback(response.close)
            self.addresses.expect_same_store(address, response)
            if receive is not None and response.is_success:
                receive(response, self._moved(response.iter_bytes(), deadline))
            else:
                response.read()
        # httpx leaves a cycle of references here, which would keep both bodies, megabytes each, until the garbage
        # collector comes by. The answer is read by now.
        response.stream = httpx.ByteStream(b"")
        return response

    def _moved(self, pieces: Iterable[bytes], deadline: Deadline) -> Iterator[bytes]:
        moved = 0
        for piece in pieces:
            self.addresses.refuse_if_stopped()
            moved += len(piece)
            if moved >= _PUT_OFF_BYTES:
                moved = 0
                deadline.put_off()
            yield piece

    def _timeout_until(self, deadline: Deadline) -> httpx.Timeout:
        return httpx.Timeout(Within(self.timeout.read, deadline), connect=Within(self.timeout.connect, deadline))

    def _backoff(self, attempt: int) -> float:
        longest = min(self.retries.max_wait, self.retries.first_wait * 2.0 ** (attempt - 1))
        return longest * self._rng.uniform(0.5, 1.0)

    def _lost(self, what: str, cause: httpx.HTTPError, deadline: Deadline, *, tries: int) -> ServiceError:
        if isinstance(cause, httpx.TimeoutException) and deadline.left() <= 0:
            total = f"{self.timeout.total:g} s, the most that a call may take (Timeout.total)"
            return ServiceTimeoutError(f"{what}: not done within {total}", tries=tries)
        if isinstance(cause, httpx.ConnectTimeout):
            return ServiceTimeoutError(f"{what}: no connection within {self.timeout.connect:g} s", tries=tries)
        if isinstance(cause, httpx.TimeoutException):
            return ServiceTimeoutError(f"{what}: no answer within {self.timeout.read:g} s", tries=tries)
        why = f"{what}: {str(cause) or type(cause).__name__}"
        return ServiceUnavailableError(why, tries=tries) if isinstance(cause, _BROKEN) else ServiceError(why)


def _refused(response: httpx.Response, *, safe: bool, tries: int) -> _Failed:
    error = error_from_response(response)
    if tries > 1:
        error.details["tries"] = tries
    is_passing = response.status_code in _RETRIED_STATUS
    wait = retry_after_seconds(response) if is_passing else None
    if wait is not None:
        error.details.setdefault("retry_after", wait)
    again = response.status_code == _BUSY or (safe and is_passing)
    return _Failed(error, again, again, wait)
