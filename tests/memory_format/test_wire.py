from __future__ import annotations

import contextlib
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_format import FormatError, RawZstd, Record, WebP, decode_batch, encode_batch, make_record
from memory_format.wire import SCHEMA, WIRE_VERSION
from tests.memory_format import hostile
from tests.memory_format.strategies import mutate, mutations, noise, records

some_records = st.lists(records().map(lambda made: made[0]), max_size=4)


def two_records() -> list[Record]:
    keep_mask = np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)
    return [
        make_record(
            class_id=index,
            patches=noise((4, 8, 8, 3), index),
            keep_mask=keep_mask,
            codec=codec,
            token_ids=np.array([101, 7, 102]),
            token_positions=np.array([0, 4, 9]),
            text_length=10,
            user_json={"source": index},
            arrays={"logits": np.arange(4)},
        )
        for index, codec in enumerate((RawZstd(), WebP()))
    ]


VALID = encode_batch(two_records())


@given(some_records)
def test_every_valid_batch_round_trips(batch: list[Record]) -> None:
    batch = [replace(record, exemplar_id=index * 2**40) for index, record in enumerate(batch)]
    data = encode_batch(batch)
    assert decode_batch(data) == batch
    assert decode_batch(data, check=False) == batch
    assert encode_batch(decode_batch(data)) == data, "the same records make the same bytes"


def test_a_batch_is_plain_arrow() -> None:
    with pa.ipc.open_stream(VALID) as reader:
        table = reader.read_all()
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.column("class_id").to_pylist() == [0, 1]
    assert table.column("crc32").to_pylist() == [record.crc32 for record in two_records()]


def test_several_arrow_batches_are_one() -> None:
    parts = [rows_of([record]) for record in two_records()]
    assert decode_batch(stream(parts)) == two_records()
    assert decode_batch(stream([])) == []


def test_the_schema_is_append_only() -> None:
    """docs/format.md lists these columns; readers in other languages rely on their names and types."""
    assert WIRE_VERSION == "1"
    assert [f"{field.name}: {field.type}" for field in SCHEMA] == [
        "exemplar_id: uint64",
        "class_id: uint32",
        "phase: uint16",
        "learner_id: string",
        "score: float",
        "rank: uint32",
        "grid_h: uint8",
        "grid_w: uint8",
        "patch_px: uint8",
        "keep_mask: binary",
        "text_length: uint16",
        "token_mask: binary",
        "token_ids: binary",
        "codec: string",
        "layout: string",
        "payload: binary",
        "extras: binary",
        "crc32: uint32",
    ]


def rows_of(batch: list[Record]) -> pa.RecordBatch:
    return pa.ipc.open_stream(encode_batch(batch)).read_all().to_batches()[0]


def stream(batches: list[pa.RecordBatch], schema: pa.Schema = SCHEMA, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def with_column(name: str, values: pa.Array) -> bytes:
    batch = rows_of(two_records())
    arrays = [values if field.name == name else batch.column(field.name) for field in SCHEMA]
    return stream([pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)])


