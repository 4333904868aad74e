"""Draws on the service's own machine: the client reads the files by itself (``memory_format.lending``).

A service that listens on a Unix socket tells its path to clients of its machine. Where socket and service belong to
this user, draws go over it: they are answered with rows and descriptors instead of bytes. Whatever goes otherwise than
it should is asked over HTTP, which has the answer, or the words for what is wrong.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

from client._forking import start_anew_when_forked
from client._lent import NotReadError, closing_descriptors, read_lent, receive
from client._limits import Timeout
from client._network import Deadline, cut_socket
from client.errors import ServiceTimeoutError
from memory_format import Batch, FormatError, lending
from memory_format.api.answers import LocalSocket

log = logging.getLogger(__name__)

T = TypeVar("T")
Read: TypeAlias = Callable[[lending.LentRows, Sequence[int]], T]
"""Reads what rows name from the descriptors that came with them."""

_IS_POSSIBLE: Final = all(
    hasattr(where, name)
    for where, name in ((os, "getuid"), (os, "preadv"), (socket, "AF_UNIX"), (socket, "CMSG_SPACE"), (select, "poll"))
)
_MOST_IDLE: Final = 8
"""Connections that are kept for the next draws."""
_AGAIN_SECONDS: Final = 60.0
"""After an offer that never was of use, the next is asked for; after a draw before its turn that found no room, another
one is."""
_MOST_ASKED: Final = 4
"""Draws that were asked for before their turn, each with a connection: as many threads may do so."""
_MOST_ASKING_SECONDS: Final = 1.0
"""For so long a batch that is at hand waits for a new connection on which to ask for the next."""
_AT_ONCE: Final = 64 * 1024

_told: set[str] = set()
"""Paths of which it was said that draws do not go over them."""


class _OtherRunError(NotReadError):
    """Who listens is another service, or another run of it."""


class _RefusedError(Exception):
    """The service wants this draw over HTTP; the message says why."""


def read_whole(lent: lending.LentRows, descriptors: Sequence[int]) -> tuple[Batch, int]:
    """A batch, and the version that it is of. Its bodies are those that their CRCs name; nothing else of them was
    looked at."""
    return read_lent(lent, descriptors), lent.version


class LocalWay:
    """The way to a service on this machine. Threads and forked processes may share it: each draw has a connection of
    its own.

    Args:
        timeout: seconds to wait.
        key: that draws show.
    """

    def __init__(self, timeout: Timeout, key: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._key = key
        self._clock = clock
        self.offer: LocalSocket | None = None
        """Where the service listens, as it said over HTTP."""
        self._was_of_use = False
        self._others: set[str] = set()
        """Runs of services in whose place another one was found."""
        self._ask_at: float | None = None
        """When another offer is asked for."""
        self._ahead_at = -math.inf
        """When a draw is asked for before its turn again, where there was no room for one."""
        self._is_closed = self._is_stopped = False
        self._start()
        start_anew_when_forked(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._asked: dict[bytes, _Connection] = {}
        """Those on which a draw was asked for before its turn."""
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def start_anew(self) -> None:
        """In a forked process: leave the parent's connections to it."""
        for connection in list(self._connections):
            connection.close()
        self._start()

    def take_offer(self, offer: LocalSocket | None) -> None:
        """Use what the service says of itself; None: it does not listen on a Unix socket, or not for this client."""
        self.offer = offer if _IS_POSSIBLE else None
        self._was_of_use, self._ask_at = False, None

    @property
    def wants_offer(self) -> bool:
        """Whether to ask the service, over HTTP, for another offer."""
        return self._ask_at is not None and self._clock() >= self._ask_at

    def draw(self, content: bytes, deadline: Deadline, read: Read[T], following: bytes | None = None) -> T | None:
        """Draw a batch.

        Args:
            content: the sample's JSON, with the buffer's name as ``buffer`` in it.
            read: takes what the batch needs from the files.
            following: the ``content`` of the next draw, which is asked for before this one is read. The service keeps
                the files of both until then.

        Returns:
            what ``read`` gave; None where it is to be asked over HTTP.

        Raises:
            ServiceTimeoutError: there was no answer in time.
        """
        offer = self.offer
        if offer is None:
            return None
        try:
            found = self._draw(offer, content, min(self._timeout.read, deadline.left()), read, following)
        except _RefusedError as refused:
            log.debug("a draw goes over HTTP: %s", refused)
            return None
        except TimeoutError:
            what = f"a draw over {offer.path}: no answer within {self._timeout.read:g} s"
            raise ServiceTimeoutError(what) from None
        except (NotReadError, FormatError, OSError, EOFError) as error:
            self._give_up(offer, error)
            return None
        self._was_of_use = True
        return found

    def stop(self) -> None:
        """Make draws in other threads end."""
        with self._lock:
            self._is_stopped, connections = True, list(self._connections)
        for connection in connections:
            connection.cut()

    def close(self) -> None:
        """Close the connections that nobody uses, and keep none from now on."""
        with self._lock:
            idle, self._idle, self._is_closed = [*self._idle, *self._asked.values()], [], True
            self._asked.clear()
        for connection in idle:
            connection.close()

    def _draw(self, offer: LocalSocket, content: bytes, seconds: float, read: Read[T], following: bytes | None) -> T:
        def read_and_ask(lent: lending.LentRows, descriptors: Sequence[int]) -> T:
            if following is not None and self._clock() >= self._ahead_at:
                self._ask(offer, following, seconds)
            return read(lent, descriptors)

        with self._lock:
            asked = self._asked.pop(content, None)
        if asked is not None:
            try:
                return self._finish(asked, seconds, read_and_ask)
            except _RefusedError:
                # A key that may have one connection has none for this while the batch before is read.
                self._ask_in_turn()
            except (OSError, EOFError) as error:
                if isinstance(error, TimeoutError):
                    raise
        while True:
            connection, is_new = self._connection(offer, self._timeout.connect)
            try:
                return self._finish(connection, seconds, read_and_ask, content)
            except (OSError, EOFError) as error:
                # One that was idle may have been closed by the service meanwhile.
                if is_new or isinstance(error, TimeoutError):
                    raise

    def _finish(self, connection: _Connection, seconds: float, read: Read[T], content: bytes | None = None) -> T:
        """The draw that was asked for on a connection, or one that is asked for now; it is kept where it is sound."""
        try:
            if content is not None:
                connection.ask(content, seconds)
            found = connection.draw(seconds, read)
        except _RefusedError:
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return found

    def _ask(self, offer: LocalSocket, content: bytes, seconds: float) -> None:
        """Ask for a draw whose turn comes next. Where that fails, it is asked for when it is its turn."""
        try:
            connection, _ = self._connection(offer, min(self._timeout.connect, _MOST_ASKING_SECONDS))
        except (NotReadError, OSError, EOFError):
            self._ask_in_turn()
            return
        try:
            connection.ask(content, seconds)
        except OSError:
            connection.close()
            return
        with self._lock:
            before = self._asked.pop(content, None)
            self._asked[content] = connection
            if before is None and (self._is_closed or len(self._asked) > _MOST_ASKED):
                before = self._asked.pop(next(iter(self._asked)))
        if before is not None:
            before.close()

    def _ask_in_turn(self) -> None:
        """Ask for no draw before its turn, for a while."""
        self._ahead_at = self._clock() + _AGAIN_SECONDS

    def _connection(self, offer: LocalSocket, seconds: float) -> tuple[_Connection, bool]:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if connection.offer == offer:
                return connection, False
            connection.close()
        connection = _Connection(offer, seconds, self._key)
        with self._lock:
            self._connections.add(connection)
            is_stopped = self._is_stopped
        if is_stopped:
            connection.cut()
        return connection, True

    def _keep(self, connection: _Connection) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _give_up(self, offer: LocalSocket, error: Exception) -> None:
        """Use an offer no more, until the service makes another one."""
        if self.offer == offer:
            self.offer = None
            # A service that has started again makes another offer, which whoever cloned this client did not know.
            is_new = isinstance(error, _OtherRunError) and offer.instance not in self._others
            self._others.add(offer.instance)
            self._ask_at = self._clock() + (0 if self._was_of_use or is_new else _AGAIN_SECONDS)
        level = logging.DEBUG if offer.path in _told else logging.WARNING
        _told.add(offer.path)
        log.log(level, "draws go over HTTP for now, and not over %s: %s", offer.path, error or type(error).__name__)


