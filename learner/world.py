"""The ranks of a run: processes that ``torchrun`` started together, and that go through it in step.

Each rank has the whole model and computes its share of each step. What is asked of the memory or written is the first
rank's to do (:func:`from_first`); the others are given what comes of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, islice
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
S = TypeVar("S")

_LONGEST: Final = timedelta(days=7)
"""For the first rank to push, or to wait for other learners. A rank that ends is noticed at once, by its connection."""

_alone = 0
"""How deep in :func:`alone`."""


class RankError(Exception):
    """The ranks cannot go through the run together."""


class OtherRankError(RankError):
    """Another rank has ended, or has failed; it says why by itself."""


def started_as() -> tuple[int, int]:
    """The rank of this process and of how many, as ``torchrun`` says in the environment; without it, the only one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """A block that all ranks go through together: over NCCL what lies on GPUs, each rank's own, and over gloo all else.

    Raises:
        RankError: there are fewer GPUs than ranks here.
        OtherRankError: they do not come together.
    """
    if started_as()[1] == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        place, number = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= number:
            raise RankError(
                f"there are {number} GPUs here, and this is rank {place + 1} of this machine: start one a GPU"
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    with _told():
        dist.init_process_group(backend, timeout=_LONGEST)
    yield
    # Not after an error: whoever waits for this rank is to see it end.
    dist.destroy_process_group()


def size() -> int:
    """How many ranks share the work here."""
    return dist.get_world_size() if _is_shared() else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return dist.get_rank() if _is_shared() else 0


def _is_shared() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A block in which this rank does all of the work, whatever the others do meanwhile."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OtherRankError("another rank has ended, or cannot be reached") from error


# Work that is shared out. All ranks call these in the same order.


def mine(items: Iterable[T]) -> Iterator[T]:
    """This rank's share of some: every n-th."""
    return islice(items, rank(), None, size())


def gathered(own: T) -> list[T]:
    """What each rank has, by rank."""
    if size() == 1:
        return [own]
    found: list[Any] = [None] * size()
    with _told():
        dist.all_gather_object(found, own)
    return found


def of_all(own: Iterable[T]) -> Iterable[T]:
    """What all ranks have, one rank's behind the other's. Of a rank alone, one after another as it comes."""
    return own if size() == 1 else chain.from_iterable(gathered(list(own)))


def each(items: Sequence[S], do: Callable[[S], T]) -> list[T]:
    """What becomes of each item, in their order; every rank does its share."""
    parts = gathered([do(item) for item in mine(items)])
    return [parts[place % len(parts)][place // len(parts)] for place in range(len(items))]


def from_first(make: Callable[[], T]) -> T:
    """What the first rank makes, on all of them; the others make nothing.

    Raises:
        OtherRankError: it failed, and this is another one. The first has the error itself.
    """
    if size() == 1:
        return make()
    box: list[Any] = [None, True]
    failed: Exception | None = None
    if rank() == 0:
        with alone():
            try:
                box = [make(), False]
            except Exception as error:  # the others have to know, whatever it is
                failed = error
    with _told():
        dist.broadcast_object_list(box, src=0)
    if failed is not None:
        raise failed
    if box[1]:
        raise OtherRankError("the first rank has failed")
    value: T = box[0]
    return value


def after_first(make: Callable[[], T]) -> T:
    """What each rank makes by itself once the first has: that has downloaded what it takes. Raises as
    :func:`from_first`."""
    made: list[T] = []
    from_first(lambda: made.append(make()))
    return made[0] if made else make()


# Steps of a training


def total(number: int) -> int:
    """The sum of a number of each rank."""
    # A plain number: ``.item()`` of a DTensor is this rank's share in torch 2.14.1 (findings/torch_dtensor_item.sh).
    return sum(gathered(number))


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Give each parameter the sum of its gradients on all ranks."""
    if size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # What no rank has computed with stays without one: an optimiser leaves it alone. Not a sum of bool tensors: gloo of
    # torch 2.14.1 adds up their bytes, and 256 is False (findings/torch_gloo_bool.sh).
    ranks = gathered([parameter.grad is not None for parameter in trained])
    found = []
    for parameter, is_used in zip(trained, map(any, zip(*ranks, strict=True)), strict=True):
        if is_used:
            # None: of a rank that had no sample of this step.
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found.append(parameter.grad)
    _flat(found, dist.all_reduce)


def be_as_first(parameters: Iterable[Tensor]) -> None:
    """Give each parameter its value on the first rank: sums that ranks build differ in their last bits, perhaps."""
    if size() > 1:
        _flat([parameter.data for parameter in parameters], lambda flat: dist.broadcast(flat, src=0))


def _flat(tensors: Sequence[Tensor], change: Callable[[Tensor], object]) -> None:
    """Change tensors of one device all at once, by type."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        these = [tensor for tensor in tensors if tensor.dtype == dtype]
        # New and contiguous: of a view gloo would change other numbers (findings/torch_gloo_strided.sh).
        flat = torch.cat([tensor.reshape(-1) for tensor in these])
        with _told():
            change(flat)
        for tensor, value in zip(these, flat.split([tensor.numel() for tensor in these]), strict=True):
            tensor.copy_(value.view_as(tensor))
