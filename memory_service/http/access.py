"""Who may do what: keys, once the store has any (``memory_service.store.keys``).

What a route asks for is part of its declaration (:func:`needs`): the routes themselves hold to it
(``memory_service.http.routes.common``), and so does the OpenAPI document, which is made of the same.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from memory_format import BusyError, ForbiddenError, UnauthenticatedError
from memory_format.api.terms import API_KEY_PATTERN, Role
from memory_service.http.sessions import Sessions, session_of
from memory_service.store.keys import Key, KeyFile, find

logger = logging.getLogger(__name__)

KEY_ID: Final = "memory_service.key_id"
"""In a request's scope: the id of the key that it came with, for the log."""
GRANT: Final = "memory_service.grant"
"""In a request's scope: what it may do."""
SCHEME: Final = "key"
"""The security scheme's name in the OpenAPI document."""
_NEED: Final = "x-needs"

CONNECTION: Final = "memory_service.connection"
"""ASGI extension: the connection that a request came by (``memory_service.http.connections``)."""

_WRONG_AT_ONCE: Final = 10
_WRONG_PER_SECOND: Final = 1.0
"""Wrong keys of one address that are answered as such."""
_ASKERS: Final = 1024
"""Addresses and keys whose rates are remembered."""

_HOW: Final = (
    "send `Authorization: Bearer em_...`, in Python MemoryClient(url, key=...) or EXEMPLAR_MEMORY_KEY in the "
    "environment; whoever runs the service makes one with `memory-service keys make`"
)


@dataclass(frozen=True)
class Need:
    """What a key must be for. ``role`` None: nobody is asked for one."""

    role: Role | None
    all_buffers: bool = False
    own: bool = False
    """It is enough for a buffer that the key made; other buffers take ``admin`` (:attr:`Grant.only_maker`)."""


def needs(role: Role | None, *, all_buffers: bool = False, own: bool = False) -> dict[str, Any]:
    """For a route's ``openapi_extra``: who may call it.

    Args:
        role: of a key, or a greater one; None = anybody, without a key.
        all_buffers: only a key for all buffers. Otherwise it must be for the one in the path, if there is one.
        own: see :class:`Need`; the route itself holds to it.
    """
    return {_NEED: {"role": role, "all_buffers": all_buffers, "own": own}}


def need_of(extra: Mapping[str, Any] | None) -> Need:
    """What a route's ``openapi_extra`` says. Raises ``TypeError``: nothing."""
    found = (extra or {}).get(_NEED)
    if found is None:
        raise TypeError("a route says who may call it: openapi_extra=needs(...)")
    # FastAPI leaves out what is None.
    return Need(found.get("role"), found["all_buffers"], found["own"])


def take_need(operation: dict[str, Any]) -> Need:
    """The same of an operation of the OpenAPI document, which then holds it no more."""
    need = need_of(operation)
    del operation[_NEED]
    return need


@dataclass(frozen=True)
class Grant:
    """What a request may do. Without a key, where none is asked for: everything."""

    key: Key | None = None

    def sees(self, buffer: str) -> bool:
        """Whether it may know of a buffer."""
        return self.key is None or self.key.reaches(buffer)

    def may(self, role: Role) -> bool:
        """Whether it may do what a role may."""
        return self.key is None or self.key.may(role)

    def check(self, buffer: str) -> None:
        """Raises ``ForbiddenError``: it is not for the buffer of that name, which need not be there."""
        if self.key is not None and not self.key.reaches(buffer):
            patterns = " ".join(self.key.buffers)
            raise ForbiddenError(f"the key em_{self.key.id} is for the buffers {patterns}, and not for {buffer[:80]!r}")

    def sees_all(self, buffers: Collection[str]) -> bool:
        """Whether it may know of what tells of several buffers; what tells of none is for who may know of all."""
        return all(map(self.sees, buffers)) and (bool(buffers) or self.key is None or self.key.reaches_all)

    def sees_run(self, buffers: Collection[str], made_by: str) -> bool:
        """Whether it may know of a run that tells of these: one that tells of none is also its maker's to see."""
        return self.sees_all(buffers) or (not buffers and made_by == self.maker)

    @property
    def key_id(self) -> str | None:
        """Of the key; None without one."""
        return None if self.key is None else self.key.id

    @property
    def learner_id(self) -> str | None:
        """The only learner whose records it may push or change; None = any."""
        return None if self.key is None else self.key.learner_id

    @property
    def maker(self) -> str:
        """Whose the buffers are that it makes."""
        return "" if self.key is None else self.key.maker

    @property
    def only_maker(self) -> str | None:
        """The only one whose buffers it may change and delete; None = any."""
        return None if self.may("admin") else self.maker

    @property
    def is_trusted(self) -> bool:
        """Whether what it pushes is taken without decoding it; without keys the service's setting says so."""
        return self.key is not None and self.key.trusted


