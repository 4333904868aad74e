"""What it costs a push that the service decodes every payload once, over a service that trusts its pushers: by the
thread that brings them alone, and on all processors that are free.

python -m benchmarks.decisions.decoding
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.records import Pictures
from memory_format import AVIF, JPEG, RawZstd, Record, WebP, encode_batch, make_record, read_batch
from memory_service.store import Buffer, Store
from memory_service.store.decoding import Decoders
from memory_service.store.pure.model import Options

RECORDS = 100
ROUNDS = 15
PICTURES = 1_000
PICTURE_ROUNDS = 5


def main() -> None:
    print("milliseconds of a push, medians: trusting; decoding in one thread; decoding")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (14, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    keep_mask = np.arange(49).reshape(7, 7) % 7 < 2
    with tempfile.TemporaryDirectory() as directory:
        buffers = [_buffer(Path(directory) / str(decodes), decodes) for decodes in (False, True)]
        for codec in (WebP(quality=30), JPEG(quality=50), AVIF(quality=50), RawZstd()):
            record = make_record(class_id=0, patches=smooth, keep_mask=keep_mask, codec=codec)
            name = f"{RECORDS} of 14 patches of 32 px, {type(codec).__name__}"
            _measure(name, [record] * RECORDS, buffers, ROUNDS)
        _measure(f"{PICTURES} of 20 kB, WebP", Pictures(20_000).batch(0, PICTURES).records, buffers, PICTURE_ROUNDS)


def _measure(name: str, records: Sequence[Record], buffers: Sequence[Buffer], rounds: int) -> None:
    body = encode_batch(records)
    trusting, decoding = buffers
    alone = Decoders(1)

    def one() -> None:
        # What a push that decodes does before the rest of it.
        alone.check(read_batch(body), new=True)
        trusting.push(body)

    ways: dict[str, Callable[[], object]] = {
        "trusting": lambda: trusting.push(body),
        "one": one,
        "free": lambda: decoding.push(body),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, push in ways.items():
            started = time.perf_counter()
            push()
            taken[way].append(1e3 * (time.perf_counter() - started))
    found = {way: statistics.median(times) for way, times in taken.items()}
    print(
        f"{name:<36} {found['trusting']:7.1f} {found['one']:7.1f} {found['free']:7.1f}: x "
        f"{found['one'] / found['trusting']:.1f} and {found['free'] / found['trusting']:.1f}; "
        f"{(found['one'] - found['trusting']) / len(records):.2f} ms a record in one thread",
        flush=True,
    )


def _buffer(data: Path, decodes: bool) -> Buffer:
    return Store(data, Options(decode_payloads=decodes)).create_buffer("pushed", budget_bytes=2**32)[0]


if __name__ == "__main__":
    main()
