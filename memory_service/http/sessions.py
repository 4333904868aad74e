"""Who is signed in with a browser: a cookie holds a session, and never the key.

The cookie is ``HttpOnly`` and ``SameSite=Strict``. Sessions are kept in memory: a restart ends them, and so does the
end of their key. What a page of another site sends is refused before (``memory_service.http.guard``).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from starlette.requests import cookie_parser
from starlette.responses import Response

COOKIE: Final = "exemplar_memory_session"
SECONDS: Final = 12 * 3600
"""For which a session lasts."""
_MOST: Final = 1024
"""The oldest go beyond."""


class Sessions:
    """Sessions, each of a key. For use in one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        """A session's SHA-256 -> id of its key, and when it ends."""

    def begin(self, key_id: str, now: float) -> str:
        """A new session of a key: what goes into the cookie."""
        session = secrets.token_urlsafe(32)
        self._known[_digest(session)] = key_id, now + SECONDS
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return session

    def find(self, session: str, now: float) -> str | None:
        """The id of the key of a session; None where it has ended or never was."""
        key_id, end = self._known.get(_digest(session), (None, 0.0))
        return key_id if now < end else None

    def end(self, session: str) -> None:
        """Sign out."""
        self._known.pop(_digest(session), None)


def session_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The session that a request's cookies name."""
    given = "; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie")
    return cookie_parser(given).get(COOKIE) if COOKIE in given else None


def set_cookie(response: Response, session: str, *, secure: bool) -> None:
    """Let a browser send the session from now on."""
    response.set_cookie(COOKIE, session, max_age=SECONDS, httponly=True, samesite="strict", secure=secure)


def clear_cookie(response: Response, *, secure: bool) -> None:
    """Let a browser send it no more."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=secure)


def _digest(session: str) -> bytes:
    # Looked up by what does not tell how much of it was right.
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).digest()
