"""Batches and payloads made to make a decoder allocate. Run as a script, it measures what each costs."""

from __future__ import annotations

import json
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from numcodecs.zstd import Zstd

from memory_format import (
    AVIF,
    JPEG,
    FormatError,
    PatchCodec,
    RawZstd,
    Record,
    WebP,
    WebPLossless,
    decode_batch,
    encode_batch,
    make_record,
    read_batch,
)
from memory_format.arrow_guard import _field
from memory_format.body import MAX_EXTRAS_BYTES
from memory_format.codecs import libraries
from memory_format.header import HEADER_DTYPE
from memory_format.wire_schema import SCHEMA
from tests.memory_format.strategies import write_batch
from tests.memory_peak import forget_peak, peak_bytes

MIB = 1024 * 1024
# What allocators take beside what is asked of them.
SLACK_BYTES = 4 * MIB


def tiny(**changes: object) -> Record:
    arguments: dict[str, object] = {
        "class_id": 0,
        "patches": np.zeros((1, 7, 7, 3), dtype=np.uint8),
        "keep_mask": np.ones((1, 1), dtype=bool),
        "codec": RawZstd(),
    }
    return make_record(**{**arguments, **changes})  # type: ignore[arg-type]


def batch_of(record: Record, count: int = 1) -> pa.RecordBatch:
    return pa.ipc.open_stream(encode_batch([record] * count)).read_all().to_batches()[0]


def old_compression() -> bytes:
    """Arrow 0.17's way to announce compression, in a version 4 message: a column claims a tebibyte."""
    columns = batch_of(tiny()).columns
    columns[0] = pa.array([1 << 40], pa.uint64())
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_stream(sink, SCHEMA, options=options) as writer:
        writer.write_batch(
            pa.RecordBatch.from_arrays(columns, schema=SCHEMA),
            custom_metadata={"ARROW:experimental_compression": "zstd"},
        )
    return bytes(sink.getvalue())


def compressed(num_bytes: int) -> bytes:
    """Zeros in a zstd buffer: a few kilobytes that unpack to ``num_bytes``."""
    batch = batch_of(tiny())
    columns = [batch.column(f.name) if f.name != "body" else pa.array([bytes(num_bytes)]) for f in SCHEMA]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    return bytes(sink.getvalue())


def overlapping() -> bytes:
    """Let the learner ids point at the bodies' bytes, which are text, so that both columns are valid."""
    out = bytearray(write_batch(np.zeros(100, HEADER_DTYPE), [""] * 100, b"a" * 1_000_000, [10_000] * 100))
    (schema_length,) = struct.unpack_from("<i", out, 4)
    start = 8 + schema_length + 8
    (length,) = struct.unpack_from("<i", out, start - 4)
    table = memoryview(out)[start : start + length]
    (message,) = struct.unpack_from("<I", table, 0)
    at = _field(table, message, 2)
    batch = at + struct.unpack_from("<I", table, at)[0]
    at = _field(table, batch, 2)
    buffers = at + struct.unpack_from("<I", table, at)[0] + 4
    places, place = {}, 0
    for field in SCHEMA:
        places[field.name] = place
        place += 3 if pa.types.is_binary(field.type) or pa.types.is_string(field.type) else 2
    source, target = (buffers + 16 * (places[name] + 1) for name in ("body", "learner_id"))
    table[target : target + 32] = table[source : source + 32]
    return bytes(out)


def long_learner_ids() -> bytes:
    """One character in each makes all of its characters four times as wide in memory."""
    return bytes(write_batch(np.zeros(100, HEADER_DTYPE), ["a" * 100_000 + "\N{RAT}"] * 100, b"", [0] * 100))