class Rates:
    """So many at once for each of those who ask, and then so many a second.

    Args:
        at_once, per_second: how many.
        most: of how many askers it is remembered.
    """

    def __init__(
        self, at_once: float, per_second: float, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._step = 1.0 / per_second
        self._ahead = (at_once - 1) / per_second
        self._most = most
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()
        """When each would have nothing left to pay for."""

    def take(self, who: str) -> float:
        """Take one; returns 0, or after how many seconds there is one again."""
        now = self._clock()
        until = max(now, self._until.get(who, now))
        if until - now > self._ahead:
            return until - now - self._ahead
        self._until[who] = until + self._step
        self._until.move_to_end(who)
        if len(self._until) > self._most:
            self._until.popitem(last=False)
        return 0.0


@dataclass(frozen=True)
class Shown:
    """A good key that came by a connection. It comes with each request, and is looked for once."""

    given: bytes
    keys: Mapping[str, Key]
    """Those that it was looked for in: others once the file has changed."""
    key: Key


class Connection(Protocol):
    """What requests come by."""

    shown: Shown | None
    """The last key that was shown on it."""

    def give_way(self) -> bool:
        """Close it if nothing is under way on it; returns whether it did."""


class Places:
    """Connections of each key: so many at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, dict[Connection, None]] = {}
        self._key_of: dict[Connection, str] = {}

    def take(self, key_id: str, connection: Connection) -> None:
        """Count a connection as the key's that shows on it now. Raises ``BusyError``: it has as many as it may have,
        and all are in use."""
        if self._key_of.get(connection) == key_id:
            return
        self.leave(connection)
        its = self._of.setdefault(key_id, {})
        if len(its) >= self._most:
            idle = next((other for other in its if other.give_way()), None)
            if idle is None:
                raise BusyError(
                    f"{self._most} connections of the key em_{key_id} are in use; come again a little later",
                    code="connections_exceeded",
                    limit=self._most,
                )
            self.leave(idle)
        self._of.setdefault(key_id, {})[connection] = None
        self._key_of[connection] = key_id

    def leave(self, connection: Connection) -> None:
        """It is over, or another key's."""
        key_id = self._key_of.pop(connection, None)
        if key_id is not None:
            its = self._of[key_id]
            del its[connection]
            if not its:
                del self._of[key_id]


class Access:
    """Lets requests in, or not. For use in one event loop.

    Args:
        requests: a second of one key, and as many at once.
        connections: of one key at once.
    """

    def __init__(
        self, keys: KeyFile, requests: float, connections: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.keys = keys
        self.last_used: dict[str, float] = {}
        """Key id -> when it was shown last, in seconds since 1970, by somebody whom it let in."""
        self._clock = clock
        self._wrong = Rates(_WRONG_AT_ONCE, _WRONG_PER_SECOND, _ASKERS)
        self._requests = Rates(requests, requests, _ASKERS)
        self._most_requests = requests
        self.places = Places(connections)
        self.sessions = Sessions()

    def admit(self, scope: Any, need: Need, buffer: str | None) -> Grant:
        """What a request may do, which its scope then says.

        Args:
            scope: of ASGI.
            need: what the route asks for.
            buffer: the name in the path.

        Raises:
            UnauthenticatedError: it brings no key that is good.
            ForbiddenError: its key is not for this.
            BusyError: too many wrong keys came from there, or the key has too many requests or connections.
            StorageError: the keys cannot be read.
        """
        keys = None if need.role is None else self.keys.current()
        if keys is None:
            grant = Grant()
        else:
            connection = _connection(scope)
            key = self._key_of(scope, keys, connection)
            scope[KEY_ID] = key.id
            self._count(key, connection)
            grant = Grant(key)
            _check(grant, key, need, buffer)
        scope[GRANT] = grant
        return grant

    def check(self, given: str | None, role: Role, buffer: str, connection: Connection) -> None:
        """For requests that are not HTTP's. Raises as :meth:`admit`."""
        keys = self.keys.current()
        if keys is not None:
            key = self._key(given, "here", keys, connection)
            self._count(key, connection)
            _check(Grant(key), key, Need(role), buffer)

    def sign_in(self, given: str, scope: Any) -> str | None:
        """Begin a session of a key that was typed in; None where none is asked for. Raises as :meth:`admit`."""
        keys = self.keys.current()
        if keys is None:
            return None
        connection = _connection(scope)
        key = self._key(given, _client(scope), keys, connection)
        self._count(key, connection)
        return self.sessions.begin(key.id, self._clock())

    def _key_of(self, scope: Any, keys: Mapping[str, Key], connection: Connection | None) -> Key:
        """The key that a request shows, or that its session is of."""
        given = _given(scope["headers"])
        session = session_of(scope["headers"]) if given is None else None
        if session is None:
            return self._key(given, _client(scope), keys, connection)
        key = keys.get(self.sessions.find(session, self._clock()) or "")
        if key is None:
            raise UnauthenticatedError(f"the session is over: {_HOW}")
        return self._expect_good(key)

    def _count(self, key: Key, connection: Connection | None) -> None:
        self.last_used[key.id] = self._clock()
        if connection is not None:
            self.places.take(key.id, connection)
        if self._requests.take(key.id):
            raise BusyError(
                f"the key em_{key.id} has asked more than {self._most_requests:g} times a second; come again a little "
                "later",
                code="rate_exceeded",
                limit=self._most_requests,
            )

    def _key(self, given: str | None, client: str, keys: Mapping[str, Key], connection: Connection | None) -> Key:
        """What is known of a key that was sent, from ``client``, of those that there are. Raises as :meth:`admit`."""
        if given is None:
            raise UnauthenticatedError(f"this service asks for a key: {_HOW}")
        sent = given.encode(errors="surrogatepass")
        shown = None if connection is None else connection.shown
        # Clients that share a connection by way of a proxy do not learn each other's key by how long this takes.
        if shown is not None and shown.keys is keys and hmac.compare_digest(shown.given, sent):
            return self._expect_good(shown.key)
        key = find(keys, given)
        if key is None:
            # What has not even the form of one can be no guess.
            if API_KEY_PATTERN.fullmatch(given):
                if self._wrong.take(client):
                    raise BusyError("too many wrong keys came from there; come again a little later")
                logger.warning("a key from %s is none of the store's", client)
            raise UnauthenticatedError(f"the key is none of this service's: {_HOW}")
        if connection is not None:
            connection.shown = Shown(sent, keys, key)
        # Only who has the secret learns more.
        return self._expect_good(key)

    def _expect_good(self, key: Key) -> Key:
        if key.revoked_at is not None:
            raise UnauthenticatedError(f"the key em_{key.id} was revoked: {_HOW}")
        if not key.is_good(self._clock()):
            assert key.expires_at is not None
            end = datetime.fromtimestamp(key.expires_at, UTC)
            raise UnauthenticatedError(f"the key em_{key.id} has expired at {end:%Y-%m-%d %H:%M} UTC: {_HOW}")
        return key


def _check(grant: Grant, key: Key, need: Need, buffer: str | None) -> None:
    assert need.role is not None
    if not key.may(need.role):
        raise ForbiddenError(f"the key em_{key.id} has the role {key.role}, and this takes {need.role}")
    if need.all_buffers and not key.reaches_all:
        raise ForbiddenError(f"the key em_{key.id} is for the buffers {' '.join(key.buffers)}, and this shows all")
    if buffer is not None:
        grant.check(buffer)


def _connection(scope: Any) -> Connection | None:
    """What a request came by, where the server says so."""
    found: Connection | None = scope.get("extensions", {}).get(CONNECTION)
    return found


def _client(scope: Any) -> str:
    """From where a request came."""
    client: str = (scope.get("client") or ("here",))[0]
    return client


def _given(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key of a request. Raises ``UnauthenticatedError``: something else is where it should be."""
    found = [value for name, value in headers if name == b"authorization"]
    if not found:
        return None
    scheme, _, given = found[0].decode("latin-1").partition(" ")
    if len(found) > 1 or scheme.lower() != "bearer":
        raise UnauthenticatedError(f"one Authorization is taken, and it begins with Bearer: {_HOW}")
    return given.strip()
