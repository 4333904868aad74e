"""What it costs to replace arrays of stored exemplars, beside a push of as many and a delete of what they replace.

python -m benchmarks.decisions.replacing
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from memory_format import RawZstd, encode_batch, make_record
from memory_format.revise import NewArray
from memory_service.store import Store
from memory_service.store.pure.sampler import SampleRequest

HELD = 5000
RECORDS = 256
CLASSES = 100
ROUNDS = 15


def main() -> None:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (14, 16, 16, 3), dtype=np.uint8)
    keep_mask = np.arange(49).reshape(7, 7) % 7 < 2
    record = make_record(
        class_id=0,
        patches=patches,
        keep_mask=keep_mask,
        codec=RawZstd(),
        arrays={"logits": np.zeros(CLASSES)},
        array_dtypes={"logits": "float32"},
    )
    pushed = encode_batch([record] * RECORDS)
    with tempfile.TemporaryDirectory() as directory, Store(Path(directory)) as store:
        buffer, _ = store.create_buffer("b", budget_bytes=2**30)
        for _ in range(HELD // RECORDS):
            buffer.push(pushed)
        taken: dict[str, list[float]] = {}

        def timed(name: str, do: Callable[[], object]) -> None:
            started = time.perf_counter()
            do()
            taken.setdefault(name, []).append(1e3 * (time.perf_counter() - started))

        def draw(step: int) -> list[int]:
            return list(buffer.draw_ids(SampleRequest(RECORDS, 0, step=step, replace=False)).exemplar_ids)

        def push_and_delete(ids: list[int]) -> None:
            buffer.push(pushed)
            buffer.delete(ids)

        for step in range(ROUNDS):
            ids = draw(step)
            logits = rng.normal(size=(RECORDS, CLASSES)).astype(np.float32)
            timed("replace", lambda: buffer.update(ids, arrays={"logits": NewArray(logits)}))  # noqa: B023
            timed("draw of ids after it", lambda: draw(step))  # noqa: B023
            timed("draw of ids again", lambda: draw(step))  # noqa: B023
            timed("push and delete", lambda: push_and_delete(ids))  # noqa: B023
    for name, values in taken.items():
        print(f"{name:<22} {statistics.median(values):6.1f} ms")


if __name__ == "__main__":
    main()
