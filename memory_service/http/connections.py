"""Bounds on connections, below HTTP: so that no client holds one, or the memory and descriptors behind it, for nothing.

What a connection may be in, and for how long:

    nothing sent yet, or a head begun       ``head_seconds``, ``head_bytes``, ``head_fields``
    a body that the application reads       see ``memory_service.http.body``
    a body that nobody reads any more       a least rate, and ``max_body_bytes``
    an answer on its way                    a least rate over ``write_seconds``
    between two requests                    ``keep_alive_seconds`` (uvicorn's own), and the first to go at the ceiling
    draws on the same machine               see ``memory_service.http.local``; between them, until its room is needed

A request whose head is there at once, and an answer that is taken at once, cost no timer: one look over all
connections, twice a second, finds the others.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import socket
import sys
import termios
from contextlib import suppress
from typing import Any, ClassVar, Final

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from memory_format.lending import PREFACE
from memory_service.http.access import CONNECTION, Places, Shown
from memory_service.http.errors import problem_response
from memory_service.http.local import LocalConnection, LocalDraws
from memory_service.http.streaming import UNSENT
from memory_service.http.telemetry import GONE
from memory_service.settings import Settings

logger = logging.getLogger(__name__)

_RESERVED_DESCRIPTORS: Final = 256
"""Left for the index, segments that are written, imports and what is refused."""
_FEWEST_CONNECTIONS: Final = 8
_MAX_REFUSED: Final = 64
"""Connections over the ceiling that get an answer; the others are cut."""
_BODY_FIELDS: Final = (b"content-length", b"transfer-encoding")
_REFUSED_SECONDS: Final = 2.0
_REFUSED_BYTES: Final = 4 * 1024 * 1024
"""What is still read of who was refused: closed before that, a connection may lose its answer."""


def connections_that_fit(wanted: int, open_segments: int) -> int:
    """How many connections the descriptors of this process are enough for, at most ``wanted``; raises its soft limit.
    Raises ``OSError``: hardly any."""
    others = open_segments + _RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        soft = wanted + others if hard == resource.RLIM_INFINITY else min(wanted + others, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - others)
    if fit < min(wanted, _FEWEST_CONNECTIONS):
        raise OSError(
            f"the limit of {soft} open files is too low: {others} are needed beside connections; raise it "
            "(ulimit -n), or lower MEMORY_SERVICE_OPEN_SEGMENTS"
        )
    if fit < wanted:
        logger.warning("room for %d connections, not %d: the limit of open files is %d", fit, wanted, soft)
    return fit


class Connections:
    """All connections of a server.

    Args:
        limits: bounds on one of them.
        most: how many there are at once: see :func:`connections_that_fit`.
    """

    def __init__(self, limits: Settings, most: int) -> None:
        self.limits = limits
        self.most = most
        self.open: set[_Connection] = set()
        self.idle: dict[_Connection, None] = {}
        """Those that wait for a request, the longest waiting first."""
        self.refused: set[_Connection] = set()
        self.places: Places | None = None
        """Which keys they are of."""
        self.draws: LocalDraws | None = None
        """What answers to clients of this machine that read by themselves."""
        self.protocol: type[_Connection] = type("_Connection", (_Connection,), {"all": self})
        """What uvicorn makes a connection of."""

    def check(self, now: float) -> None:
        """End those that have been waited for long enough."""
        for connection in list(self.open):
            connection.check(now)

    def cut_all(self) -> None:
        """End all of them, whatever is under way."""
        for connection in list(self.open):
            connection.cut()

    def make_room(self) -> bool:
        """Close the connection that has been idle for the longest; returns whether there was one."""
        for connection in self.idle:
            connection.cut()
            return True
        return False


class _Connection(HttpToolsProtocol):
    all: ClassVar[Connections]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = self.all.limits
        self._unparsed = 0
        """Bytes fed to the parser since it last gave out a head or a part of a body."""
        self._in_head = False
        self._in_body = False
        self._waiting_since: float | None = None
        """When waiting for the head began that is not there."""
        self._refusal: JSONResponse | None = None
        self._unread_since: float | None = None
        """When the answer was there to a request whose body was not."""
        self._unread_bytes = 0
        self._mark: tuple[float, int] | None = None
        """A time, and the bytes of answers that were to be sent then."""
        self.shown: Shown | None = None
        self._is_new = True
        self._local: LocalConnection | None = None
        """Where it is no HTTP that is spoken on it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.all.open.add(self)
        self._waiting_since = self.loop.time()
        if len(self.connections) > self.all.most and not self.all.make_room():
            if len(self.all.refused) >= _MAX_REFUSED:
                self.cut()
                return
            detail = f"{self.all.most} connections are in use; come again a little later"
            self._refuse(problem_response("too_busy", detail, details={"limit": self.all.most}))
            return
        self.all.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self.all.open.discard(self)
        self.all.refused.discard(self)
        if self.all.places is not None:
            self.all.places.leave(self)
        if self._local is not None:
            self._local.lost()
        super().connection_lost(exc)

    def cut(self) -> None:
        """End it at once, whatever is under way."""
        self._forget()
        self.transport.abort()

    def give_way(self) -> bool:
        """Close it if it waits for a request that has not begun; returns whether it did."""
        if self not in self.all.idle:
            return False
        self.cut()
        return True

    def _forget(self) -> None:
        self.connections.discard(self)
        self.all.idle.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.all.idle.pop(self, None)
        if self._is_new:
            self._is_new = False
            if data.startswith(PREFACE) and self._is_unix() and self.all.draws is not None:
                self._waiting_since = None
                self._local = LocalConnection(self.all.draws, self.transport, self.loop, self, self._note_idle)
                data = data[len(PREFACE) :]
        if self._local is not None:
            self._local.received(data)
            return
        if self._unread_since is not None:
            self._unread_bytes += len(data)
            if self in self.all.refused:
                return
        most = self._limits.head_bytes
        if len(data) <= most - self._unparsed:
            self._feed(data)
            return
        rest = memoryview(data)
        while rest and self in self.all.open and self not in self.all.refused:
            piece = rest[: most + 1 - self._unparsed]
            rest = rest[len(piece) :]
            self._feed(piece)

    def _is_unix(self) -> bool:
        return bool(self.transport.get_extra_info("socket").family == socket.AF_UNIX)

    def _note_idle(self, is_idle: bool) -> None:
        """Of a local connection, which is closed only for its room."""
        if is_idle and self in self.connections:
            self.all.idle[self] = None
        else:
            self.all.idle.pop(self, None)

    def _feed(self, data: bytes | memoryview) -> None:
        self._unparsed += len(data)
        super().data_received(data)  # type: ignore[arg-type]
        if self._unparsed > self._limits.head_bytes:
            self._refuse(self._too_large(f"{self._limits.head_bytes} bytes"))
        else:
            self._note_waiting()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= self._limits.head_fields:
            self._refusal = self._too_large(f"{self._limits.head_fields} fields")
            raise ValueError("too many fields")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._waiting_since = None
        self._unparsed = 0
        if self.parser.should_upgrade() and any(name in _BODY_FIELDS and value != b"0" for name, value in self.headers):
            # httptools 0.9.0 gives no body to who asks for another protocol (findings/httptools_upgrade_body.sh).
            detail = "HTTP/1.1 alone is spoken here: send no Upgrade with a body (Java: HttpClient.Version.HTTP_1_1)"
            self._refusal = problem_response("invalid_request", detail, status=400)
            raise ValueError("a body with an upgrade")
        super().on_headers_complete()
        # Not a dictionary, as those that ASGI knows are; nobody else looks at it.
        self.scope["extensions"] = {UNSENT: self._unsent, GONE: self.transport.is_closing, CONNECTION: self}  # type: ignore[dict-item]

    def _unsent(self) -> int:
        """Bytes of answers that the client has not taken, those that the system holds included, where it says so."""
        socket_ = self.transport.get_extra_info("socket")
        queued = 0
        with suppress(OSError, ValueError):
            queued = int.from_bytes(fcntl.ioctl(socket_.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.transport.get_write_buffer_size() + queued

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._unread_since = None
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            self._unread_since, self._unread_bytes = self.loop.time(), 0
        else:
            self._note_waiting()

    def _note_waiting(self) -> None:
        """Where it is the client's turn now, note since when."""
        if self._in_body or self._is_answering() or self.transport.is_closing() or self in self.all.refused:
            return
        if self._unparsed:
            self._waiting_since = self._waiting_since or self.loop.time()
            return
        self.all.idle[self] = None
        if self.timeout_keep_alive_task is None:
            # The rest of a request that had its answer already is there.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def resume_writing(self) -> None:
        self._mark = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        refusal = self._refusal or problem_response("invalid_request", "this is no HTTP/1.1 request", status=400)
        self._refuse(refusal)

    def _too_large(self, most: str) -> JSONResponse:
        return problem_response("invalid_request", f"a request's head has at most {most}", status=431)

    def _refuse(self, response: JSONResponse) -> None:
        """Answer in place of the application, and read nothing more."""
        if self in self.all.refused or self.transport.is_closing():
            return
        if self._is_answering():
            # In the middle of another answer.
            self.cut()
            return
        self._forget()
        self.all.refused.add(self)
        self._waiting_since, self._unread_since, self._unread_bytes = None, self.loop.time(), 0
        self._unset_keepalive_if_required()
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"".join([STATUS_LINE[response.status_code], lines, b"\r\n", bytes(response.body)]))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def check(self, now: float) -> None:
        """End it where it has been waited for long enough."""
        if self._is_stalled(now):
            logger.info("cut the connection of %s, which did not take its answer or send its request", self.client)
            self.cut()
        elif self._waiting_since is not None and now - self._waiting_since > self._limits.head_seconds:
            if self._in_head:
                detail = f"the request's head was not there after {self._limits.head_seconds:g} s"
                self._refuse(problem_response("invalid_request", detail, status=408))
            else:
                self.cut()

    def _is_stalled(self, now: float) -> bool:
        limits = self._limits
        if self._local is not None and self._local.is_stalled(now):
            return True
        if self._unread_since is not None:
            refused = self in self.all.refused
            seconds = _REFUSED_SECONDS if refused else limits.body_seconds + self._unread_bytes / limits.least_rate
            most = _REFUSED_BYTES if refused else limits.max_body_bytes
            if now - self._unread_since > seconds or self._unread_bytes > most:
                return True
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            self._mark = None
        elif self._mark is None:
            self._mark = now, unsent
        elif now - self._mark[0] > limits.write_seconds:
            if self._mark[1] - unsent < limits.least_rate * limits.write_seconds:
                return True
            self._mark = now, unsent
        return False
