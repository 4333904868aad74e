"""Keys of a store: who may do what over HTTP.

    em_1f0c93ab_<43 characters>      an id, which is no secret, and 256 random bits, which are shown once

They lie in a file of their own beside the index, ``keys.json``, for two reasons. A backup does not take them along: a
store that is put back lets nobody in whose key was revoked since. And whoever makes or revokes a key waits for nobody
who holds the index: a running service looks at the file before each request.

Of the secret the SHA-256 is kept: it has too many bits to be guessed, so that a slow hash would gain nothing.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from memory_format import FormatError, NotFoundError, StorageError
from memory_format.api.terms import API_KEY_PATTERN, BUFFERS_PATTERN, MAX_NOTE, ROLES, Role
from memory_format.header import LEARNER_ID_PATTERN
from memory_service.store.pure.model import LEARNER_MAKER
from memory_service.store.segments import files

logger = logging.getLogger(__name__)

KEYS: Final = "keys.json"
DAY: Final = 86_400.0
"""Seconds."""
PREFIX: Final = "em_"
"""Of a key, and of its id where people see that."""
EVERYTHING: Final = "*"
"""The pattern of a key for all buffers."""

_NO_DIGEST: Final = bytes(32)
_NONE_READ: Final = (0, 0, 0)


@dataclass(frozen=True)
class Key:
    """What is known of a key; never the key itself."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of its secret."""
    role: Role
    buffers: tuple[str, ...]
    """Patterns, as a shell has them, of the names that it is for."""
    created_at: float
    """Times are seconds since 1970."""
    learner_id: str | None = None
    """The only learner whose records it may push or change."""
    expires_at: float | None = None
    revoked_at: float | None = None
    note: str = ""
    trusted: bool = False
    """What it pushes is not decoded: see ``decode_payloads`` of :class:`~memory_service.store.pure.model.Options`."""

    def is_good(self, now: float) -> bool:
        """Whether it lets anybody in."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def may(self, role: Role) -> bool:
        """Whether its role is that one or a greater."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def reaches(self, buffer: str) -> bool:
        """Whether it is for the buffer of that name, which need not be there."""
        return _matcher(self.buffers).match(buffer) is not None

    @property
    def maker(self) -> str:
        """Whose the buffers are that it makes: its learner's, whose next key has them too, or its own."""
        return f"key:{self.id}" if self.learner_id is None else f"{LEARNER_MAKER}{self.learner_id}"

    @property
    def reaches_all(self) -> bool:
        return EVERYTHING in self.buffers


@dataclass(frozen=True)
class _File:
    format: Literal[1]
    keys: tuple[Key, ...]


_FILE: Final = TypeAdapter(_File)


@lru_cache(maxsize=1024)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


def find(keys: Mapping[str, Key], given: str) -> Key | None:
    """The key that somebody has sent, good or not; None where it is none of them.

    It takes as long for an id that there is as for one that there is not.
    """
    parts = API_KEY_PATTERN.fullmatch(given)
    if parts is None:
        return None
    key = keys.get(parts[1])
    wanted = _NO_DIGEST if key is None else bytes.fromhex(key.sha256)
    is_right = hmac.compare_digest(hashlib.sha256(parts[2].encode("ascii")).digest(), wanted)
    return key if is_right else None


