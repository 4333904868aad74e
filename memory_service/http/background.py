"""Threads for pushes, imports and pictures: work that must not make a sampler wait.

Samples are drawn in the event loop. It shares the processor with these threads, and Python's global lock: so they get
the processor after it, and give the lock away often (docs/decisions/0016).
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import anyio

T = TypeVar("T")

SWITCH_SECONDS: Final = 0.0001
"""How long a thread keeps the global lock while another wants it; Python's own 5 ms make a batch of many reads wait
as often as it reads."""

_NICE: Final = 5


class Background:
    """A few threads of low priority. For use in one event loop.

    Args:
        threads: pieces of work that run at a time; the rest waits for its turn.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, initializer=_give_way)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread. It runs to its end, and this waits for it, also where it is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, contextvars.copy_context().run, work)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([future])
        return future.result()


def _give_way() -> None:
    # On Linux a thread has a priority of its own; elsewhere this would be the whole process's.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
