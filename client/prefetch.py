"""Work that threads do ahead of its use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetched(Iterator[Result], Generic[Item, Result]):
    """``work(item)`` for each item, in their order: the next ones are under way while one is in use.

    An error of the work is raised where its result would have been, and ends the iteration. The end of a ``with``
    block, :meth:`close` and garbage collection end the threads. An iterator belongs to the process that made it: its
    threads do not follow into a forked one.

    Args:
        work: what the threads call. It must hold no reference to this iterator, which could then never be collected.
        items: each is taken in the consumer's thread when its work is begun.
        ahead: the most results that are held or on their way while the consumer is busy.
        threads: how many items are worked on at the same time.
        is_stale: says of a result whether it has become useless. Its work is done again, and that of all others
            at hand that are.
        waiting: holds the items whose work is sure to be done and has not begun, in their order: for work that gets
            ready what comes next.
        cut: makes work that has begun end soon; called when the threads are to end.
        name: of the threads.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        ahead: int,
        threads: int = 1,
        is_stale: Callable[[Result], bool] | None = None,
        waiting: deque[Item] | None = None,
        cut: Callable[[], object] | None = None,
        name: str = "prefetch",
    ) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._waiting = deque() if waiting is None else waiting
        self._work = partial(_begun, work, self._waiting)
        self._items = iter(items)
        self._is_stale = is_stale
        self._cut = cut
        self._pending: deque[tuple[Item, Future[Result]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._begin(ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Result:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this iterator was begun in another process, and its threads are there: iterate anew here"
            )
        try:
            if not self._pending:
                raise StopIteration
            result = self._pending[0][1].result()
            if self._is_stale is not None and self._is_stale(result):
                self._begin_again(self._is_stale)
                result = self._pending[0][1].result()
            self._pending.popleft()
            self._begin(1)
        except BaseException:
            self.close()
            raise
        return result

    def close(self) -> None:
        """End the threads. Work that has begun is waited for, the rest is dropped."""
        pool, self._pool = self._pool, None
        if pool is None or os.getpid() != self._process:
            return
        self._pending.clear()
        if self._cut is not None:
            self._cut()
        pool.shutdown(wait=True, cancel_futures=True)

    def __del__(self) -> None:
        self.close()

    def _begin(self, count: int) -> None:
        for item in islice(self._items, count):
            self._pending.append((item, self._submit(item)))

    def _submit(self, item: Item) -> Future[Result]:
        assert self._pool is not None
        self._waiting.append(item)
        return self._pool.submit(self._work, item)

    def _begin_again(self, is_stale: Callable[[Result], bool]) -> None:
        """All that are stale, at once. What is still on its way is looked at in its turn."""

        def is_useless(future: Future[Result]) -> bool:
            return future.done() and future.exception() is None and is_stale(future.result())

        self._pending = deque(
            (item, self._submit(item) if is_useless(future) else future) for item, future in self._pending
        )


def _begun(work: Callable[[Item], Result], waiting: deque[Item], item: Item) -> Result:
    # Threads take items in order. Where two of them come at once, it does not matter which takes which out.
    waiting.popleft()
    return work(item)
