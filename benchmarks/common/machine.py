"""What figures are taken on: the machine, its file systems, and the packages."""

from __future__ import annotations

import mmap
import os
import platform
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE / 2**30, 1),
        "python": platform.python_version(),
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_system_of(path: Path) -> str:
    """Type of the file system that holds ``path``, ``unknown`` where nobody says."""
    target = path.resolve()
    found = ("", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    for line in mounts:
        # Blanks in a mount point are written in octal.
        point, kind = (part.replace("\\040", " ") for part in line.split()[1:3])
        if target.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def directory_on_disk() -> Path:
    """Where to measure unless told otherwise: the first usual place that is not kept in memory."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    on_disk = [place for place in places if place.is_dir() and file_system_of(place) not in MEMORY_FILE_SYSTEMS]
    return on_disk[0] if on_disk else places[0]


def available_memory() -> int:
    """Bytes that can be had without swapping; all there is where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
