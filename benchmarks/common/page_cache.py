"""A directory's bytes: on the disk, and in the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CAN_FORGET = hasattr(os, "posix_fadvise")
_MADV_DONTNEED = 4


def files_under(directory: Path) -> Iterator[os.DirEntry[str]]:
    """All files below a directory; what disappears meanwhile is left out."""
    pending = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        yield entry
        except FileNotFoundError:
            continue


def disk_bytes(directory: Path) -> tuple[int, int]:
    """Bytes of all files below a directory: their lengths, and what the disk has allocated for them."""
    lengths = allocated = 0
    for entry in files_under(directory):
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        lengths += found.st_size
        allocated += found.st_blocks * 512
    return lengths, allocated


def forget(directory: Path) -> None:
    """Drop a directory's files from the page cache. Pages that a process has mapped stay."""
    os.sync()  # only what is on disk can be dropped
    for entry in files_under(directory):
        try:
            descriptor = os.open(entry.path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def recall(directory: Path) -> None:
    """Read a directory's files, so that the page cache holds them.

    Some systems, virtual machines above all, take back pages that nobody has touched for seconds, with memory to
    spare: a store of gigabytes does not stay warm by itself.
    """
    room = bytearray(2**20)
    for entry in files_under(directory):
        try:
            with open(entry.path, "rb", buffering=0) as file:
                while file.readinto(room):
                    pass
        except FileNotFoundError:
            continue


def forget_mapping(address: int, num_bytes: int) -> None:
    """Drop a memory map's own references to a file's pages, so that the cache may drop them."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(num_bytes), _MADV_DONTNEED)


def cached_share(directory: Path) -> float:
    """The part of a directory's bytes that is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = pages = 0
    for entry in files_under(directory):
        length = entry.stat().st_size
        if length == 0:
            continue
        with open(entry.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            flags = np.zeros(-(-length // mmap.PAGESIZE), dtype=np.uint8)
            content = np.frombuffer(mapped, dtype=np.uint8)
            failed = libc.mincore(
                ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(length), ctypes.c_void_p(flags.ctypes.data)
            )
            del content  # or the map cannot be closed
        if not failed:
            cached += int((flags & 1).sum())
            pages += len(flags)
    return cached / pages if pages else 0.0


def copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    os.sync()
