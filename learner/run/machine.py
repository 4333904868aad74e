"""What a run was made with: versions and hardware, kept beside its figures."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from client import ServiceInfo
from client.files import write_atomically
from learner.model.classifier import best_device

FILE = "machine.json"
THREADS = "threads"
"""What the number of threads is called, which has a say in the last bits of what is computed."""

PACKAGES = ("exemplar-memory", "torch", "torchvision", "timm", "transformers", "numpy", "pillow")
"""Whose versions have a say in the figures."""


def describe(service: ServiceInfo) -> dict[str, str]:
    """This machine and what runs on it, by what each figure is called."""
    said = {
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
        "memory": _memory(),
        "device": _device(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "memory service": service.version,
    }
    return said | {name: _version(name) for name in PACKAGES}


def give_back() -> None:
    """Let the system have what has been freed.

    glibc keeps it for what is asked for next, but each kind of work asks for pieces of other sizes: training, masks and
    tests would each leave holes of their own. Other C libraries are not asked.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def remember(out: Path, service: ServiceInfo, threads: int) -> None:
    """Write ``machine.json`` into a run's folder, unless it is there: what matters is where the run was trained.

    A run that goes on with another number of threads has all of them there, the latest one last.
    """
    said = recall(out) if (out / FILE).exists() else describe(service)
    numbers = said.get(THREADS, "").split(", then ")
    if not (out / FILE).exists() or numbers[-1] != str(threads):
        said[THREADS] = ", then ".join(filter(None, [*numbers, str(threads)]))
        write_atomically(out / FILE, (json.dumps(said, indent=2) + "\n").encode())


def recall(out: Path) -> dict[str, str]:
    """What :func:`remember` wrote; empty where there is nothing that can be read."""
    try:
        return {str(name): str(value) for name, value in json.loads((out / FILE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _device() -> str:
    device = best_device()
    return f"GPU, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "CPU"
