"""How should a segment lay out a record's parts, so that a sample reads them fastest?

Four parts make a record: keep bitmask, token bitmask, token ids, payload. They can lie end to end in one
*body*, or each in a flat array of its own. This writes both to files as large as a segment and reads random
records back:

    one pread     the body, at one offset
    four preads   each part from its own array
    mmap, one     the body, sliced out of a memory map
    mmap, four    each part, sliced out of a memory map

    python -m benchmarks.decisions.read_layout            the table of docs/decisions/0001
    python -m benchmarks.decisions.read_layout --repeats 50
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SEGMENT_BYTES = 16 * 1024 * 1024
BATCH = 256
# Bytes of keep bitmask, token bitmask, token ids and payload: 7x7 patches of 16 px at WebP q30, and 12x12 of
# 32 px through a richer codec, each with 20 of 30 caption tokens.
SHAPES = {"0.7 kB": (7, 4, 40, 650), "20 kB": (18, 4, 40, 20_000)}

Read = Callable[[int], bytes]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300, help="batches a figure is the median of")
    parser.add_argument("--cold-repeats", type=int, default=30, help="the same with the page cache emptied")
    parser.add_argument("--directory", help="where to write the files (a directory of the disk in question)")
    options = parser.parse_args(arguments)
    print(f"{BATCH} random records of a {SEGMENT_BYTES >> 20} MiB file, milliseconds, median")
    print(f"{'record':8} {'read':12} {'warm':>8} {'cold':>8}")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for label, parts in SHAPES.items():
            measure(Path(directory), label, parts, options.repeats, options.cold_repeats)


def measure(directory: Path, label: str, parts: tuple[int, ...], repeats: int, cold_repeats: int) -> None:
    count = SEGMENT_BYTES // sum(parts)
    rng = np.random.default_rng(0)
    data = [rng.integers(0, 256, (count, size), dtype=np.uint8) for size in parts]
    path = directory / "records"
    batches = [rng.integers(0, count, BATCH).tolist() for _ in range(max(repeats, cold_repeats))]
    # Both layouts take the offsets from an index in memory, as the service does.
    contiguous = np.concatenate(data, axis=1).tobytes()
    flat = b"".join(part.tobytes() for part in data)
    starts = np.cumsum([0, *(count * size for size in parts)])[:-1].tolist()
    whole = sum(parts)
    for content, readers in (
        (contiguous, {"one pread": one_pread(whole), "mmap, one": mmap_one(whole)}),
        (flat, {"four preads": four_preads(starts, parts), "mmap, four": mmap_four(starts, parts)}),
    ):
        write_durably(path, content)
        expected = [contiguous[i * whole : (i + 1) * whole] for i in batches[0]]
        descriptor = os.open(path, os.O_RDONLY)
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped:
            for name, make in readers.items():
                read = make(descriptor, mapped)
                assert [read(i) for i in batches[0]] == expected
                warm = [timed(read, batch) for batch in batches[:repeats]]
                cold = []
                for batch in batches[:cold_repeats]:
                    forget(descriptor, mapped)
                    cold.append(timed(read, batch))
                print(f"{label:8} {name:12} {median_ms(warm):8} {median_ms(cold):8}", flush=True)
        os.close(descriptor)


def one_pread(size: int) -> Callable[[int, mmap.mmap], Read]:
    return lambda descriptor, _: lambda i: os.pread(descriptor, size, i * size)


def four_preads(starts: list[int], sizes: tuple[int, ...]) -> Callable[[int, mmap.mmap], Read]:
    places = list(zip(starts, sizes, strict=True))
    return lambda descriptor, _: (
        lambda i: b"".join([os.pread(descriptor, size, start + i * size) for start, size in places])
    )


def mmap_one(size: int) -> Callable[[int, mmap.mmap], Read]:
    return lambda _, mapped: lambda i: mapped[i * size : (i + 1) * size]


def mmap_four(starts: list[int], sizes: tuple[int, ...]) -> Callable[[int, mmap.mmap], Read]:
    places = list(zip(starts, sizes, strict=True))
    return lambda _, mapped: (
        lambda i: b"".join([mapped[start + i * size : start + (i + 1) * size] for start, size in places])
    )


def timed(read: Read, batch: list[int]) -> float:
    started = time.perf_counter()
    for i in batch:
        read(i)
    return time.perf_counter() - started


def median_ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.2f}" if seconds else "-"


def write_durably(path: Path, content: bytes) -> None:
    # Only pages that are on disk can be dropped from the cache later.
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def forget(descriptor: int, mapped: mmap.mmap) -> None:
    """Drop the file from the page cache, and the map's own references to it."""
    mapped.madvise(mmap.MADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
