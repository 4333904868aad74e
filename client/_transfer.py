"""Whole buffers as files: received and sent piece by piece."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from client._address import buffer_path
from client._params import query_string
from client._session import Session
from client.errors import ProtocolError
from client.files import replacing
from memory_format.api.terms import EXPORT_MEDIA_TYPE

_CHUNK_BYTES = 1024 * 1024


def receive(session: Session, buffer: str, target: Path, snapshot: str | None, *, progress: bool) -> Path:
    """See :meth:`Buffer.export`."""
    with replacing(target) as file:
        session.request(
            "GET",
            buffer_path(buffer, "export"),
            params=query_string({"snapshot": snapshot}),
            receive=lambda response, chunks: _save(response, chunks, file, progress=progress),
        )
    return target


def send(session: Session, buffer: str, source: Path, *, progress: bool) -> None:
    """See :meth:`MemoryClient.import_buffer`."""
    session.request(
        "POST",
        buffer_path(buffer, "import"),
        safe=False,
        content=lambda: _pieces(source, progress=progress),
        headers={"Content-Type": EXPORT_MEDIA_TYPE, "Content-Length": str(source.stat().st_size)},
    )


def _save(response: httpx.Response, chunks: Iterator[bytes], file: BinaryIO, *, progress: bool) -> None:
    """Make an answer all that a file holds."""
    length = response.headers.get("Content-Length", "")
    announced = length.isascii() and length.isdigit() and "Content-Encoding" not in response.headers
    total = int(length) if announced else None
    received = 0
    file.seek(0)
    file.truncate()
    with _bar(progress, total) as advance:
        for chunk in chunks:
            file.write(chunk)
            received += len(chunk)
            advance(len(chunk))
    if total is not None and received != total:
        raise ProtocolError(
            f"{response.request.url} announced {total} bytes and sent {received}",
            announced_bytes=total,
            received_bytes=received,
        )
    try:
        # Its directory is at the end and says where it begins: what was cut short or is no ZIP has none there.
        zipfile.ZipFile(file).close()
    except zipfile.BadZipFile as error:
        raise ProtocolError(f"{response.request.url} did not answer with a whole ZIP file: {error}") from None


def _pieces(path: Path, *, progress: bool) -> Generator[bytes, None, None]:
    """A file from its beginning."""
    with path.open("rb") as file, _bar(progress, path.stat().st_size) as advance:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
            advance(len(piece))


@contextmanager
def _bar(progress: bool, total: int | None) -> Iterator[Callable[[int], object]]:
    if not progress:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True) as bar:
        yield bar.update
