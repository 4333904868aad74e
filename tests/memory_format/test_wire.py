from __future__ import annotations

import contextlib
import json
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_format import (
    AVIF,
    FormatError,
    Layout,
    PatchCodec,
    RawZstd,
    Record,
    WebP,
    check_batch,
    decode_batch,
    encode_batch,
    make_record,
    read_batch,
)
from memory_format.codecs.webp import _file_of as webp_file
from memory_format.header import HEADER_DTYPE
from memory_format.record import check_record
from memory_format.wire import frame_batch, split_batch
from memory_format.wire_schema import SCHEMA, WIRE_VERSION
from tests.memory_format import hostile
from tests.memory_format.strategies import header_of, mutate, mutations, noise, records, write_batch

some_records = st.lists(records().map(lambda made: made[0]), max_size=4)


LAYOUTS: list[tuple[PatchCodec, Layout]] = [(RawZstd(), "mosaic"), (WebP(), "in_place")]


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
            layout=layout,
        )
        for index, (codec, layout) in enumerate(LAYOUTS)
    ]


VALID = encode_batch(two_records())


@given(some_records)
def test_every_valid_batch_round_trips(batch: list[Record]) -> None:
    batch = [replace(record, exemplar_id=index * 2**40) for index, record in enumerate(batch)]
    data = encode_batch(batch)
    assert decode_batch(data) == batch
    assert split_batch(read_batch(data)) == batch
    assert encode_batch(decode_batch(data)) == data, "the same records make the same bytes"


@given(some_records)
def test_headers_and_bodies_pass_through(batch: list[Record]) -> None:
    data = encode_batch(batch)
    read = read_batch(data)
    check_batch(read)
    assert len(read) == len(batch)
    assert read.headers.dtype == HEADER_DTYPE
    assert [header.item() for header in read.headers] == [header_of(record).item() for record in batch]
    assert read.learner_ids == [record.learner_id for record in batch]
    assert [bytes(body) for body in read.bodies] == [record.body for record in batch]
    lengths = [len(body) for body in read.bodies]
    again = write_batch(read.headers, read.learner_ids, b"".join(read.bodies), lengths)
    assert again == data
    assert (again.format, again.ndim, len(again)) == ("B", 1, len(data))


def test_bodies_are_slices_of_what_was_read() -> None:
    for data in (VALID, stream([rows_of([record]) for record in two_records()])):
        read = read_batch(data)
        assert all(body.obj is data for body in read.bodies)
        check_batch(read)
    assert all(isinstance(record.payload, bytes) for record in decode_batch(VALID))


def test_what_a_segment_numbers_does_not_travel() -> None:
    read = read_batch(VALID)
    headers = read.headers.copy()
    headers["offset"], headers["learner"] = 7, 8
    data = write_batch(headers, read.learner_ids, b"".join(read.bodies), [len(body) for body in read.bodies])
    assert data == VALID


