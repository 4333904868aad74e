"""How much is taken in at once, and the threads that do it.

Beyond it, a push or import is told to come again, instead of waiting in a growing queue. Samples are drawn in the event
loop. It shares the processor with these threads, and Python's global lock: so they give the lock away often, and all
but one for pushes get the processor after it. Draws wait where that does not get one (docs/decisions/0016).
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from memory_format import BusyError
from memory_service.http.pace import Pushers
from memory_service.settings import Settings
from memory_service.store import Buffer
from memory_service.store.chosen import Expected
from memory_service.store.decoding import decoders, give_way
from memory_service.store.pure.sampler import SampleRequest

T = TypeVar("T")

SWITCH_SECONDS: Final = 0.0001
"""How long a thread keeps the global lock while another wants it; Python's own 5 ms make a batch of many reads wait
as often as it reads."""

_PUSH_THREADS: Final = 16
_RECEIVING_THREADS: Final = 4
_LISTING_THREADS: Final = 1


class Background:
    """A few threads of low priority: so many pieces of work run at a time. For use in one event loop.

    Args:
        begin: what each of them does first, in the place of taking a low priority.
    """

    def __init__(self, threads: int, begin: Callable[[], object] | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads, initializer=begin or give_way)

    def begin(self, work: Callable[[], object]) -> None:
        """Run ``work`` in a thread, and wait for nothing."""
        self._pool.submit(work)

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread. It runs to its end, and this waits for it, also where it is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, contextvars.copy_context().run, work)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([future])
        return future.result()


class Shared(Background):
    """A thread for work whose outcome is the same for all who ask at that time."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    async def run_once(self, name: str, work: Callable[[], T]) -> T:
        """Run ``work``. Who asks for that name before it begins shares its outcome: nobody's is of before they asked,
        and however many ask, two at most are under way."""
        future = self._waiting.get(name)
        if future is None:

            def begin() -> T:
                del self._waiting[name]
                return work()

            future = self._waiting[name] = asyncio.ensure_future(self.run(begin))
        outcome: T = await asyncio.shield(future)
        return outcome


class Bounded(Background):
    """Threads for work of one kind, of which there may be only so much at once, waiting or running.

    Args:
        first: does what comes while it has nothing to do: all, where one piece comes after another.
        told: called with how much there is of it, whenever that changes.
    """

    def __init__(
        self,
        what: str,
        most: int,
        threads: int,
        first: Background | None = None,
        told: Callable[[int], object] = lambda _taken: None,
    ) -> None:
        super().__init__(threads)
        self._what = what
        self._most = most
        self._first = first
        self._told = told
        self.taken = 0

    def expect_place(self) -> None:
        """Raises ``BusyError``: there is as much of it as there may be."""
        if self.taken >= self._most:
            raise BusyError(f"{self._most} {self._what} are under way; send it again a little later", limit=self._most)

    async def run(self, work: Callable[[], T]) -> T:
        first, self._first = self._first, None
        run = super().run if first is None else first.run
        self.taken += 1
        self._told(self.taken)
        try:
            return await run(work)
        finally:
            self.taken -= 1
            self._told(self.taken)
            if first is not None:
                self._first = first


