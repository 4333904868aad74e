"""What has to be said to libraries before torch loads them, or has begun threads: they read it once."""

from __future__ import annotations

import contextlib
import ctypes
import os

SAID = {
    # Where it is not set, libgomp's threads spin for work before they sleep, whatever it says is its default: on cores
    # that others use too, what they wait for is then not being computed.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN and torch each keep the last 1,024 products of matrices that they have prepared, by the shape of what is
    # multiplied, a third of a megabyte each (findings/torch_products_kept_by_shape.sh). A layer's backward pass has a
    # dozen shapes or two, the next one has the same, and the next batch, which is of other lengths, mostly others.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "8",
}


_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``mallopt``."""


def prepare() -> None:
    """Set what is not set."""
    for name, value in SAID.items():
        os.environ.setdefault(name, value)
    if "MALLOC_ARENA_MAX" not in os.environ:
        # What a thread frees is then there for all. glibc reads its variable as a process starts; other C libraries are
        # not asked.
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