def test_a_stream_is_exactly_as_long_as_it_says() -> None:
    """Its buffer is allocated unwritten: a byte too many would be a byte of something else."""
    for count in (1, 2, 100):
        data = encode_batch([two_records()[0]] * count)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(pa.ipc.open_stream(data).read_all())
        assert data == sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("num_headers", "learner_ids", "lengths"),
    [
        (1, ["a", "b"], [2, 3]),
        (2, ["a"], [2, 3]),
        (2, ["a", "b"], [5]),
        (2, ["a", "b"], [-1, 6]),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(
    num_headers: int, learner_ids: list[str], lengths: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"\d learner ids, \d lengths"):
        frame_batch(np.zeros(num_headers, HEADER_DTYPE), learner_ids, lengths)


def test_more_than_arrow_counts_to_is_refused() -> None:
    with pytest.raises(FormatError) as caught:
        frame_batch(np.zeros(1, HEADER_DTYPE), ["a"], [2**31])
    assert caught.value.code == "batch_too_large"


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
    # Arrow's streams may end without a word.
    assert decode_batch(stream(parts)[:-8]) == two_records()


def test_the_schema_is_append_only() -> None:
    """docs/format.md lists these columns; readers in other languages rely on their names and types."""
    assert WIRE_VERSION == "2"
    assert [f"{field.name}: {field.type}" for field in SCHEMA] == [
        "exemplar_id: uint64",
        "class_id: uint32",
        "rank: uint32",
        "score: float",
        "crc32: uint32",
        "phase: uint16",
        "learner_id: string",
        "text_length: uint16",
        "grid_h: uint8",
        "grid_w: uint8",
        "patch_px: uint8",
        "codec: uint8",
        "flags: uint8",
        "body: binary",
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


def with_body(change: Callable[[Record], bytes], codec: int = 2) -> bytes:
    """The second record with another body and the CRC that belongs to it."""
    first, second = two_records()
    header, bodies = read_batch(VALID).headers, [first.body, change(second)]
    header["crc32"][1] = zlib.crc32(bodies[1])
    header["codec"][1] = codec
    return bytes(write_batch(header, ["default"] * 2, b"".join(bodies), [len(body) for body in bodies]))


def body_start(record: Record, parts: int) -> bytes:
    """The first parts of a body: keep mask, token mask, token ids, extras with their length."""
    extras = len(record.extras).to_bytes(4, "little") + record.extras
    return b"".join((record.keep_mask_bytes, record.token_mask_bytes, record.token_ids_bytes, extras)[:parts])


def as_views() -> pa.Schema:
    views = {pa.string(): pa.string_view(), pa.binary(): pa.binary_view()}
    return pa.schema([field.with_type(views.get(field.type, field.type)) for field in SCHEMA])


def dictionary_stream() -> bytes:
    schema = pa.schema([pa.field("learner_id", pa.dictionary(pa.int8(), pa.string()))], metadata=SCHEMA.metadata)
    column = pa.array(["default", "default"]).dictionary_encode().cast(schema.field("learner_id").type)
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
    "views": (lambda: stream([], as_views()), "invalid_batch"),
    "pictures that are texts": (lambda: stream([], SCHEMA.append(pa.field("png", pa.string()))), "invalid_batch"),
    "a column twice": (lambda: stream([], SCHEMA.append(SCHEMA.field("rank"))), "invalid_batch"),
    "the version before": (
        lambda: stream([], pa.schema(list(SCHEMA)[:5], metadata={"exemplar_memory_wire": "1"})),
        "invalid_batch",
    ),
    "a newer version": (
        lambda: stream([], SCHEMA.with_metadata({"exemplar_memory_wire": "3"})),
        "invalid_batch",
    ),
    "columns missing": (lambda: stream([], pa.schema(list(SCHEMA)[:5], metadata=SCHEMA.metadata)), "invalid_batch"),
    "a column more": (lambda: stream([], SCHEMA.append(pa.field("a", pa.int64()))), "invalid_batch"),
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
    "two streams": (lambda: VALID + VALID, "invalid_batch"),
    "a stream and the bytes of its end once more": (lambda: VALID + VALID[-8:], "invalid_batch"),
    "a byte behind the stream": (lambda: VALID + b"\0", "invalid_batch"),
    "a byte behind a stream that does not say its end": (lambda: VALID[:-8] + b"\0", "invalid_batch"),
    "overlapping buffers": (hostile.overlapping, "invalid_batch"),
    "a learner id that is no UTF-8": (lambda: VALID.replace(b"default", b"defa\xfflt"), "invalid_batch"),
    "a thousand batches": (lambda: stream([rows_of(two_records()).slice(0, 0)] * 1100), "batch_too_large"),
    "a wrong CRC": (lambda: with_column("crc32", pa.array([1, 2], pa.uint32())), "invalid_record"),
    "an infinite score": (
        lambda: with_column("score", pa.array([0.5, float("inf")], pa.float32())),
        "invalid_record",
    ),
    "a score that is no number": (
        lambda: with_column("score", pa.array([0.5, float("nan")], pa.float32())),
        "invalid_record",
    ),
    "an unknown codec": (lambda: with_column("codec", pa.array([1, 9], pa.uint8())), "unknown_codec"),
    "codec 0": (lambda: with_column("codec", pa.array([1, 0], pa.uint8())), "unknown_codec"),
    "another codec": (lambda: with_column("codec", pa.array([1, 1], pa.uint8())), "invalid_payload"),
    "unknown flags": (lambda: with_column("flags", pa.array([2, 128], pa.uint8())), "invalid_record"),
    "two layouts": (lambda: with_column("flags", pa.array([2, 7], pa.uint8())), "invalid_record"),
    "the other layout": (lambda: with_column("flags", pa.array([2, 2], pa.uint8())), "payload_mismatch"),
    "extras not announced": (lambda: with_column("flags", pa.array([0, 1], pa.uint8())), "invalid_payload"),
    "no rows in the grid": (lambda: with_column("grid_h", pa.array([2, 0], pa.uint8())), "invalid_record"),
    "no columns in the grid": (lambda: with_column("grid_w", pa.array([3, 0], pa.uint8())), "invalid_record"),
    "patches of no pixels": (lambda: with_column("patch_px", pa.array([8, 0], pa.uint8())), "invalid_record"),
    "patches too large": (lambda: with_column("patch_px", pa.array([8, 9], pa.uint8())), "payload_mismatch"),
    "a smaller grid": (lambda: with_column("grid_h", pa.array([2, 1], pa.uint8())), "mask_mismatch"),
    "a shorter text": (lambda: with_column("text_length", pa.array([10, 9], pa.uint16())), "mask_mismatch"),
    "a learner id with spaces": (lambda: with_column("learner_id", pa.array(["a", "b c"])), "invalid_record"),
    "a learner id of 65": (lambda: with_column("learner_id", pa.array(["a", "b" * 65])), "invalid_record"),
    "no learner id": (lambda: with_column("learner_id", pa.array(["a", ""])), "invalid_record"),
    "bodies of nothing": (lambda: with_column("body", pa.array([b"", b""])), "mask_mismatch"),
    "a body that ends in the token mask": (lambda: with_body(lambda r: body_start(r, 2)[:-1]), "mask_mismatch"),
    "a body that ends in the token ids": (lambda: with_body(lambda r: body_start(r, 3)[:-1]), "mask_mismatch"),
    "a body that ends before the extras": (lambda: with_body(lambda r: body_start(r, 3)), "invalid_record"),
    "a body that ends in the extras": (lambda: with_body(lambda r: body_start(r, 4)[:-1]), "invalid_record"),
    "a body without a payload": (lambda: with_body(lambda r: body_start(r, 4)), "invalid_payload"),
    "a WebP file with more at its end": (
        lambda: with_body(lambda r: body_start(r, 4) + webp_file(r.payload) + b"\0"),
        "invalid_payload",
    ),
    "an AV1 picture of another size": (
        lambda: with_body(lambda r: body_start(r, 4) + AVIF().encode(noise((16, 25, 3), 0)), codec=4),
        "payload_mismatch",
    ),
    "extras of a length of 0": (
        lambda: with_body(lambda r: body_start(r, 3) + bytes(4) + r.payload),
        "invalid_record",
    ),
    "extras of 4 GiB": (
        lambda: with_body(lambda r: body_start(r, 3) + b"\xff" * 4 + r.extras + r.payload),
        "invalid_record",
    ),
    "extras that are none": (
        lambda: with_body(lambda r: body_start(r, 3) + b"\2\0\0\0{}" + r.payload),
        "invalid_record",
    ),
    "no patch kept": (lambda: with_body(lambda r: b"\0" + r.body[1:]), "mask_mismatch"),
    "a bit past the keep mask": (lambda: with_body(lambda r: b"\xad" + r.body[1:]), "mask_mismatch"),
    "a bit past the token mask": (
        lambda: with_body(lambda r: r.body[:2] + bytes([r.body[2] | 1]) + body_start(r, 3)[3:] + b"\0\0" + r.body),
        "mask_mismatch",
    ),
    "a body of 17 MiB": (lambda: with_body(lambda r: r.body + bytes(17 << 20)), "invalid_record"),
    "an image of over 4,096 px": (
        lambda: stream([pa.RecordBatch.from_arrays(wide_columns(), schema=SCHEMA)]),
        "invalid_record",
    ),
}


def wide_columns() -> list[pa.Array]:
    """In place, a grid of 1 x 255 patches of 255 px."""
    record = hostile.tiny(keep_mask=np.eye(1, 255, dtype=bool), codec=RawZstd())
    batch = rows_of([record])
    changes = {"flags": pa.array([1], pa.uint8()), "patch_px": pa.array([255], pa.uint8())}
    return [changes.get(name, batch.column(name)) for name in SCHEMA.names]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_is_refused_with_a_code_and_words(name: str) -> None:
    make, code = REFUSED[name]
    with pytest.raises(FormatError) as caught:
        decode_batch(make())
    assert caught.value.code == code
    assert len(caught.value.message) > 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("the version before", "update the older of the two"),
        ("a newer version", "update the older of the two"),
        ("columns missing", "expected columns exemplar_id: uint64, .*, body: binary"),
        ("another schema", "expected columns"),
        ("views", "compat_level=polars.CompatLevel.oldest"),
        ("a column more", "and not a$"),
        ("two streams", f"{len(VALID)} bytes follow the end"),
        ("a byte behind a stream that does not say its end", "only 1 bytes available"),
        ("overlapping buffers", "overlap"),
        ("a wrong CRC", "damaged on the way"),
        ("extras of a length of 0", "leave the flag out"),
        ("a bit past the token mask", "past its 10 cells"),
        ("a bit past the keep mask", "past its 6 cells"),
        ("no patch kept", "keeps no patch"),
        ("a body of 17 MiB", "at most 16777216"),
        ("an image of over 4,096 px", "255x65025 px"),
        ("a learner id with spaces", "got 'b c'"),
    ],
)
def test_it_is_refused_for_what_is_wrong(name: str, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        decode_batch(REFUSED[name][0]())


def test_what_other_writers_make_of_a_batch_is_understood() -> None:
    """polars and DuckDB drop the schema's metadata and make all nullable, polars with 64-bit offsets; some sort."""
    records = two_records()
    rows = rows_of(records)
    large = {"learner_id": pa.large_string(), "body": pa.large_binary()}
    columns = [pa.field(field.name, large.get(field.name, field.type)) for field in SCHEMA]
    with_pictures = [*reversed(columns), pa.field("png", pa.large_binary())]
    pictures = {"png": pa.array([b"\x89PNG", None], pa.large_binary())}
    for fields in (list(SCHEMA), columns, with_pictures):
        schema = pa.schema(fields)
        arrays = [
            pictures[field.name] if field.name in pictures else rows[field.name].cast(field.type) for field in schema
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        assert decode_batch(stream([batch], schema)) == records
        assert decode_batch(stream([batch.slice(1)], schema)) == records[1:]


def test_damage_on_the_way_names_its_record() -> None:
    record = two_records()[0]
    data = bytearray(encode_batch([replace(record, rank=rank) for rank in range(50)]))
    places = [place for place in range(len(data)) if data.startswith(record.payload, place)]
    assert len(places) == 50
    data[places[33] + len(record.payload) - 1] ^= 4
    with pytest.raises(FormatError, match="record 33: its CRC-32 is 0x") as caught:
        decode_batch(bytes(data))
    assert (caught.value.code, caught.value.details) == ("invalid_record", {"index": 33})
    assert len(split_batch(read_batch(bytes(data)))) == 50


CHANGES: list[dict[str, Any]] = [
    {},
    {"keep_mask_bytes": b"\xfc"},
    {"keep_mask_bytes": b"\x00"},
    {"keep_mask_bytes": b"\xad"},
    {"token_mask_bytes": b"\x88\x41", "token_ids_bytes": b"\1\2" * 4},
    {"text_length": 16},
    {"payload": b"not an image"},
    {"payload": b""},
    {"codec_id": "em_webp_lossless"},
    {"layout": "mosaic"},
    {"layout": "in_place"},
    {"patch_px": 16},
    {"patch_px": 0},
    {"grid": (2, 4)},
    {"grid": (0, 0), "keep_mask_bytes": b""},
    {"extras": b"{}"},
    {"extras": b"x" * (1 << 20 | 1)},
    {"payload": b"\x10\x00\x10\x00" + b"\x28\xb5\x2f\xfd" + b"x" * (17 << 20)},
    {"score": float("inf")},
    {"score": float("nan")},
    {"score": 1e300},
    {"learner_id": ""},
    {"learner_id": "ä"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: " ".join(changes))
def test_a_record_and_a_batch_of_it_are_refused_alike(changes: dict[str, Any]) -> None:
    for record in two_records():
        assert refusal(replace(record, **changes)) == batch_refusal(replace(record, **changes))


@given(records(), mutations, st.integers(0, 255), st.integers(0, 255), st.sampled_from(["em_zstd", "em_webp"]))
def test_damaged_records_and_batches_of_them_are_refused_alike(
    made: tuple[Record, dict[str, Any]],
    damage: list[tuple[str, float, float, bytes]],
    patch_px: int,
    bits: int,
    codec_id: str,
) -> None:
    record = made[0]
    for damaged in (
        replace(record, payload=mutate(record.payload, damage)),
        replace(record, extras=mutate(record.extras, damage)),
        replace(record, patch_px=patch_px, codec_id=codec_id),
        replace(record, keep_mask_bytes=record.keep_mask_bytes[:-1] + bytes([bits])),
    ):
        assert refusal(damaged) == batch_refusal(damaged)


def refusal(record: Record) -> tuple[str, str, dict[str, Any]] | None:
    try:
        check_record(record)
    except FormatError as error:
        return error.code, error.message.replace("1e+300", "inf"), error.details
    return None


def batch_refusal(record: Record) -> tuple[str, str, dict[str, Any]] | None:
    try:
        check_batch(read_batch(encode_batch([two_records()[0], record])))
    except FormatError as error:
        details = dict(error.details)
        assert details.pop("index") == 1
        return error.code, error.message.removeprefix("record 1: "), details
    return None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"class_id": 2**32}, "invalid_record"),
        ({"exemplar_id": 2**64}, "invalid_record"),
        ({"exemplar_id": -1}, "invalid_record"),
        ({"grid": (2, 256)}, "invalid_record"),
        ({"layout": "spiral"}, "invalid_record"),
        ({"codec_id": "jpeg"}, "unknown_codec"),
        ({"keep_mask_bytes": b"\xac\x00"}, "mask_mismatch"),
        ({"token_mask_bytes": b"\x80"}, "mask_mismatch"),
        ({"token_ids_bytes": b"\1\2"}, "mask_mismatch"),
    ],
)
def test_what_no_header_and_body_can_say_is_not_sent(changes: dict[str, Any], code: str) -> None:
    """Without this, the other end would read a record that nobody made."""
    good, bad = two_records()[0], replace(two_records()[1], **changes)
    with pytest.raises(FormatError, match="record 1: ") as caught:
        encode_batch([good, bad])
    assert (caught.value.code, caught.value.details["index"]) == (code, 1)
    with pytest.raises(FormatError) as caught:
        check_record(bad)
    assert caught.value.code == code