class _Connection:
    """One draw after another over a Unix socket.

    Raises:
        OSError: nobody listens there.
        NotReadError: who does is not the service that made the offer, or not this user's.
    """

    def __init__(self, offer: LocalSocket, seconds: float, key: str | None) -> None:
        self.offer = offer
        user = os.getuid()
        found = os.stat(offer.path)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != user or stat.S_IMODE(found.st_mode) & 0o077:
            raise NotReadError("it is no socket of this user alone")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(seconds)
            self._socket.connect(offer.path)
            peer = lending.peer_uid(self._socket)
            if peer != user:
                raise NotReadError(f"user {peer} listens there, and this is user {user}")
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            self._socket.sendall(lending.PREFACE)
            with closing_descriptors() as descriptors:
                kind, answer = self._receive(seconds, descriptors)
            said = bytes(answer[lending.ANSWER.size :])
            if kind != lending.HELO or said != offer.instance.encode():
                raise _OtherRunError(f"another service listens there, or another run of it: {said[:100]!r}")
            if key is not None:
                given = key.encode("ascii")
                self._socket.sendall(lending.REQUEST.pack(lending.AUTH, len(given)) + given)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def cut(self) -> None:
        cut_socket(self._socket)

    def ask(self, content: bytes, seconds: float) -> None:
        """Ask for a draw. Raises ``OSError``: the connection broke."""
        self._socket.settimeout(seconds)
        self._socket.sendall(lending.REQUEST.pack(lending.DRAW, len(content)) + content)

    def draw(self, seconds: float, read: Read[T]) -> T:
        """The draw that was asked for; after an error the connection is to be closed.

        Raises:
            _RefusedError: the service wants it over HTTP.
            NotReadError, FormatError: what was answered, or what was read, is not what it should be.
            TimeoutError: there was no answer in time.
            OSError, EOFError: the connection broke.
        """
        with closing_descriptors() as descriptors:
            kind, answer = self._receive(seconds, descriptors)
            if kind == lending.HTTP:
                raise _RefusedError(bytes(answer[lending.ANSWER.size :]).decode(errors="replace"))
            lent = lending.decode_rows(answer)
            if len(descriptors) != lent.num_segments:
                raise NotReadError(f"{lent.num_segments} descriptors were announced, {len(descriptors)} came")
            found = read(lent, descriptors)
        self._socket.sendall(lending.REQUEST.pack(lending.DONE, 0))
        return found

    def _receive(self, seconds: float, descriptors: list[int]) -> tuple[bytes, memoryview]:
        """The kind of an answer, and the whole of it; what it hands over is added to ``descriptors``."""
        received = b""
        total = lending.ANSWER.size
        while len(received) < total:
            if not self._poll.poll(1000 * seconds):
                raise TimeoutError
            piece = receive(self._socket, _AT_ONCE, descriptors)
            if not piece:
                raise EOFError("the service closed the connection")
            received = received + piece if received else piece
            if len(received) >= lending.ANSWER.size:
                total = lending.ANSWER.size + lending.ANSWER.unpack_from(received)[1]
                if total > lending.MOST_ANSWER_BYTES:
                    raise NotReadError(f"an answer of {total} bytes is none")
        if len(received) > total:
            raise NotReadError(f"{len(received) - total} bytes came behind an answer")
        return received[:4], memoryview(received)
