"""Replay batches: asked for, checked and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client._address import buffer_path
from client._reading import read_batch, read_version
from client._session import Session
from client.batch import ReplayBatch
from client.errors import ProtocolError
from memory_format import MEDIA_TYPE


def sample(
    session: Session, buffer: str, batch_size: int, wanted: Mapping[str, Any], decode_threads: int | None, pixels: bool
) -> ReplayBatch:
    """See :meth:`Buffer.sample`."""
    body = {"batch_size": batch_size, **wanted}
    path = buffer_path(buffer, "sample")
    response = session.request("POST", path, json=body, headers={"Accept": MEDIA_TYPE})
    found = read_batch(response)
    if len(found) != batch_size:
        raise ProtocolError(f"{batch_size} records were asked for, {len(found)} came")
    version = read_version(response)
    return ReplayBatch.from_batch(found, decode_threads=decode_threads, pixels=pixels, version=version)
