"""The records of a draw, and what is to be said of them before any of their bytes is read.

Whoever trains asks for one step after another. So where one draw followed on another, the next is laid out while its
client is busy with what it got. Then only files are left to be held and read when it is asked for. The batch is the
same: it depends on nothing but the request and the records.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memory_format.api.answers import DrawnIds
from memory_format.header import fingerprints
from memory_format.lending import LentRows, rows_of
from memory_format.wire import Frame, frame_batch
from memory_service.store.contents import places_of
from memory_service.store.pure.columns import Columns, Learners, Rows, concatenated, headers_of_rows, numbered
from memory_service.store.pure.sampler import SampleRequest
from memory_service.store.segments.base import Place

_MOST_EXPECTED: Final = 64
"""Draws that are expected at a time: as many clients that ask for one step after another. A draw of 512 records that is
laid out takes some 200 kB."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Records in drawing order. What is made of them is made once, when it is first asked for."""

    version: int
    """Of the buffer, or of the snapshot."""
    created_at: float
    """Of the buffer."""
    learners: Learners
    taken: Rows
    """``(B,)``."""
    swapped: NDArray[np.int64]
    """``(D,)``: which of them carry the text of another, ascending."""
    donors: Rows
    """``(D,)``: whose texts those are."""

    @cached_property
    def places(self) -> tuple[Sequence[int], Sequence[Place]]:
        """Segments of the B, and where the bodies are and go, as :meth:`Contents.hold` takes them."""
        ids, places, _ = places_of(self.taken)
        return ids, places

    @cached_property
    def frame(self) -> Frame:
        """The stream of the B with the texts that they are stored with."""
        return frame_batch(headers_of_rows(self.taken), self.learner_ids(self.taken), self.taken["length"])

    @cached_property
    def ids(self) -> DrawnIds:
        """What :meth:`Draws.draw_ids` answers."""
        taken, texts = self.taken, self.taken[:0]
        if len(self.swapped):
            texts = taken.copy()
            texts[self.swapped] = self.donors
        return DrawnIds(
            version=self.version,
            created_at=self.created_at,
            exemplar_ids=tuple(taken["exemplar_id"].tolist()),
            fingerprints=tuple(fingerprints(taken)),
            scores=tuple(taken["score"].tolist()),
            ranks=tuple(taken["rank"].tolist()),
            text_from=tuple(texts["exemplar_id"].tolist()),
            text_fingerprints=tuple(fingerprints(texts)),
        )

    @cached_property
    def lent(self) -> tuple[Sequence[int], Sequence[Place], LentRows]:
        """Segments of all B + D, where in them the bodies are, and what their reader is told."""
        rows = concatenated([self.taken, self.donors]) if len(self.donors) else self.taken
        segments, which = numbered(rows["segment"])
        codes, learner = numbered(rows["learner"])
        places = [(at, offset, 0, 0, 0) for at, offset in zip(which.tolist(), rows["offset"].tolist(), strict=True)]
        told = LentRows(
            self.version,
            self.created_at,
            rows_of(rows, learner, which),
            self.swapped.astype(np.uint32),
            [self.learners.ids[code] for code in codes.tolist()],
            len(segments),
        )
        return segments.tolist(), places, told

    def learner_ids(self, rows: Rows) -> list[str]:
        """Whose the records are."""
        ids = self.learners.ids
        return [ids[code] for code in rows["learner"].tolist()]


Prepare = Callable[[Chosen], object]
"""Makes of a draw what its answer needs, to be there when it is asked for."""


@dataclass
class _Next:
    """A draw that is expected."""

    prepare: Prepare
    is_likely: bool
    """Whether the draw before was expected too. Who asks for steps at random costs nothing but this note."""
    columns: Callable[[], Columns | None] = lambda: None
    """What it was laid out from; no longer than that lives by itself."""
    chosen: Chosen | None = None


class Expected:
    """The draws that are likely to come, of all buffers. For one thread."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, SampleRequest], _Next] = {}

    def take(self, buffer: str, request: SampleRequest, columns: Columns, prepare: Prepare) -> Chosen | None:
        """What was laid out for a draw from these columns, if anything was; expect the one that follows."""
        found = self._next.pop((buffer, request), None)
        self._next[buffer, _following(request)] = _Next(prepare, is_likely=found is not None)
        if len(self._next) > _MOST_EXPECTED:
            del self._next[next(iter(self._next))]
        return None if found is None or found.columns() is not columns else found.chosen

    def lay_out(
        self, buffer: str, after: SampleRequest, columns: Columns, choose: Callable[[SampleRequest], Chosen]
    ) -> None:
        """Get the draw ready that follows on one, where it is likely to come. Raises as ``choose``."""
        request = _following(after)
        found = self._next.get((buffer, request))
        if found is not None and found.is_likely and found.columns() is not columns:
            chosen = choose(request)
            found.prepare(chosen)
            found.chosen, found.columns = chosen, weakref.ref(columns)


def _following(request: SampleRequest) -> SampleRequest:
    """What who asks for one step after another asks for next."""
    return replace(request, step=request.step + 1)
