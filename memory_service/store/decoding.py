"""Payloads that come in are decoded once, on as many processors as are free, so that nobody stores what nobody can
decode."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final

from memory_format import Batch, ExemplarMemoryError, FormatError, MissingLibraryError, check_batch
from memory_format.body import check_payload
from memory_format.errors import at_index
from memory_format.machine import processors

_NICE: Final = 5
_MOST_AT_ONCE: Final = 8
_DRAWN_SECONDS: Final = 0.1
"""For so long after a draw one processor is left to whoever draws next."""
_LEAST_EACH: Final = 0.00008
"""Seconds that a record takes: of what is faster, most is under Python's lock, and no two threads are."""
_SECONDS_OF_WORK: Final = 0.05
"""For each thread. With less, pushes would take processors that draws need, for what nobody notices."""


class Decoders:
    """Who brings records decodes them, and threads that give way take some of them while processors are free. For any
    thread.

    Codecs decode without Python's lock. The processors are the machine's, so one of these is a process's: see
    :func:`decoders`.

    Args:
        processors: no more records than that are decoded at a time, where no more threads bring some.
    """

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._helpers = ThreadPoolExecutor(max(1, min(processors, _MOST_AT_ONCE) - 1), "decoder", give_way)
        self._lock = threading.Lock()
        self._taken = 0
        self._drawn = -math.inf

    def note_draw(self) -> None:
        """Somebody draws, and is likely to again."""
        self._drawn = time.monotonic()

    @property
    def _most(self) -> int:
        """Records that are decoded at a time."""
        is_drawn = time.monotonic() - self._drawn < _DRAWN_SECONDS
        return min(self._processors - is_drawn, _MOST_AT_ONCE)

    def check(self, batch: Batch, *, new: bool = False) -> None:
        """:func:`check_batch`, and every payload decoded. Memory: the pixels of one record in each thread.

        Args:
            new: as there.

        Raises:
            FormatError, MissingLibraryError: as there and :func:`check_payload`, of the first record in the batch with
                which anything is wrong.
        """
        wrong: ExemplarMemoryError | None = None
        num_good = len(batch)
        try:
            check_batch(batch, new=new)
        except (FormatError, MissingLibraryError) as error:
            wrong, num_good = error, error.details["index"]
        self._decode(_Work(batch, num_good))
        if wrong is not None:
            raise wrong

    def _decode(self, work: _Work) -> None:
        hired: list[Future[None]] = []
        with self._lock:
            self._taken += 1
        try:
            # Not the processor's time: asking Linux for that after each record slowed whoever draws (0016).
            began, num_done = time.perf_counter(), 0
            while work.decode_next():
                num_done += 1
                each = (time.perf_counter() - began) / num_done
                if each >= _LEAST_EACH:
                    hired += self._hire(work, most=int(each * work.num_left / _SECONDS_OF_WORK))
        finally:
            work.end()
            for helper in hired:
                if not helper.cancel():
                    # What it has begun is the last, and goes on for no longer than one record takes.
                    helper.exception()
            self._leave()
        for helper in hired:
            if not helper.cancelled():
                helper.result()
        if work.wrong:
            raise min(work.wrong, key=lambda error: error.details["index"])

    def _hire(self, work: _Work, most: int) -> Iterator[Future[None]]:
        """Threads that take part: as many as there are processors free, and threads to be had."""
        for _ in range(most):
            with self._lock:
                if self._taken >= self._most:
                    return
                self._taken += 1
            try:
                helper = self._helpers.submit(self._help, work)
            except RuntimeError:
                # The process ends, or can have no more threads.
                return self._leave()
            helper.add_done_callback(self._leave)
            yield helper

    def _help(self, work: _Work) -> None:
        # Others may have brought records, or drawn some, meanwhile.
        while self._taken <= self._most and work.decode_next():
            pass

    def _leave(self, _helper: object = None) -> None:
        with self._lock:
            self._taken -= 1


class _Work:
    """Records of a batch that several threads decode, each the next that nobody has begun."""

    def __init__(self, batch: Batch, num: int) -> None:
        self._batch = batch
        self._lock = threading.Lock()
        self._next, self._end = 0, num
        self.wrong: list[FormatError | MissingLibraryError] = []
        """What is wrong with those that were decoded. All before them were begun, and so their errors are here, too,
        once all threads are done."""

    @property
    def num_left(self) -> int:
        return self._end - self._next

    def decode_next(self) -> bool:
        """False: there is none left."""
        with self._lock:
            if self._next == self._end:
                return False
            place = self._next
            self._next += 1
        try:
            check_payload(self._batch.headers[place].item(), self._batch.bodies[place])
        except (FormatError, MissingLibraryError) as error:
            self.wrong.append(at_index(error, place))
            self.end()
        return True

    def end(self) -> None:
        """Nobody begins another."""
        with self._lock:
            self._end = self._next


@cache
def decoders() -> Decoders:
    """Those of this process."""
    return Decoders(processors())


def give_way() -> None:
    """Be a thread of low priority. Elsewhere than on Linux that would be the whole process's, and nothing changes."""
    if sys.platform == "linux":
        # A thread begins with the priority of whoever made it, and cannot have a higher one.
        own, first = (os.getpriority(os.PRIO_PROCESS, thread) for thread in (0, os.getpid()))
        os.setpriority(os.PRIO_PROCESS, 0, max(own, first + _NICE))
