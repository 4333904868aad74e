"""What it costs a push that the service decodes every payload once, over a service that trusts its pushers.

python -m benchmarks.decisions.decoding
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from memory_format import AVIF, JPEG, RawZstd, WebP, encode_batch, make_record
from memory_service.store import Buffer, Store
from memory_service.store.pure.model import Options

RECORDS = 100
ROUNDS = 15


def main() -> None:
    print(f"pushes of {RECORDS} records of 14 patches of 32 px, milliseconds (median of {ROUNDS})")
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (14, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    keep_mask = np.arange(49).reshape(7, 7) % 7 < 2
    with tempfile.TemporaryDirectory() as directory:
        buffers = {decodes: _buffer(Path(directory) / str(decodes), decodes) for decodes in (False, True)}
        for codec in (WebP(quality=30), JPEG(quality=50), AVIF(quality=50), RawZstd()):
            record = make_record(class_id=0, patches=smooth, keep_mask=keep_mask, codec=codec)
            body = encode_batch([record] * RECORDS)
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(ROUNDS):
                for decodes, buffer in buffers.items():
                    started = time.perf_counter()
                    buffer.push(body)
                    taken[decodes].append(1e3 * (time.perf_counter() - started))
            trusting, decoding = (statistics.median(taken[decodes]) for decodes in (False, True))
            print(
                f"{type(codec).__name__:<8} trusting {trusting:6.1f}, decoding {decoding:6.1f}: x "
                f"{decoding / trusting:.1f}, {(decoding - trusting) / RECORDS:.2f} ms a record"
            )


def _buffer(data: Path, decodes: bool) -> Buffer:
    return Store(data, Options(decode_payloads=decodes)).create_buffer("pushed", budget_bytes=2**30)[0]


if __name__ == "__main__":
    main()
