"""Replay batches: asked for, checked and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client._address import buffer_path
from client._local import read_whole
from client._reading import read_batch, read_version
from client._session import Session
from client.batch import ReplayBatch
from client.errors import ProtocolError
from memory_format import MEDIA_TYPE, Batch, FormatError, check_batch
from memory_format.api.terms import part_of


def sample(
    session: Session,
    buffer: str,
    batch_size: int,
    wanted: Mapping[str, Any],
    next_step: int | None,
    decode_threads: int | None,
    pixels: bool,
) -> ReplayBatch:
    """See :meth:`Buffer.sample`."""
    body = {"batch_size": batch_size, **wanted}
    found, version = _drawn_locally(session, buffer, body, next_step) or _drawn(session, buffer, body)
    if len(found) != (count := num_wanted(batch_size, wanted)):
        raise ProtocolError(f"{count} records were asked for, {len(found)} came")
    return ReplayBatch.from_batch(found, decode_threads=decode_threads, pixels=pixels, version=version)


def _drawn(session: Session, buffer: str, wanted: Mapping[str, Any]) -> tuple[Batch, int]:
    """A batch, each record checked, and its version."""
    response = session.request("POST", buffer_path(buffer, "sample"), json=wanted, headers={"Accept": MEDIA_TYPE})
    return read_batch(response), read_version(response)


def _drawn_locally(
    session: Session, buffer: str, wanted: Mapping[str, Any], next_step: int | None
) -> tuple[Batch, int] | None:
    """The same by the local way; None where it has to be asked over HTTP, for the batch or for what is wrong."""
    drawn = session.draw_locally(buffer, wanted, read_whole, next_step)
    return drawn if drawn is not None and is_sound(drawn[0]) else None


def is_sound(batch: Batch) -> bool:
    """Whether records that were read from files are such; their CRCs have been looked at. HTTP says what is wrong."""
    try:
        check_batch(batch, crcs=False)
    except FormatError:
        return False
    return True


def num_wanted(batch_size: int, wanted: Mapping[str, Any]) -> int:
    """Records that are to come: of a batch, or of the part that is asked for."""
    mine = part_of(batch_size, wanted.get("part", 0), wanted.get("parts", 1))
    return int(mine.stop - mine.start)
