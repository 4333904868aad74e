"""Whole buffers as files: received and sent piece by piece."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from client._address import buffer_path
from client._params import query_string
from client._session import Session
from client.errors import ProtocolError
from client.files import replacing
from memory_format.api.forms import FORMS, FileForm, form_named
from memory_format.tables import Progress, as_imported

_CHUNK_BYTES = 1024 * 1024


def receive(
    session: Session,
    buffer: str,
    target: Path,
    snapshot: str | None,
    form: str | None,
    *,
    png: bool,
    progress: bool,
) -> Path:
    """See :meth:`Buffer.export`."""
    wanted = FORMS[form_named(target, form)]
    with replacing(target) as file:
        session.request(
            "GET",
            buffer_path(buffer, "export"),
            params=query_string({"snapshot": snapshot, "png": png or None}),
            headers={"Accept": wanted.media_type},
            receive=lambda response, chunks: _save(response, chunks, file, wanted, progress=progress),
        )
    return target


def send(session: Session, buffer: str, source: Path, *, progress: bool) -> None:
    """See :meth:`MemoryClient.import_buffer`."""
    with _bar(progress) as tell, as_imported(source, tell) as (path, media_type):
        session.request(
            "POST",
            buffer_path(buffer, "import"),
            safe=False,
            content=lambda: _pieces(path, tell),
            headers={"Content-Type": media_type, "Content-Length": str(path.stat().st_size)},
        )


def _save(
    response: httpx.Response, chunks: Iterator[bytes], file: BinaryIO, wanted: FileForm, *, progress: bool
) -> None:
    """Make an answer all that a file holds."""
    length = response.headers.get("Content-Length", "")
    announced = length.isascii() and length.isdigit() and "Content-Encoding" not in response.headers
    total = int(length) if announced else None
    received = 0
    file.seek(0)
    file.truncate()
    with _bar(progress) as tell:
        for chunk in chunks:
            file.write(chunk)
            received += len(chunk)
            tell(received, total, "")
    if total is not None and received != total:
        raise ProtocolError(
            f"{response.request.url} announced {total} bytes and sent {received}",
            announced_bytes=total,
            received_bytes=received,
        )
    if not _is_whole(file, wanted):
        raise ProtocolError(f"{response.request.url} did not answer with a whole file of {wanted.media_type}")


def _is_whole(file: BinaryIO, form: FileForm) -> bool:
    if not form.ends:
        try:
            # Its directory is at the end and says where it begins: what was cut short or is no ZIP has none there.
            zipfile.ZipFile(file).close()
        except zipfile.BadZipFile:
            return False
        return True
    size = file.seek(0, os.SEEK_END)
    if size < len(form.begins) + len(form.ends):
        return False
    file.seek(-len(form.ends), os.SEEK_END)
    ends = file.read()
    file.seek(0)
    return ends == form.ends and file.read(len(form.begins)) == form.begins


def _pieces(path: Path, tell: Progress) -> Generator[bytes, None, None]:
    """A file from its beginning."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
            tell(file.tell(), size, "")


@contextmanager
def _bar(progress: bool) -> Iterator[Progress]:
    if not progress:
        yield lambda done, total, name: None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True) as bar:

        def tell(done: int, total: int | None, _name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell
