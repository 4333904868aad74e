"""Replay batches of exemplars that are mostly decoded already.

A draw is answered with ids. Those that the cache lacks are fetched by id, decoded, and kept. Everything else of a batch
is as it would be without: masks and texts come out of the bodies' fronts, what is before their payload, and scores,
ranks and who carries whose text are those of this draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import _sampling
from client._address import buffer_path
from client._lent import read_rows
from client._params import present
from client._reading import read_batch
from client._session import Session
from client.batch import ReplayBatch, check_decode_threads, require_codecs
from client.cache import PixelCache, scope_of
from client.errors import ProtocolError
from client.unpack import UnpackedBatch, unpack_batch
from memory_format import MEDIA_TYPE, Batch, FormatError
from memory_format.api.answers import DrawnIds
from memory_format.api.terms import MAX_SAMPLE
from memory_format.body import swap_text
from memory_format.header import HEADER_BYTES, HEADER_DTYPE, fingerprints
from memory_format.lending import LentRows


class _GoneError(Exception):
    """A record that was drawn is no longer there."""


def sample(
    session: Session,
    buffer: str,
    batch_size: int,
    wanted: Mapping[str, Any],
    next_step: int | None,
    cache: PixelCache[Any],
    decode_threads: int | None,
) -> ReplayBatch:
    """See :meth:`client.buffer.Buffer.sample`.

    Where a record was evicted after it was drawn, the batch is drawn again, whole: of the version of now.
    """
    if not isinstance(cache, PixelCache):
        raise ValueError(f"cache must be an ExemplarCache, got {cache!r:.100}")
    if decode_threads is not None:
        check_decode_threads(decode_threads)
    body = {"batch_size": batch_size, **wanted}

    def batch_of(drawn: DrawnIds) -> _Batch:
        _check(drawn, _sampling.num_wanted(batch_size, wanted))
        return _Batch(session, buffer, drawn, wanted.get("snapshot"), cache, decode_threads)

    def read(lent: LentRows, descriptors: Sequence[int]) -> tuple[_Batch, list[Batch]]:
        batch = batch_of(_drawn(lent))
        rows = lent.rows[_first_places(lent.rows["exemplar_id"], batch.lacking)]
        return batch, [read_rows(lent, descriptors, rows)] if len(rows) else []

    try:
        local = session.draw_locally(buffer, body, read, next_step)
        if local is not None and all(map(_sampling.is_sound, local[1])):
            return local[0].made(local[1])
        answer = session.value(DrawnIds, "POST", buffer_path(buffer, "sample"), json={**body, "want": "ids"})
        batch = batch_of(answer)
        return batch.made(batch.fetched(batch.lacking))
    except _GoneError:
        return cache.uncached(partial(_sampling.sample, session, buffer, batch_size, wanted, None, decode_threads))


def _check(drawn: DrawnIds, count: int) -> None:
    columns = (drawn.exemplar_ids, drawn.fingerprints, drawn.scores, drawn.ranks)
    texts = (drawn.text_from, drawn.text_fingerprints)
    if any(len(column) != count for column in columns) or any(len(column) not in (0, count) for column in texts):
        raise ProtocolError(f"{count} records were asked for, {[len(c) for c in columns + texts]} numbers came")


def _drawn(lent: LentRows) -> DrawnIds:
    """What a draw on this machine says, as one over HTTP does."""
    ids, prints = lent.rows["exemplar_id"].tolist(), fingerprints(lent.rows)
    drawn, count = lent.rows[: lent.num_records], lent.num_records
    text_from, text_prints = (ids[:count], prints[:count]) if len(lent.swapped) else ([], [])
    for row, donor in zip(lent.swapped.tolist(), range(count, len(ids)), strict=True):
        text_from[row], text_prints[row] = ids[donor], prints[donor]
    return DrawnIds(
        version=lent.version,
        created_at=lent.created_at,
        exemplar_ids=tuple(ids[:count]),
        fingerprints=tuple(prints[:count]),
        scores=tuple(drawn["score"].tolist()),
        ranks=tuple(drawn["rank"].tolist()),
        text_from=tuple(text_from),
        text_fingerprints=tuple(text_prints),
    )


def _first_places(ids: NDArray[Any], wanted: Sequence[int]) -> list[int]:
    """Where each of the wanted ids comes first."""
    places = {id_: place for place, id_ in reversed(list(enumerate(ids.tolist())))}
    return [places[id_] for id_ in wanted]


@dataclass
class _Batch:
    """One batch in the making."""

    _session: Session
    _buffer: str
    _drawn: DrawnIds
    _snapshot: str | None
    _cache: PixelCache[Any]
    _decode_threads: int | None

    def __post_init__(self) -> None:
        drawn = self._drawn
        self._scope = scope_of(self._session.transport.url, self._buffer, drawn.created_at)
        self._prints = dict(zip(drawn.text_from, drawn.text_fingerprints, strict=True))
        self._prints |= dict(zip(drawn.exemplar_ids, drawn.fingerprints, strict=True))
        self._rows: dict[int, list[int]] = {}
        for row, exemplar_id in enumerate(drawn.exemplar_ids):
            self._rows.setdefault(exemplar_id, []).append(row)
        held = self._cache.find(self._scope, self._prints)
        self._entries = {id_: entry for id_, (entry, _) in held.items() if entry.pixel_bytes}
        self._fronts = {id_: front for id_, (_, front) in held.items()}
        # Of who only lends a text, the front is enough.
        self.lacking = [
            id_ for id_ in self._prints if id_ not in (self._entries if id_ in self._rows else self._fronts)
        ]
        """Ids of records that the cache has not."""
        self._cache.found += len(self._prints) - len(self.lacking)

    def made(self, found: Iterable[Batch]) -> ReplayBatch:
        """The batch.

        Args:
            found: the records that were lacking.

        Raises:
            _GoneError: a record was evicted since it was drawn.
            FormatError, MissingLibraryError: as :meth:`ReplayBatch.from_batch`.
        """
        entries = self._entries
        fetched = [unpack_batch(batch) for batch in found]
        for one in fetched:
            self._fronts |= _fronts(one)

        def fill(patch_valid: NDArray[np.bool_], patches: Any) -> None:
            self._cache.expect_room(patches.nbytes)
            present = {row: entries[id_] for id_, rows in self._rows.items() if id_ in entries for row in rows}
            lost = self._cache.gather(present, patch_valid, patches)
            lost_ids = dict.fromkeys(self._drawn.exemplar_ids[row] for row in lost)
            for one in (*fetched, *map(unpack_batch, self.fetched(lost_ids))):
                self._decode(one, patches)

        return self._cache.batch(self._paired(), fill, self._drawn.version)

    def _paired(self) -> Batch:
        """Headers and fronts of the batch's records, each with the text that it was given."""
        drawn, fronts = self._drawn, self._fronts
        parts = [fronts[id_] for id_ in drawn.exemplar_ids]
        headers = _headers(parts)
        headers["score"], headers["rank"] = drawn.scores, drawn.ranks
        bodies = [part[HEADER_BYTES:] for part in parts]
        swapped = [row for row, id_ in enumerate(drawn.text_from) if id_ != drawn.exemplar_ids[row]]
        donors = [fronts[drawn.text_from[row]] for row in swapped]
        for row, header, donor in zip(swapped, _headers(donors), donors, strict=True):
            headers[row], bodies[row] = swap_text(headers[row], bodies[row], header, donor[HEADER_BYTES:])
        return Batch(headers, [""] * len(bodies), [memoryview(body) for body in bodies])

    def fetched(self, lacking: Iterable[int]) -> list[Batch]:
        """Records by id.

        Raises:
            _GoneError: as :meth:`made`.
        """
        ids = list(lacking)
        parts = [ids[first : first + MAX_SAMPLE] for first in range(0, len(ids), MAX_SAMPLE)]
        return [batch for part in parts for batch in self._fetch(part)]

    def _fetch(self, ids: Sequence[int]) -> list[Batch]:
        try:
            wanted = present({"exemplar_ids": ids, "snapshot": self._snapshot})
            path = buffer_path(self._buffer, "records")
            answer = self._session.request("POST", path, json=wanted, headers={"Accept": MEDIA_TYPE})
        except FormatError as error:
            if error.code != "batch_too_large" or len(ids) == 1:
                raise
            # The batch fits an answer, and not those besides whose texts it carries.
            half = len(ids) // 2
            return self._fetch(ids[:half]) + self._fetch(ids[half:])
        batch = read_batch(answer)
        headers = batch.headers
        if headers["exemplar_id"].tolist() != ids or fingerprints(headers) != [self._prints[id_] for id_ in ids]:
            raise _GoneError
        return [batch]

    def _decode(self, one: UnpackedBatch, patches: Any) -> None:
        """Decode records into a batch and into the cache."""
        ids = one.batch.headers["exemplar_id"].tolist()
        require_codecs(one.batch)
        self._cache.decoded += len(ids)

        def take(place: int, pixels: Any) -> None:
            rows = self._rows[ids[place]]
            for row in rows:
                patches[row, : len(pixels)] = pixels
            # They lie end to end there, which they need not do as they come out of a picture.
            kept = patches[rows[0], : len(pixels)]
            self._cache.put(self._scope, ids[place], self._prints[ids[place]], self._fronts[ids[place]], kept)

        pictured = [place for place, id_ in enumerate(ids) if id_ in self._rows]
        self._cache.decode(one, pictured, self._decode_threads, take)
        for id_ in ids:
            if id_ not in self._rows:
                self._cache.put(self._scope, id_, self._prints[id_], self._fronts[id_], None)


def _fronts(unpacked: UnpackedBatch) -> dict[int, bytes]:
    """Of each record, by exemplar id: header, and body up to its payload."""
    headers = unpacked.batch.headers
    parts = zip(
        headers["exemplar_id"].tolist(), headers, unpacked.batch.bodies, unpacked.payload_at.tolist(), strict=True
    )
    return {id_: header.tobytes() + bytes(body[:end]) for id_, header, body, end in parts}


def _headers(fronts: Sequence[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(front[:HEADER_BYTES] for front in fronts), HEADER_DTYPE).copy()
