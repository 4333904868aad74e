"""Draws that move no bytes through the service: who asks over a Unix socket gets the files and the places in them.

What is said is in ``memory_format.lending``. A draw is admitted, drawn, counted and logged as over HTTP. While a client
reads, a lease keeps the files: it ends when the client says that it has closed them, goes, or does neither for
``lease_seconds``. A change that needs the room waits for it a moment, and then ends it. So what clients hold is held in
the service's books, and for no longer than a read takes.
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool

from memory_format import ExemplarMemoryError, FormatError, lending, text
from memory_format.api.requests import SampleBody
from memory_service.http.access import Access, Connection
from memory_service.http.admission import Admission
from memory_service.http.convert import draw_of
from memory_service.http.telemetry import log_access
from memory_service.settings import Settings
from memory_service.store import Buffer, Store
from memory_service.store.lent import LentBatch, NotLentError
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.readers import Lease

logger = logging.getLogger(__name__)

_KEY_BYTES = 256


@dataclass(frozen=True)
class Draw:
    """A batch that was asked for."""

    buffer: Buffer
    wanted: SampleRequest


def may_read_everything(user: int | None) -> bool:
    """Whether a user may be handed whole files, with what lies in them beside the batch that he asked for.

    The one place where that is decided. A socket says who connects, and the service hands its files to its own user
    alone, who could open them anyway. Which buffers it is to draw from, its key says: see :class:`Access`.
    """
    return user == os.getuid()


class LocalDraws:
    """Draws over Unix sockets, of all connections."""

    def __init__(self, store: Store, admission: Admission, access: Access, settings: Settings) -> None:
        self.instance = secrets.token_hex(16)
        """Names this run of the service: the same is told over HTTP, so that a client knows whose socket it found."""
        self.lease_seconds = settings.lease_seconds
        self.head_seconds = settings.head_seconds
        self.most_bytes = settings.max_json_bytes
        self._store = store
        self._admission = admission
        self._access = access
        self._access_log = settings.access_log

    def asked(self, content: bytes, key: str | None, connection: Connection) -> Draw:
        """What a request's JSON asks for.

        Args:
            key: that the client has sent.
            connection: that it came by.

        Raises:
            ExemplarMemoryError, ValueError: it is to be asked over HTTP, which says why.
        """
        wanted = text.read_json(content)
        name = wanted.pop("buffer", None) if isinstance(wanted, dict) else None
        if not isinstance(name, str):
            raise FormatError("a draw is an object that names its buffer", code="invalid_request")
        self._access.check(key, "read", name, connection)
        return Draw(self._store.buffer(name), draw_of(SampleBody.model_validate(wanted)))

    def draw_now(self, draw: Draw) -> LentBatch | None:
        """Draw at once; None where that has to wait: for others, for the disk, or for a long draw."""
        if self._admission.is_idle:
            with suppress(BlockingIOError):
                return self._lend_now(draw)
        return None

    def _lend_now(self, draw: Draw) -> LentBatch:
        return draw.buffer.lend(draw.wanted, wait=False, expected=self._admission.expected)

    async def draw(self, draw: Draw) -> LentBatch:
        """Draw when it is this one's turn."""
        try:
            async with self._admission.turn():
                return self._lend_now(draw)
        except BlockingIOError:
            return await run_in_threadpool(draw.buffer.lend, draw.wanted)

    def answered(self, draw: Draw, lent: LentBatch, seconds: float, num_bytes: int) -> None:
        """Write a line to the log of accesses, and get ready what is likely to be asked for next."""
        if self._access_log:
            log_access("local", "DRAW", f"/v1/buffers/{lent.buffer}/sample", 200, seconds, num_bytes)
        self._admission.lay_ahead(draw.buffer, draw.wanted)


class Cut(Connection, Protocol):
    """A connection that can be ended at once."""

    def cut(self) -> None:
        """End it, whatever is under way."""


