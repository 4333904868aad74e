"""Coverage-guided fuzzing of payloads: what decodes, decodes to its record's shape, within its record's memory.

    pip install atheris
    python -m tests.fuzz.payloads -max_total_time=600 -rss_limit_mb=1024

Options are libFuzzer's; a directory among them keeps the inputs that were found between runs. An input is a codec, a
library, a grid and a payload; it starts from valid ones of every codec. Anything but a ``FormatError`` is a finding:
another exception, another shape, memory over the bound of docs/format.md, a crash, or more than ten seconds.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["memory_format"]):
    import numpy as np

    from memory_format import CODECS, FormatError, PatchCodec
    from memory_format.body import check_row
    from memory_format.codecs import codec_by_number, libraries
    from memory_format.record import split_row

from tests.memory_peak import forget_peak, peak_bytes

SLACK_BYTES = 4 * 1024 * 1024
HEAD_BYTES = 5
SIDES = (1, 7, 16, 32, 64)


def seeds() -> list[bytes]:
    """A valid input of every codec, of several sizes and kinds of content."""
    rng = np.random.default_rng(0)
    inputs = []
    for number, kind in enumerate(CODECS):
        for columns in (1, 3, 8):
            for side in range(len(SIDES)):
                px = SIDES[side]
                smooth = np.add.outer(np.arange(px), np.arange(columns * px))[..., None] * np.array([1, 2, 3])
                for image in (smooth, rng.integers(0, 256, smooth.shape)):
                    payload = kind().encode(image.astype(np.uint8))
                    inputs.append(bytes((number, number + side, columns - 1, side, 0)) + payload)
    return inputs


def bound_bytes(kind: type[PatchCodec], size: tuple[int, int], num_bytes: int) -> int:
    """What docs/format.md promises, for the less frugal library."""
    times = 2 if kind.codec_id == "em_zstd" else 8
    return times * 3 * size[0] * size[1] + 4 * num_bytes + SLACK_BYTES


def read(data: bytes) -> None:
    if len(data) < HEAD_BYTES:
        return
    kind = codec_by_number(data[0] % len(CODECS) + 1)
    libraries.HAVE_IMAGECODECS = bool(data[1] & 1)
    columns, px = data[2] % 8 + 1, SIDES[data[3] % len(SIDES)]
    payload = data[HEAD_BYTES:]
    body = np.packbits(np.ones(columns, dtype=bool)).tobytes() + payload
    row = (1, 0, 0, 0.0, 0, 0, 0, 0, 0, 1, columns, px, kind.number, data[4] & 7)
    before = forget_peak()
    try:
        check_row(row, "fuzz", body, set())
        record = split_row(row, body, "fuzz")
        patches = record.patches()
    except FormatError:
        patches = None
    grown = peak_bytes() - before
    size = (px, columns * px)
    if grown > bound_bytes(kind, size, len(data)):
        raise MemoryError(f"{kind.codec_id} of {size} and {len(data)} bytes took {grown} bytes")
    if patches is not None and patches.shape != (columns, px, px, 3):
        raise ValueError(f"{kind.codec_id} of {size} decoded to {patches.shape}")


def main() -> None:
    valid = seeds()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        """Half of the time from a valid input: the libraries are not instrumented, so libFuzzer forgets long ones."""
        rng = random.Random(seed)
        if rng.random() < 0.5:
            data = rng.choice(valid)
        for _ in range(rng.randint(1, 4)):
            data = atheris.Mutate(data, max_size)
        return data

    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(valid):
            # Once beforehand: what a library sets up at its first use is not the payload's affair.
            read(data)
            (Path(directory) / str(number)).write_bytes(data)
        options = ["-timeout=10", "-max_len=8192", "-len_control=0"]
        # Files among the arguments are findings to be read again, and nothing else.
        corpus = [] if any(Path(argument).is_file() for argument in sys.argv[1:]) else [directory]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *corpus], read, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