def many_brackets() -> bytes:
    """A record whose extras are as large as they may be, and of the JSON that takes the most memory."""
    extras = b'{"user":{"a":[' + b"{}," * (MAX_EXTRAS_BYTES // 3 - 20) + b'{}]},"arrays":{}}\n'
    return encode_batch([replace(tiny(), extras=extras)])


def overwritten(data: bytes, number: bytes, place: int) -> bytes:
    return data[:place] + number + data[place + len(number) :]


def lying_webp(lossless: bool) -> bytes:
    """A WebP of 7x7 px whose header says 16383x16383: 1 GiB of pixels."""
    image = np.zeros((7, 7, 3), dtype=np.uint8)
    payload = bytearray((WebPLossless() if lossless else WebP()).encode(image))
    if lossless:
        payload[1:5] = (16382 << 14 | 16382).to_bytes(4, "little")
    else:
        payload[6:10] = (16383).to_bytes(2, "little") * 2
    return bytes(payload)


def lying_zstd() -> bytes:
    """A frame that says 147 bytes and holds 64 MiB."""
    frame = bytes(Zstd().encode(np.zeros(64 * MIB, dtype=np.uint8)))
    return b"\x07\x00\x07\x00" + frame[:5] + (147).to_bytes(4, "little") + frame[9:]


def wide_zstd() -> bytes:
    """A header that says 65535x65535 px, with an honest frame of one byte."""
    return b"\xff\xff\xff\xff" + bytes(Zstd().encode(np.zeros(1, dtype=np.uint8)))


def lying_body_length(data: bytes, length: int) -> bytes:
    out = bytearray(data)
    (schema_length,) = struct.unpack_from("<i", out, 4)
    start = 8 + schema_length + 8
    (metadata_length,) = struct.unpack_from("<i", out, start - 4)
    table = memoryview(out)[start : start + metadata_length]
    (message,) = struct.unpack_from("<I", table, 0)
    struct.pack_into("<q", table, _field(table, message, 3), length)
    return bytes(out)


IMAGE_CODECS: tuple[PatchCodec, ...] = (
    WebP(method=0),
    WebPLossless(),
    AVIF(speed=10),
    JPEG(),
)


def large_pictures() -> dict[str, bytes]:
    """Codec and content -> payload of 1024x1024 px."""
    flat = np.zeros((1024, 1024, 3), dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    return {
        f"{codec.codec_id} of 1024x1024, {content}": codec.encode(image)
        for codec in IMAGE_CODECS
        for content, image in (("flat", flat), ("noise", noise))
    }


def read_with(codec: PatchCodec, library: str, data: bytes, size: tuple[int, int] = (1024, 1024)) -> object:
    libraries.HAVE_IMAGECODECS = not library
    return codec.read_checked(data, size)


# How each input is read; "honest" ones must be taken, all others refused.
READERS: dict[str, Callable[[bytes], object]] = {
    "old compression, 1 TiB": decode_batch,
    "compressed, 256 MiB": decode_batch,
    "overlapping buffers": decode_batch,
    "overlapping buffers, only read": read_batch,
    "long learner ids": decode_batch,
    "honest, many brackets": decode_batch,
    "a body of 4 EiB": decode_batch,
    "a header of 2 GiB": decode_batch,
    "a second header of 2 GiB": decode_batch,
    "lossy WebP of 16383x16383": lambda data: WebP.read_checked(data, (7, 7)),
    "lossless WebP of 16383x16383": lambda data: WebPLossless.read_checked(data, (7, 7)),
    "WebP of 16383x16383 through numcodecs": lambda data: WebP().decode(data),
    "WebP of 16383x16383 unchecked": WebP.decode_image,
    "zstd frame of 64 MiB": lambda data: RawZstd.read_checked(data, (7, 7)),
    "zstd of 65535x65535": lambda data: RawZstd().decode(data),
    "AVIF of 16383x16383 unchecked": AVIF.decode_image,
    "JPEG of 65535x65535 unchecked": JPEG.decode_image,
    "honest, zstd of 1024x1024": lambda data: RawZstd.read_checked(data, (1024, 1024)),
    **{
        f"honest, {codec.codec_id} of 1024x1024, {content}{library}": partial(read_with, codec, library)
        for codec in IMAGE_CODECS
        for content in ("flat", "noise")
        for library in ("", " by Pillow")
    },
    "honest, tiny": decode_batch,
    "honest, extras and noise": decode_batch,
    "honest, wide masks": decode_batch,
    "honest, tiny, only read": read_batch,
    "honest, noise, only read": read_batch,
}


def make_inputs() -> dict[str, tuple[bytes, int]]:
    """Name -> bytes, and the records among them."""
    valid = encode_batch([tiny()] * 3)
    (schema_length,) = struct.unpack_from("<i", valid, 4)
    patches = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mask = np.arange(40).reshape(5, 8) % 2 == 0
    noisy = encode_batch([tiny(patches=patches, keep_mask=mask, arrays={"features": np.zeros(512)})] * 1500)
    flat = np.zeros((1024, 1024, 3), dtype=np.uint8)
    wide_mask = np.zeros((255, 255), dtype=bool)
    wide_mask[0, 0] = True
    return {
        "old compression, 1 TiB": (old_compression(), 1),
        "compressed, 256 MiB": (compressed(256 * MIB), 1),
        "overlapping buffers": (overlapping(), 100),
        "overlapping buffers, only read": (overlapping(), 100),
        "long learner ids": (long_learner_ids(), 100),
        "a body of 4 EiB": (lying_body_length(valid, 2**62), 3),
        "a header of 2 GiB": (overwritten(valid, b"\xff\xff\xff\x7f", 4), 3),
        "a second header of 2 GiB": (overwritten(valid, b"\xff\xff\xff\x7f", 8 + schema_length + 4), 3),
        "lossy WebP of 16383x16383": (lying_webp(False), 1),
        "lossless WebP of 16383x16383": (lying_webp(True), 1),
        "WebP of 16383x16383 through numcodecs": (lying_webp(False), 1),
        "WebP of 16383x16383 unchecked": (lying_webp(False), 1),
        "zstd frame of 64 MiB": (lying_zstd(), 1),
        "zstd of 65535x65535": (wide_zstd(), 1),
        # Before those that leave more free memory behind.
        "honest, noise, only read": (noisy, 1500),
        "honest, tiny, only read": (encode_batch([tiny()] * 20_000), 20_000),
        "AVIF of 16383x16383 unchecked": (b"\xff\x3f\xff\x3f" + AVIF().encode(flat[:7, :7])[4:], 0),
        "JPEG of 65535x65535 unchecked": (b"\xff\xff\xff\xff" + JPEG().encode(flat[:7, :7])[4:], 0),
        "honest, zstd of 1024x1024": (RawZstd().encode(flat), 0),
        **{
            f"honest, {name}{library}": (payload, 0)
            for name, payload in large_pictures().items()
            for library in ("", " by Pillow")
        },
        "honest, tiny": (encode_batch([tiny()] * 20_000), 20_000),
        "honest, extras and noise": (noisy, 1500),
        "honest, wide masks": (encode_batch([tiny(keep_mask=wide_mask, text_length=65_535)] * 1500), 1500),
        "honest, many brackets": (many_brackets(), 1),
    }


def main() -> None:
    """Read pickled inputs from stdin, print what each one cost.

    The inputs are made elsewhere, because memory once used by this process and free again would hide what a
    reader takes.
    """
    inputs: dict[str, tuple[bytes, int]] = pickle.load(sys.stdin.buffer)
    decode_batch(encode_batch([tiny()]))
    for codec in IMAGE_CODECS:
        for library in ("", " by Pillow"):
            read_with(codec, library, codec.encode(np.zeros((9, 1024, 3), dtype=np.uint8)), size=(9, 1024))
    results = {}
    for name, (data, num_records) in inputs.items():
        before = forget_peak()
        refused = False
        try:
            READERS[name](data)
        except FormatError:
            refused = True
        results[name] = {
            "refused": refused,
            "grown_bytes": peak_bytes() - before,
            "bound_bytes": bound_bytes(name, data, num_records) + SLACK_BYTES,
        }
    json.dump(results, sys.stdout, indent=1)


def bound_bytes(name: str, data: bytes, num_records: int) -> int:
    """What docs/format.md promises."""
    if "only read" in name:
        return 512 * num_records
    if "brackets" in name:
        return 4 * len(data) + 2048 * num_records + 48 * MIB
    decoded = 1024 * 1024 * 3 if "1024x1024" in name else 0
    times = 2 if "zstd" in name else 8 if "Pillow" in name else 4
    return 4 * len(data) + 2048 * num_records + times * decoded


if __name__ == "__main__":
    main()
