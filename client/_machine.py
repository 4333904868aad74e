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
    for limit in _group_limits(root):
        # Version 2 says "max" where there is none, version 1 a number that no machine has.
        with suppress(OSError, ValueError):
            found.append(int(limit.read_text()))
    return min(found)


def _group_limits(root: Path) -> Iterator[Path]:
    """Files with limits of the groups that this process is in, and of those around them (cgroups(7))."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container may see its group's path outside, and its files at the mount.
        inner = mount / path.lstrip("/")
        for group in (inner, *inner.parents):
            yield group / name
            if group == mount:
                break
