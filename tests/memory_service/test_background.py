"""Work beside the event loop: of lower priority, and never abandoned."""

from __future__ import annotations

import os
import sys
import threading

import anyio
import pytest

from memory_service.http.background import Background


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