CUT_IN_EXTRAS = "a body that ends in the extras"


def test_unchecked_records_still_must_be_readable() -> None:
    for name in ("unknown flags", "two layouts", "an unknown codec", "bodies of nothing", CUT_IN_EXTRAS):
        with pytest.raises(FormatError) as caught:
            split_batch(read_batch(REFUSED[name][0]()))
        assert caught.value.details["index"] in (0, 1)


def test_the_bad_record_is_named() -> None:
    bad, good = two_records()
    with pytest.raises(FormatError, match="record 1") as caught:
        decode_batch(encode_batch([good, replace(bad, keep_mask_bytes=b"\xfc")]))
    assert caught.value.code == "payload_mismatch"
    assert caught.value.details == {"index": 1, "found": [16, 16], "expected": [16, 24]}


def test_more_records_than_allowed_are_refused() -> None:
    with pytest.raises(FormatError) as caught:
        read_batch(VALID, max_records=1)
    assert caught.value.code == "batch_too_large"


@settings(max_examples=400)
@given(mutations)
def test_damaged_batches_raise_only_format_errors(damage: list[tuple[str, float, float, bytes]]) -> None:
    data = mutate(VALID, damage)
    readers: list[Callable[[bytes], list[Record]]] = [decode_batch, lambda data: split_batch(read_batch(data))]
    for read in readers:
        with contextlib.suppress(FormatError):
            for record in read(data):
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
    command = [sys.executable, "-m", hostile.__name__]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], input=pickle.dumps(inputs), capture_output=True, timeout=120
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
    data = hostile.overlapping()
    with pa.ipc.open_stream(data) as reader:
        batch = reader.read_next_batch()
    batch.validate(full=True)
    assert batch.nbytes > 1.9 * len(data)
