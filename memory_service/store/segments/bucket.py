"""Objects under one prefix of an object store, by obstore: made once, never changed, read by ranges.

Everything raises ``StorageError`` within a bounded time where the object store does not answer, without a word of what
may be secret.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from memory_format import StorageError
from memory_service.store.segments import files

if TYPE_CHECKING:
    from obstore.store import ObjectStore

READ_SECONDS: Final = 5
WRITE_SECONDS: Final = 30
"""Of one request; what fails is tried again for as long at most."""
_CONNECT_SECONDS: Final = 3
_RETRIES: Final = 3
_MOST_DELETED: Final = 1000
"""In one request: S3 takes no more."""
_ADDRESS: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?|file:///[^?#]+|memory://[a-z0-9-]+")

Span = tuple[int, int]
"""Where a range begins and ends."""

_in_memory: dict[str, ObjectStore] = {}
"""What is under ``memory://NAME`` lives as long as the process."""


class Bucket:
    """What lies under a URL.

    Args:
        url: ``s3://BUCKET/PREFIX``, with whatever obstore takes from the environment (``AWS_ACCESS_KEY_ID``,
            ``AWS_ENDPOINT_URL``); ``file:///DIRECTORY`` or, for tests, ``memory://NAME``.
        make: the directory, where there is none.

    Raises:
        StorageError: it is none of these, or obstore is not installed.
    """

    def __init__(self, url: str, *, make: bool = True) -> None:
        if not _ADDRESS.fullmatch(url):
            # Without a word of it: there may be a password in it.
            raise StorageError(
                "segments lie under s3://BUCKET/PREFIX or file:///DIRECTORY, what is given is neither; keys come from "
                "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        self.place = url.rstrip("/")
        self._directory = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
        if self._directory is not None and make:
            files.make_directory(self._directory)
        with self._errors("be used"):
            self._to_read = _connect(self.place, READ_SECONDS)
            self._to_write = _connect(self.place, WRITE_SECONDS)

    def create(self, key: str, pieces: Iterable[bytes | bytearray | memoryview]) -> bool:
        """Make an object, durably; returns whether there was none of that name."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._errors("write"):
            try:
                # Bytes of its own: obstore 0.12.1 would keep hold of a buffer that may change
                # (findings/obstore_writer_keeps_buffer.sh).
                obstore.put(self._to_write, key, b"".join(pieces), mode="create")
            except AlreadyExistsError:
                return False
            self._sync(key)
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Make an object, or give it another content."""
        import obstore

        with self._errors("write"):
            obstore.put(self._to_write, key, data, use_multipart=False)
            self._sync(key)

    def read(self, key: str) -> bytes | None:
        """A whole object; None where there is none."""
        import obstore

        with self._errors("read"):
            try:
                return bytes(obstore.get(self._to_read, key).bytes())
            except FileNotFoundError:
                return None

    def read_end(self, key: str, num_bytes: int) -> tuple[bytes, int] | None:
        """The end of an object and the bytes that all of it has; None where there is none."""
        import obstore

        with self._errors("read"):
            try:
                found = obstore.get(self._to_read, key, options={"range": {"suffix": num_bytes}})
                return bytes(found.bytes()), found.meta["size"]
            except FileNotFoundError:
                return None

    def read_spans(self, key: str, spans: Sequence[Span]) -> list[memoryview] | None:
        """Ranges of an object, a request each, ten at a time; None where there is no object."""
        import obstore

        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        with self._errors("read"):
            try:
                found = obstore.get_ranges(self._to_read, key, starts=starts, ends=ends, coalesce=0)
            except FileNotFoundError:
                return None
        return [memoryview(data) for data in found]

    def listed(self, prefix: str, *, most: int | None = None) -> dict[str, float]:
        """Names of objects -> when each was put, seconds since 1970; of so many at most. For who looks, as nothing is
        told by it that counts: it may lack what was put just now."""
        import obstore

        with self._errors("list"):
            pages = islice(chain.from_iterable(obstore.list(self._to_read, prefix)), most)
            return {found["path"]: found["last_modified"].timestamp() for found in pages}

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are none to remove."""
        import obstore

        gone = list(keys)
        with self._errors("delete in"):
            for first in range(0, len(gone), _MOST_DELETED):
                if self._directory is None:
                    obstore.delete(self._to_write, gone[first : first + _MOST_DELETED])
                    continue
                for key in gone[first : first + _MOST_DELETED]:
                    (self._directory / key).unlink(missing_ok=True)

    def probe(self) -> None:
        """Raises ``StorageError``: it does not keep what is needed: that a name is taken once, and ranges."""
        key = f"probe-{uuid.uuid4().hex}"
        try:
            self._expect_fit(key)
        except StorageError:
            with suppress(StorageError):
                self.delete([key])
            raise
        self.delete([key])

    def _expect_fit(self, key: str) -> None:
        if not self.create(key, [b"0123"]) or self.create(key, [b"4567"]):
            raise StorageError(
                f"{self.place} does not honour conditional writes (If-None-Match): two writers of one name would "
                "both be told that theirs was stored. Use a store that does"
            )
        try:
            spans = self.read_spans(key, [(1, 3)])
        except StorageError as error:
            raise StorageError(f"{self.place} does not answer ranges with 206: {error.message}") from error
        if spans is None or bytes(spans[0]) != b"12":
            raise StorageError(f"{self.place} gives other bytes than the range that was asked for")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            from obstore.exceptions import BaseError
        except ImportError as error:
            raise StorageError(
                f"segments in an object store need obstore ({error}): pip install 'exemplar-memory[service,objects]'"
            ) from error
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(f"cannot {what} {self.place}: {_in_words(error)}") from error

    def _sync(self, key: str) -> None:
        """LocalStore does not; all others are durable by themselves."""
        if self._directory is None:
            return
        path = self._directory / key
        descriptor = files.open_for_reading(path)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        while path != self._directory:
            path = path.parent
            files.sync_directory(path)


def _connect(url: str, seconds: int) -> ObjectStore:
    from obstore.store import LocalStore, MemoryStore, S3Store

    if url.startswith("memory:"):
        return _in_memory.setdefault(url, MemoryStore())
    if url.startswith("file:"):
        return LocalStore(unquote(urlsplit(url).path))
    endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
    return S3Store.from_url(
        url,
        client_options={
            # Who names an endpoint without TLS means it.
            "allow_http": endpoint.startswith("http:"),
            "timeout": timedelta(seconds=seconds),
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        },
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    )


def forget_memory(url: str) -> None:
    """What lies under ``memory://NAME`` is needed no more."""
    _in_memory.pop(url, None)


_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


def _in_words(error: Exception) -> str:
    """The first line of what obstore says, and of an answer in XML its code alone: the rest may quote a request."""
    said = str(error)
    code: Any = _CODE.search(said)
    first = said.splitlines()[0].partition("<")[0].strip(" :")[:300] if said else type(error).__name__
    return f"{first} ({code[1]})" if code else first
