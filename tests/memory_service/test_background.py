"""Work beside the event loop: of lower priority, and never abandoned."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path

import anyio
import pytest
import uvicorn

from memory_service.cli import _Server
from memory_service.http.admission import Background
from memory_service.http.connections import Connections
from memory_service.settings import Settings


def test_results_and_errors_come_back() -> None:
    background = Background(1)

    def fail() -> None:
        raise ValueError("no")

    assert anyio.run(background.run, lambda: threading.current_thread() is not threading.main_thread()) is True
    with pytest.raises(ValueError, match="no"):
        anyio.run(background.run, fail)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_its_threads_give_way_and_no_other_does() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if before > 14:
        pytest.skip("there is no lower priority than this process's")
    assert anyio.run(Background(1).run, lambda: os.getpriority(os.PRIO_PROCESS, 0)) == before + 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_work_goes_on_when_nobody_waits_for_it_any_more() -> None:
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        may_end.wait(10)
        ended.set()

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(Background(1).run, work)
            await anyio.to_thread.run_sync(started.wait, 10)
            group.cancel_scope.cancel()
            may_end.set()

    anyio.run(cancelled)
    assert ended.is_set()


def test_garbage_is_looked_for_while_nobody_waits(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected = []
    monkeypatch.setattr(gc, "get_count", lambda: (30_000, 0, 0))
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))
    server = _Server(uvicorn.Config("nothing"), Connections(Settings(data=data), 100), "ready", None)

    async def answering() -> None:
        request = asyncio.ensure_future(asyncio.sleep(0))
        server.server_state.tasks.add(request)
        await server.on_tick(1)
        assert not collected
        server.server_state.tasks.discard(request)
        await server.on_tick(1)
        assert collected

    asyncio.run(answering())
