"""The pairs of places that a store can have its index and its segments in."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import pytest

from memory_format import Record
from memory_service.store.directory import Places
from tests.memory_service.helpers import make_exemplar
from tests.objects import ObjectStore, use
from tests.postgres import PostgresServer

Pair = Literal["directory", "database", "objects", "both"]
PAIRS: Final[tuple[Pair, ...]] = ("directory", "database", "objects", "both")


class NewPlaces:
    """Makes places where nobody has put anything."""

    def __init__(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self._request = request
        self._monkeypatch = monkeypatch

    def __call__(self, pair: Pair) -> Places:
        index = segments = None
        if pair in ("database", "both"):
            postgres: PostgresServer = self._request.getfixturevalue("postgres")
            index = postgres.new_schema()
        if pair in ("objects", "both"):
            object_store: ObjectStore = self._request.getfixturevalue("object_store")
            use(object_store, self._monkeypatch)
            segments = object_store.new_prefix()
        return Places(index, segments)


def options_of(places: Places, *, to: str = "") -> list[str]:
    """As a command takes them, ``to`` in front of their names."""
    index = [] if places.index is None else [f"--{to}index", places.index]
    return [*index, *([] if places.segments is None else [f"--{to}segments", places.segments])]


def big_records(number: int, *, first: int = 0) -> list[Record]:
    """Of bytes that no two of them share, and that nothing compresses: of 20 kB each."""
    noise = np.random.default_rng(first)
    pads = [noise.bytes(10_000).hex() for _ in range(number)]
    return [make_exemplar(at % 3, first + at, user_json={"noise": pad}) for at, pad in enumerate(pads)]
