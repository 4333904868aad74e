"""Which dead records snapshots show, against the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memory_service.store.pure.model import Snapshot
from memory_service.store.pure.visibility import shown_by

_SMALL = st.integers(1, 12)


def _mark(next_exemplar_id: int, version: int) -> Snapshot:
    return Snapshot(f"s{version}", version, next_exemplar_id, 0, 0, 0.0, 1)


@given(
    dead=st.lists(st.tuples(_SMALL, _SMALL), max_size=20),
    marks=st.lists(st.tuples(_SMALL, _SMALL), max_size=8),
)
def test_a_record_is_shown_by_snapshots_between_its_birth_and_its_death(
    dead: list[tuple[int, int]], marks: list[tuple[int, int]]
) -> None:
    ids, died = (np.array([pair[side] for pair in dead], dtype=np.uint64) for side in (0, 1))
    expected = [any(id_ < next_id and version < at for next_id, version in marks) for id_, at in dead]
    assert shown_by(ids, died, [_mark(*mark) for mark in marks]).tolist() == expected