class Admission:
    """Bounds on pushes, imports and pictures under way in one process. For use in one event loop.

    A push counts once its body is there, until it is written: a client that sends slowly takes up nothing, and no
    thread. One push alone may have more bytes than all may have together. Pushes are checked and written apart from
    the threads that answer reads: so a slow disk does not hold up who samples.
    """

    def __init__(self, settings: Settings) -> None:
        self._pushers = Pushers(_told_in(settings))
        # One thread has the priority of all others, and is looked at. Many would be in the event loop's way, and in
        # each other's.
        self.pushes = Bounded(
            "pushes",
            settings.max_pushes,
            _PUSH_THREADS - 1,
            Background(1, self._pushers.join),
            # Of several pushes, one waits for the others too.
            lambda taken: self._pushers.tell(taken == 1),
        )
        self.imports = Bounded("imports", settings.max_imports, settings.max_imports)
        self.pictures = Bounded("pictures", settings.max_pictures, settings.picture_threads)
        self.receiving = Background(_RECEIVING_THREADS)
        """For pieces of files that arrive."""
        self.listing = Background(_LISTING_THREADS)
        """For pages of records: a thousand of them are some 20 ms of Python."""
        self.checks = Shared()
        """For a look at whether the service is able to work."""
        self.figures = Shared()
        """For what Prometheus reads: of 3,000 buffers some 200 ms of Python."""
        self._max_bytes = settings.max_pending_bytes
        self._bytes = 0
        self._arriving = 0
        self._turn = asyncio.Lock()
        self.expected = Expected()
        """Draws that are likely to come."""

    @contextmanager
    def push(self) -> Iterator[Callable[[AsyncIterator[bytes]], Awaitable[bytes]]]:
        """Around reading and writing a push; gives what reads its whole body. Raises ``BusyError``: too many are being
        written; when its body is read: with it, too much would be held."""
        self.pushes.expect_place()
        held = 0

        async def read(stream: AsyncIterator[bytes]) -> bytes:
            nonlocal held
            pieces = []
            async for piece in stream:
                if self._bytes + len(piece) > self._max_bytes and self._bytes > held:
                    raise BusyError(
                        f"pushes under way hold {self._bytes} bytes, at most {self._max_bytes} are taken at once; send "
                        "it again a little later",
                        limit=self._max_bytes,
                    )
                self._bytes += len(piece)
                held += len(piece)
                pieces.append(piece)
            return b"".join(pieces)

        self._arriving += 1
        try:
            yield read
        finally:
            self._arriving -= 1
            self._bytes -= held

    @property
    def is_idle(self) -> bool:
        """Whether nobody else draws, and no push is under way: then a :meth:`turn` is to be had at once."""
        return not self._arriving and not self._turn.locked()

    def lay_ahead(self, buffer: Buffer, after: SampleRequest) -> None:
        """Once nothing else is to be done in the event loop, get the draw ready that is likely to follow on one whose
        answer is on its way."""

        def lay_out() -> None:
            if self.is_idle:
                buffer.lay_ahead(after, self.expected)

        asyncio.get_running_loop().call_soon(lay_out)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around drawing a batch in the event loop, for one request at a time.

        While pushes are under way, the next turn begins after a pause as long as this one: pushes get half of the
        loop's time however many samplers there are. Where one push waits for a processor, through this replica or
        another on this machine, as who samples has them all, it is as long as that needs to make up for it
        (docs/decisions/0016).
        """
        loop = asyncio.get_running_loop()
        await self._turn.acquire()
        pause = 0.0
        try:
            if wait := self._pushers.seconds_to_wait(loop.time()):
                await asyncio.sleep(wait)
            decoders().note_draw()
            began = loop.time()
            try:
                yield
            finally:
                if self._arriving:
                    # By the loop's clock, whose milliseconds are right in the mean: call_later of uvloop 0.23.0 rounds
                    # to whole ones, and would make nothing of 0.4 (findings/uvloop_milliseconds.sh).
                    pause = loop.time() - began
        finally:
            if pause:
                loop.call_later(pause, self._turn.release)
            else:
                self._turn.release()


def _told_in(settings: Settings) -> Path | None:
    """Where replicas of one store, that share the processors of this machine, tell each other who pushes."""
    # What a thread's number says depends on its name space.
    space = Path("/proc/self/ns/pid")
    if not settings.replicas or not space.exists():
        return None
    shared = f"{settings.segments} {sorted(os.sched_getaffinity(0))}"
    name = hashlib.blake2b(shared.encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"memory-service-{os.getuid()}-{space.stat().st_ino}-{name}"