class KeyFile:
    """The keys of the store in a directory, as they are on disk at the moment. Threads may share it.

    A file that was there and is not any more lets nobody in, as one that cannot be read does.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / KEYS
        self._lock = threading.Lock()
        self._held: tuple[tuple[int, int, int] | None, Mapping[str, Key] | None] = (None, None)
        """Which file was read, by its inode, time and size, and what was in it. Replaced as one: who finds that file
        unchanged has its keys, also while another thread reads a new one."""

    def current(self) -> Mapping[str, Key] | None:
        """The keys by id; None where none was ever made, and so none is asked for.

        Raises:
            StorageError: the file cannot be read.
        """
        held_of, keys = self._held
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            if self._held[0] is not None:
                self._held = _NONE_READ, {}
            return self._held[1]
        except OSError as error:
            raise files.storage_error(f"read {self._path}", error) from error
        seen = found.st_ino, found.st_mtime_ns, found.st_size
        if seen != held_of:
            with self._lock:
                # Whatever comes of reading it: from now on keys are asked for.
                self._held = _NONE_READ, {}
                self._held = seen, (keys := self._read())
        return keys

    def any_good(self, now: float) -> bool:
        """Whether there is a key that lets somebody in. Raises as :meth:`current`."""
        return any(key.is_good(now) for key in (self.current() or {}).values())

    def make(
        self,
        role: Role,
        now: float,
        *,
        buffers: Sequence[str] = (EVERYTHING,),
        learner_id: str | None = None,
        expires_at: float | None = None,
        note: str = "",
        trusted: bool = False,
    ) -> tuple[Key, str]:
        """A new key beside those there are; returns what is known of it, and the key, which nobody can read again.

        Raises:
            FormatError: a pattern, learner, time or note will not do, or a key that may not push is to be trusted.
            StorageError: the file cannot be read or written.
        """
        _check(buffers, learner_id, expires_at, now, note)
        if trusted and role == "read":
            raise FormatError("a key that may only read pushes nothing that could be trusted", code="invalid_request")
        with self._changing() as keys:
            id_ = next(id_ for id_ in iter(lambda: secrets.token_hex(4), "") if id_ not in keys)
            secret = secrets.token_urlsafe(32)
            sha256 = hashlib.sha256(secret.encode("ascii")).hexdigest()
            keys[id_] = Key(id_, sha256, role, tuple(buffers), now, learner_id, expires_at, None, note, trusted)
        return keys[id_], f"{PREFIX}{id_}_{secret}"

    def revoke(self, id_: str, now: float) -> Key:
        """Let a key in no more, from the next request on. It stays in the list.

        Raises:
            NotFoundError: ``unknown_key``: there is none of that id.
            StorageError: as :meth:`make`.
        """
        with self._changing() as keys:
            if id_ not in keys:
                raise NotFoundError(
                    f"there is no key {id_[:80]!r}; `memory-service keys list` has them", code="unknown_key"
                )
            if keys[id_].revoked_at is None:
                keys[id_] = replace(keys[id_], revoked_at=now)
        return keys[id_]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """Keys to be changed: one process at a time, all of it or nothing."""
        try:
            files.make_directory(self._path.parent)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
                keys = dict(self._read()) if self._path.exists() else {}
                yield keys
                content = _FILE.dump_json(_File(1, tuple(keys.values())), indent=1)
                with files.replacing(self._path) as descriptor:
                    files.write_at(descriptor, [content], 0)
            finally:
                os.close(directory)
        except OSError as error:
            raise files.storage_error(f"write {self._path}", error) from error

    def _read(self) -> Mapping[str, Key]:
        try:
            found = _FILE.validate_json(self._path.read_bytes())
        except OSError as error:
            raise files.storage_error(f"read {self._path}", error) from error
        except ValidationError:
            # Its words would show what lies in the file.
            raise StorageError(
                f"{self._path} is damaged, or a newer version made it; until it is put back or removed nobody is let in"
            ) from None
        return {key.id: key for key in found.keys}


def _check(buffers: Iterable[str], learner_id: str | None, expires_at: float | None, now: float, note: str) -> None:
    buffers = list(buffers)
    for pattern in buffers:
        if not BUFFERS_PATTERN.fullmatch(pattern):
            raise FormatError(
                f"{pattern[:80]!r} is no pattern of names: it has a-z 0-9 . _ - * ? [ ] !", code="invalid_request"
            )
    if not buffers:
        raise FormatError("a key is for the buffers of one pattern at least", code="invalid_request")
    if learner_id is not None and not (learner_id and LEARNER_ID_PATTERN.fullmatch(learner_id)):
        raise FormatError(f"{learner_id[:80]!r} is no learner's id", code="invalid_request")
    if expires_at is not None and not now < expires_at < 2**53:
        raise FormatError("a key expires after it was made", code="invalid_request")
    if len(note) > MAX_NOTE or not (note.isprintable()):
        raise FormatError(f"a note has at most {MAX_NOTE} printable characters", code="invalid_request")
