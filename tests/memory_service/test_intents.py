"""Segment files are named in the index before they are made, and until they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_format import encode_batch
from memory_service.store import Store
from memory_service.store.index.sql import AHEAD
from memory_service.store.pure.model import Options
from memory_service.store.segments import files
from tests.memory_service.helpers import make_exemplar, reading

OPTIONS = Options(segment_bytes=300_000)


def named(data: Path) -> dict[str, bool]:
    """Stem -> whether its file is to go."""
    with reading(data) as index:
        return {stem: bool(leaving) for stem, leaving in index.execute("SELECT stem, leaving FROM intents")}


def changes(data: Path) -> int:
    with reading(data) as index:
        return int(index.execute("SELECT changes FROM store").fetchone()[0])


def test_every_file_is_named_before_it_is_made_and_before_it_goes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, gone = [], []
    create, unlink = files.create, files.unlink

    def create_named(path: Path) -> int:
        assert named(data)[path.name.split(".")[0]] is False
        made.append(path)
        return create(path)

    def unlink_named(path: Path) -> None:
        if path.exists():
            assert named(data)[path.name.split(".")[0]] is True
            gone.append(path)
        unlink(path)

    monkeypatch.setattr(files, "create", create_named)
    monkeypatch.setattr(files, "unlink", unlink_named)
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=900_000, eviction="fifo")
        for number in range(40):
            records = [make_exemplar(0, rank, pad=20_000, seed=99 * number + rank) for rank in range(8)]
            buffer.push(encode_batch(records))
        assert len(made) > 2 * AHEAD
        assert len(gone) > AHEAD
        # Names of files that are there or gone are not kept.
        assert len(named(data)) < 2 * AHEAD
        store.delete_buffer("b")
        assert any(named(data).values())
        store.create_buffer("c", budget_bytes=1000)
        assert not any(named(data).values())


def test_names_that_a_crash_left_go_with_the_next_change(data: Path) -> None:
    for number in range(3):
        store = Store(data, OPTIONS)
        store.create_buffer(f"b{number}", budget_bytes=1000)
        store.release()
        assert len(named(data)) == AHEAD


def test_changes_are_counted_and_nothing_else(data: Path) -> None:
    with Store(data, OPTIONS) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        before = changes(data)
        buffer.push(encode_batch([make_exemplar()]))
        assert changes(data) == before + 1
        store.check_ready()
        buffer.stats()
        assert changes(data) == before + 1


def test_a_name_is_reserved_by_itself_where_none_is_left(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an import of many segments: no other transaction comes between."""
    monkeypatch.setattr("memory_service.store.index.sql.AHEAD", 2)
    with Store(data, Options(segment_bytes=20_000)) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=10**6, disk_limit_bytes=10**7)
        answer: Any = buffer.push(encode_batch([make_exemplar(0, rank, pad=20_000, seed=rank) for rank in range(9)]))
        assert not answer.replayed
        assert len(list((data / "segments").iterdir())) == 9
        assert len(named(data)) <= 2
