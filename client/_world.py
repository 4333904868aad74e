"""Which process of how many this one is."""

from __future__ import annotations

import os

import torch.distributed

from client._params import whole


def is_distributed() -> bool:
    """Whether this process is in a group of ``torch.distributed``."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def check_rank(rank: int | None, world_size: int | None) -> None:
    """Refuse a rank that is none.

    Raises:
        ValueError: only one of the two is given, or there is no such rank.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size go together, got {rank} and {world_size}")
    if rank is not None and whole("rank", rank, 0) >= whole("world_size", world_size, 1):
        raise ValueError(f"ranks are 0..world_size - 1, got rank {rank} of {world_size}")


def world_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The rank of this process, and of how many.

    Args:
        rank, world_size: as they were given; None = as ``torch.distributed`` says where it is initialised, else the
            only one.

    Raises:
        RuntimeError: with these, processes that were started together would take the same.
    """
    if is_distributed():
        mine, group = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if rank is None or world_size is None:
            return mine, group
        if world_size == group and rank != mine:
            raise RuntimeError(
                f"rank {rank} of {world_size} was given, and this process is rank {mine} of {group} in "
                "torch.distributed: two ranks would draw the same; leave out rank and world_size, or give its own"
            )
    if rank is not None and world_size is not None:
        return rank, world_size
    started_as, of = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if started_as.isdecimal() and of.isdecimal() and int(of) > 1:
        raise RuntimeError(
            f"this process was started as rank {started_as} of {of} (RANK, WORLD_SIZE), and torch.distributed is not "
            "initialised: every rank would draw the same; call torch.distributed.init_process_group before the first "
            "batch, or give rank and world_size (0 and 1 where that is meant)"
        )
    return 0, 1