def dictionary_stream() -> bytes:
    schema = pa.schema([pa.field("codec", pa.dictionary(pa.int8(), pa.string()))], metadata=SCHEMA.metadata)
    column = pa.array(["em_webp", "em_webp"]).dictionary_encode().cast(schema.field("codec").type)
    return stream([pa.RecordBatch.from_arrays([column], schema=schema)], schema)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "invalid_batch"),
    "words": (lambda: b"hello, this is not Arrow", "invalid_batch"),
    "JSON": (lambda: json.dumps({"records": []}).encode(), "invalid_batch"),
    "an Arrow file": (lambda: b"ARROW1\0\0" + VALID, "invalid_batch"),
    "cut in the schema": (lambda: VALID[:200], "invalid_batch"),
    "cut in the body": (lambda: VALID[:-200], "invalid_batch"),
    "another schema": (
        lambda: stream([pa.record_batch({"a": [1]})], pa.schema([pa.field("a", pa.int64())])),
        "invalid_batch",
    ),
    "no version": (lambda: stream([], SCHEMA.remove_metadata()), "invalid_batch"),
    "a newer version": (
        lambda: stream([], SCHEMA.with_metadata({"exemplar_memory_wire": "2"})),
        "invalid_batch",
    ),
    "a dictionary": (dictionary_stream, "invalid_batch"),
    "zstd buffers": (lambda: stream([rows_of(two_records())], compression="zstd"), "invalid_batch"),
    "lz4 buffers": (lambda: stream([rows_of(two_records())], compression="lz4"), "invalid_batch"),
    "metadata version 4": (
        lambda: stream([rows_of(two_records())], metadata_version=pa.ipc.MetadataVersion.V4),
        "invalid_batch",
    ),
    "the old framing": (
        lambda: stream([rows_of(two_records())], use_legacy_format=True),
        "invalid_batch",
    ),
    "nulls": (lambda: with_column("rank", pa.array([1, None], pa.uint32())), "invalid_batch"),
    "overlapping buffers": (lambda: hostile.overlapping(VALID), "invalid_batch"),
    "a thousand batches": (lambda: stream([rows_of(two_records()).slice(0, 0)] * 1100), "batch_too_large"),
    "a wrong CRC": (lambda: with_column("crc32", pa.array([1, 2], pa.uint32())), "invalid_record"),
    "an infinite score": (
        lambda: with_column("score", pa.array([0.5, float("inf")], pa.float32())),
        "invalid_record",
    ),
    "an unknown codec": (lambda: with_column("codec", pa.array(["em_zstd", "jpeg"])), "unknown_codec"),
    "an unknown layout": (lambda: with_column("layout", pa.array(["mosaic", "spiral"])), "invalid_record"),
    "a payload of nothing": (lambda: with_column("payload", pa.array([b"", b""])), "invalid_payload"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_is_refused_with_a_code_and_words(name: str) -> None:
    make, code = REFUSED[name]
    with pytest.raises(FormatError) as caught:
        decode_batch(make())
    assert caught.value.code == code
    assert len(caught.value.message) > 20


def test_the_bad_record_is_named() -> None:
    bad, good = two_records()
    with pytest.raises(FormatError, match="record 1") as caught:
        decode_batch(encode_batch([good, replace(bad, keep_mask_bytes=b"\xfc")]))
    assert caught.value.code == "payload_mismatch"
    assert caught.value.details == {"index": 1, "found": [16, 16], "expected": [16, 24]}


def test_more_records_than_allowed_are_refused() -> None:
    with pytest.raises(FormatError) as caught:
        decode_batch(VALID, max_records=1)
    assert caught.value.code == "batch_too_large"


@settings(max_examples=400)
@given(mutations)
def test_damaged_batches_raise_only_format_errors(damage: list[tuple[str, float, float, bytes]]) -> None:
    data = mutate(VALID, damage)
    for check in (True, False):
        with contextlib.suppress(FormatError):
            for record in decode_batch(data, check=check):
                record.patches()
                record.arrays()
                assert record.token_ids.size >= 0


@settings(max_examples=200)
@given(
    where=st.floats(0, 1, exclude_max=True),
    number=st.sampled_from([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1]),
    size=st.sampled_from([2, 4, 8]),
)
def test_lying_numbers_in_the_framing_raise_only_format_errors(where: float, number: int, size: int) -> None:
    """Lengths and offsets of the messages' headers, overwritten with extreme numbers anywhere."""
    place = int(where * len(VALID)) // size * size
    new = (number % 2 ** (8 * size)).to_bytes(size, "little")
    with contextlib.suppress(FormatError):
        decode_batch(VALID[:place] + new + VALID[place + size :])


@given(st.binary(max_size=300), st.integers(0, 64))
def test_random_bytes_raise_only_format_errors(data: bytes, length: int) -> None:
    framed = b"\xff\xff\xff\xff" + struct.pack("<i", length) + data
    for candidate in (data, framed, VALID[:-8] + framed):
        with contextlib.suppress(FormatError):
            decode_batch(candidate)


def test_hostile_bytes_do_not_allocate() -> None:
    """Peak memory of a process of its own, for every bomb that is known, and for honest batches."""
    inputs = hostile.make_inputs()
    done = subprocess.run(
        [sys.executable, hostile.__file__], input=pickle.dumps(inputs), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    results = json.loads(done.stdout)
    assert set(results) == set(inputs)
    for name, result in results.items():
        assert result["refused"] == (not name.startswith("honest")), (name, result)
        assert result["grown_bytes"] <= result["bound_bytes"], (name, result)


def test_the_bombs_are_real() -> None:
    """Without the checks, pyarrow takes the bait: otherwise the test above would prove nothing."""
    data = hostile.old_compression()
    with pytest.raises(OSError, match="ZSTD"), pa.ipc.open_stream(data) as reader:
        reader.read_all()
    with pa.ipc.open_stream(hostile.overlapping(VALID)) as reader:
        assert reader.read_next_batch().nbytes > len(VALID)
