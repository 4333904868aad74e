"""Batches that are computed abreast: on a CPU, each thread has one of its own.

Threads that share one pass wait for each other behind every operation, thousands of times a step, and two of them
gained 5 % over one. With a batch each they meet at its end (docs/decisions/0002).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import starmap
from typing import TypeVar, TypeVarTuple

import torch

T = TypeVar("T")
Ss = TypeVarTuple("Ss")


def each(do: Callable[[*Ss], T], items: Iterable[tuple[*Ss]], number: int) -> Iterator[T]:
    """What becomes of each item, the arguments of ``do``, in their order.

    Gradients are computed as where this is called; autocast is left to ``do``, as torch keeps both by thread. An error
    is raised where its result would have been.

    Args:
        items: each is taken in the caller's thread when its turn is near.
        number: how many are computed at once, each on an equal share of torch's threads.
    """
    if number == 1:
        yield from starmap(do, items)
        return
    pool, gradients = _pool(number, torch.get_num_threads()), torch.is_grad_enabled()

    def alone(*item: *Ss) -> T:
        with torch.set_grad_enabled(gradients):
            return do(*item)

    under_way: deque[Future[T]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(alone, *item))
            if len(under_way) > number:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        wait([future for future in under_way if not future.cancel()])


@cache
def _pool(number: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: what torch prepares for products of matrices, it keeps by thread."""
    share = max(1, threads // number)
    pool = ThreadPoolExecutor(number, "abreast", _have, (share,))
    begun = threading.Barrier(number + 1)
    for _ in range(number):
        pool.submit(begun.wait)
    begun.wait()
    # What a thread sets for itself is also what later ones begin with.
    torch.set_num_threads(threads)
    return pool


def _have(share: int) -> None:
    """Give this thread a number of torch's threads."""
    # A thread takes what was set last, by any, when it first asks: what it has set for itself before is forgotten then
    # (findings/torch_threads_of_a_thread.sh).
    torch.get_num_threads()
    torch.set_num_threads(share)
