"""What a forked process must not take over from its parent: connections, and locks that threads of the parent hold."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class StartsAnew(Protocol):
    """Has a state of its own in each process."""

    def start_anew(self) -> None:
        """Called in a process that was forked."""


_all: weakref.WeakSet[StartsAnew] = weakref.WeakSet()


def start_anew_when_forked(what: StartsAnew) -> None:
    """From now on, call its ``start_anew`` in each process that is forked, for as long as it is there."""
    _all.add(what)


def _start_all_anew() -> None:
    for what in list(_all):
        what.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
