"""What this process may use of its machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, or what control groups leave of it, as for a container.

    Args:
        root: where the files of the system are.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in group_folders("memory", root):
        # Version 2 says "max" where there is none, version 1 a number that no machine has.
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                found.append(int((group / name).read_text()))
    return min(found)


def processors(root: Path = Path("/")) -> int:
    """Processors that this process may keep busy all the time, at least 1: those that it may run on, or what control
    groups leave of them.

    Args:
        root: where the files of the system are.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(root)
    return found if limit is None else max(1, min(found, int(limit)))


def quota(root: Path = Path("/")) -> float | None:
    """Processors that a control group leaves to this process; None: as many as it likes."""
    return min((limit for folder in group_folders("cpu", root) for limit in _limit_of(folder)), default=None)


def _limit_of(group: Path) -> list[float]:
    try:
        if (group / "cpu.max").exists():
            allowed, period = (group / "cpu.max").read_text().split()
        else:
            allowed, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return []
    return [] if allowed in ("max", "-1") else [int(allowed) / int(period)]


def group_folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the control groups that this process is in, and of those around them (cgroups(7)), of both versions.

    Args:
        controller: ``memory`` or ``cpu``; version 2 has one group for all.
        root: where the files of the system are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # A container may see its group's path outside, and its files at the mount.
        inner = mount / path.lstrip("/")
        for group in (inner, *inner.parents):
            yield group
            if group == mount:
                break