class LocalConnection:
    """One client's draws, one after another.

    Args:
        transport: of the connection.
        connection: the connection.
        idle: called with whether it waits for a request that has not begun.
    """

    def __init__(
        self,
        draws: LocalDraws,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        connection: Cut,
        idle: Callable[[bool], object],
    ) -> None:
        self._draws = draws
        self._transport = transport
        self._loop = loop
        self._connection = connection
        self._cut = connection.cut
        self._idle = idle
        # The event loop's own writes hand no descriptors over. It stays the transport's to close.
        number = transport.get_extra_info("socket").fileno()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=number)
        self._received = bytearray()
        self._key: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._asked = 0.0
        """When the draw under way was asked for."""
        self._since: float | None = None
        """When the client began to be waited for: for the rest of a request, or to have read."""
        self._is_over = not may_read_everything(lending.peer_uid(self._socket))
        if self._is_over:
            self._since = loop.time()
            self._send(lending.encode_message(lending.HTTP, b"files are handed to the service's own user only"))
        else:
            self._send(lending.encode_message(lending.HELO, draws.instance.encode()))

    def received(self, data: bytes) -> None:
        """Take what the client has sent."""
        if self._is_over:
            self._cut()
            return
        self._received += data
        if self._task is None:
            self._next()
        elif len(self._received) > self._draws.most_bytes:
            self._cut()

    def lost(self) -> None:
        """The connection is over."""
        self._is_over = True
        self._socket.detach()
        self._give_back()

    def is_stalled(self, now: float) -> bool:
        """Whether the client has been waited for long enough."""
        if self._since is None:
            return False
        return now - self._since > (self._draws.head_seconds if self._lease is None else self._draws.lease_seconds)

    def _next(self) -> None:
        """Do what has been asked for, as far as it is there."""
        if self._is_over:
            return
        while self._task is None and len(self._received) >= lending.REQUEST.size:
            kind, length = lending.REQUEST.unpack_from(self._received)
            content_at = lending.REQUEST.size
            most = {lending.DRAW: self._draws.most_bytes, lending.AUTH: _KEY_BYTES, lending.DONE: 0}.get(kind, -1)
            if length > most:
                logger.info("cut a local connection, which said what is no draw")
                self._cut()
                return
            if len(self._received) < content_at + length:
                break
            content = bytes(self._received[content_at : content_at + length])
            del self._received[: content_at + length]
            self._give_back()
            if kind == lending.DRAW:
                self._begin(content)
            elif kind == lending.AUTH:
                self._key = content.decode("latin-1")
        waits = self._task is None
        self._since = self._loop.time() if waits and (self._received or self._lease is not None) else None
        self._idle(waits and self._since is None)

    def _begin(self, content: bytes) -> None:
        self._asked = self._loop.time()
        with self._refusing():
            draw = self._draws.asked(content, self._key, self._connection)
            # Whoever has the loop to himself needs no task for it: that takes as long as half of the draw.
            lent = self._draws.draw_now(draw)
            if lent is None:
                self._task = self._loop.create_task(self._draw(draw))
            else:
                self._lend(draw, lent)

    async def _draw(self, draw: Draw) -> None:
        try:
            with self._refusing():
                self._lend(draw, await self._draws.draw(draw))
        finally:
            self._task = None
        self._next()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """What is wrong with a draw is said over HTTP, where it is asked again."""
        try:
            yield
        except (ExemplarMemoryError, NotLentError, ValueError) as error:
            self._send(lending.encode_message(lending.HTTP, str(error)[:500].encode(errors="replace")))
        except Exception:
            logger.exception("a local draw failed")
            self._send(lending.encode_message(lending.HTTP, b"the service failed unexpectedly; its log says why"))

    def _lend(self, draw: Draw, lent: LentBatch) -> None:
        self._lease = lent.lease
        self._lease.on_end = self._end
        answer = lending.encode_rows(lent.rows)
        if lent.lease.ended or not self._send(answer, lent.descriptors):
            self._give_back()
        self._draws.answered(draw, lent, self._loop.time() - self._asked, len(answer))

    def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.on_end = None
            lease.close()

    def _end(self) -> None:
        """A change needs the room; called by its thread."""
        # Of a server that has stopped meanwhile there is nothing to cut.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cut)

    def _send(self, answer: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send an answer; returns whether all of its descriptors went with it."""
        if self._transport.is_closing():
            return False
        groups = [descriptors[at : at + lending.AT_A_TIME] for at in range(0, len(descriptors), lending.AT_A_TIME)]
        rest = memoryview(answer)
        for number, group in enumerate(groups or [()]):
            # A byte at least goes with each message.
            part = rest[:1] if number < len(groups) - 1 else rest
            rights: list[tuple[int, int, Any]] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", group))]
            try:
                sent = self._socket.sendmsg([part], rights if group else [])
            except OSError as error:
                if number == 0 and descriptors and not isinstance(error, BlockingIOError | ConnectionError):
                    # The system has too many on their way already.
                    logger.info("cannot hand descriptors over: %s", error)
                    self._send(lending.encode_message(lending.HTTP, b"descriptors cannot be handed over now"))
                else:
                    self._cut()
                return False
            rest = rest[sent:]
        if rest:
            self._transport.write(rest)
        return True


def open_listener(path: os.PathLike[str] | str) -> socket.socket:
    """A Unix socket for its own user alone, where there is none that somebody listens on.

    Raises:
        OSError: somebody listens, something else is there, or it cannot be made; the message says what.
    """
    where = os.fspath(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_forsaken(where)
        # Before anybody can connect.
        before = os.umask(0o177)
        try:
            listener.bind(where)
        finally:
            os.umask(before)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {where}: {error.strerror or error}") from error
    return listener


def remove_socket(path: os.PathLike[str] | str, inode: int) -> None:
    """Remove a socket's name, if it is still this one."""
    with suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _remove_forsaken(where: str) -> None:
    """Remove what a service that was killed has left.

    Raises:
        OSError: somebody listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(where).st_mode):
            raise OSError(errno.EEXIST, "something else than a socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(where)
        except ConnectionRefusedError:
            os.unlink(where)
            return
    raise OSError(errno.EADDRINUSE, "somebody listens there")
