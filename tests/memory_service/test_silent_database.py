"""The end of a service whose database has fallen silent: it accepts whatever it is sent, and never answers."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest

from memory_format import StorageError, encode_batch
from memory_service.store import Store
from memory_service.store.directory import Places
from memory_service.store.index import connecting
from memory_service.store.shared import SharedStore
from memory_service.testing.round_trips import CountingProxy
from tests.memory_service.helpers import make_exemplar, wait_until
from tests.postgres import PostgresServer

BATCH = encode_batch([make_exemplar()])
SECONDS = 60


@pytest.mark.parametrize("shared", [False, True])
def test_a_store_ends_and_so_do_those_who_wait_for_an_answer(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(connecting, "_SILENT_SECONDS", 0.1)
    url = postgres.new_schema()
    errors: list[BaseException | None] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        proxy = CountingProxy(Path(place), Path(postgres.socket))
        near = url.replace(postgres.socket, place) + "&connect_timeout=2"
        segments = (tmp_path / "objects").as_uri() if shared else None
        opened = SharedStore if shared else Store
        store = opened(tmp_path / "store", open_ports=Places(near, segments, replicas=shared))
        buffer, _ = store.create_buffer("b", budget_bytes=10**6)
        buffer.push(BATCH)

        def push() -> None:
            try:
                buffer.push(BATCH)
                errors.append(None)
            except StorageError as error:
                errors.append(error)

        proxy.is_silent = True
        pushing = threading.Thread(target=push, daemon=True)
        pushing.start()
        wait_until(lambda: proxy.num_dropped > 0)
        closing = threading.Thread(target=store.close, daemon=True)
        closing.start()
        for thread in (closing, pushing):
            thread.join(SECONDS)
            assert not thread.is_alive()
        proxy.close()
    assert [type(error) for error in errors] == [StorageError]
    # What was answered is there, and so is the store for whoever comes next.
    with Store(tmp_path / "store", open_ports=Places(url, segments)) as alone:
        assert alone.buffer("b").state.columns.num_records == 1
