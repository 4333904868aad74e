"""How much is taken in at once. Beyond it, a push or import is told to come again, instead of waiting in a growing
queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from memory_format import BusyError
from memory_service.http.background import Background

T = TypeVar("T")

_RECEIVING_THREADS: Final = 4
_LISTING_THREADS: Final = 1


class Admission:
    """Bounds on pushes, imports and pictures under way in one process. For use in one event loop.

    Args:
        max_pushes: pushes whose body is there, and that wait to be written or are. A client that sends slowly takes
            up none of them, and no thread.
        max_bytes: bytes of their bodies that have arrived. One push alone may have more.
        max_threads: pushes that are checked and written at a time, apart from the threads that answer reads: so a
            slow disk does not hold up who samples.
        max_pictures: pictures asked for; ``picture_threads`` of them are drawn at a time, as one takes up to 64 MiB.
        max_imports: imports whose file is there, and that are taken over, in threads of their own.
    """

    def __init__(
        self,
        *,
        max_pushes: int,
        max_bytes: int,
        max_threads: int,
        max_imports: int,
        max_pictures: int,
        picture_threads: int,
    ) -> None:
        self._max_pushes = max_pushes
        self._max_bytes = max_bytes
        self._arriving = 0
        self._pushes = 0
        self._bytes = 0
        self._writing = Background(max_threads)
        self._max_imports = max_imports
        self._imports = 0
        self._receiving = Background(_RECEIVING_THREADS)
        self._listing = Background(_LISTING_THREADS)
        self._taking_over = Background(max_imports)
        self._max_pictures = max_pictures
        self._pictures = 0
        self._drawing = Background(picture_threads)
        self._turn = asyncio.Lock()
        self._check: asyncio.Future[None] | None = None
        self._check_thread = anyio.CapacityLimiter(1)

    @contextmanager
    def push(self) -> Iterator[Admitted]:
        """Around reading and writing a push.

        Raises:
            BusyError: too many are being written.
        """
        self._expect_place(self._pushes, self._max_pushes, "pushes")
        admitted = Admitted(self)
        self._arriving += 1
        try:
            yield admitted
        finally:
            self._arriving -= 1
            self._bytes -= admitted.num_bytes

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around drawing a batch in the event loop, for one request at a time.

        While pushes are under way, the next turn begins after a pause as long as this one: pushes get half of the
        loop's time however many samplers there are (docs/decisions/0016).
        """
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            if self._arriving:
                loop.call_later(loop.time() - began, self._turn.release)
            else:
                self._turn.release()

    async def write(self, push: Callable[[], T]) -> T:
        """Run a push whose body is there in a thread. It runs to its end also where its client has gone.

        Raises:
            BusyError: too many are being written.
        """
        self._expect_place(self._pushes, self._max_pushes, "pushes")
        self._pushes += 1
        try:
            return await self._writing.run(push)
        finally:
            self._pushes -= 1

    async def list(self, page: Callable[[], T]) -> T:
        """Make a page of records in a thread: a thousand of them are some 20 ms of Python."""
        return await self._listing.run(page)

    def expect_import(self) -> None:
        """Refuse an import, before its file is read, while too many are under way.

        Raises:
            BusyError: too many are being taken over.
        """
        self._expect_place(self._imports, self._max_imports, "imports")

    async def receive(self, work: Callable[[], T]) -> T:
        """Run ``work`` on a file that arrives in a thread. It runs to its end also where its client has gone."""
        return await self._receiving.run(work)

    async def take_over(self, work: Callable[[], T]) -> T:
        """Run an import whose file is there in a thread. It waits for its turn: its file has come already."""
        self._imports += 1
        try:
            return await self._taking_over.run(work)
        finally:
            self._imports -= 1

    @staticmethod
    def _expect_place(taken: int, most: int, what: str) -> None:
        if taken >= most:
            raise BusyError(f"{most} {what} are under way; send it again a little later", limit=most)

    async def draw(self, picture: Callable[[], T]) -> T:
        """Run ``picture`` in one of the threads for it.

        Raises:
            BusyError: too many are asked for.
        """
        self._expect_place(self._pictures, self._max_pictures, "pictures")
        self._pictures += 1
        try:
            return await self._drawing.run(picture)
        finally:
            self._pictures -= 1

    async def once(self, check: Callable[[], None]) -> None:
        """Run ``check`` in a thread of its own; who asks while it runs shares its outcome."""
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(anyio.to_thread.run_sync(check, limiter=self._check_thread))
        await asyncio.shield(self._check)

    def _take(self, admitted: Admitted, num_bytes: int) -> None:
        if self._bytes + num_bytes > self._max_bytes and self._bytes > admitted.num_bytes:
            raise BusyError(
                f"pushes under way hold {self._bytes} bytes, at most {self._max_bytes} are taken at once; send it "
                "again a little later",
                limit=self._max_bytes,
            )
        self._bytes += num_bytes
        admitted.num_bytes += num_bytes


class Admitted:
    """One push that was let in."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_bytes = 0

    async def read(self, stream: AsyncIterator[bytes]) -> bytes:
        """The whole body.

        Raises:
            BusyError: with it, too much would be held.
        """
        pieces = []
        async for piece in stream:
            self._admission._take(self, len(piece))
            pieces.append(piece)
        return b"".join(pieces)
