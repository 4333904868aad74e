from __future__ import annotations

import copy
import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import ReplayBatch
from client.batch import _threads_for
from client.unpack import UnpackedBatch, unpack_batch
from memory_format import (
    JPEG,
    Batch,
    FormatError,
    MissingLibraryError,
    RawZstd,
    Record,
    WebP,
    check_batch,
    decode_batch,
    encode_batch,
    make_record,
    read_batch,
)
from tests.client.samples import make, make_many


@given(st.lists(st.integers(0, 60), min_size=1, max_size=9), st.sampled_from([None, 1, 3, 20]))
def test_rows_are_the_records_and_the_rest_is_padding(numbers: list[int], threads: int | None) -> None:
    records = [make(number) for number in numbers]
    batch = ReplayBatch.from_records(iter(records), decode_threads=threads)
    assert len(batch) == len(records)
    assert batch.records == tuple(records)
    B = len(records)
    K = max(len(record.keep_indices) for record in records)
    T = max(len(record.token_ids) for record in records)
    expected = {
        "exemplar_id": ((B,), np.int64),
        "class_id": ((B,), np.int64),
        "phase": ((B,), np.int64),
        "score": ((B,), np.float32),
        "rank": ((B,), np.int64),
        "grid": ((B, 2), np.int64),
        "patches": ((B, K, 8, 8, 3), np.uint8),
        "patch_positions": ((B, K), np.int64),
        "patch_valid": ((B, K), np.bool_),
        "token_ids": ((B, T), np.int64),
        "token_positions": ((B, T), np.int64),
        "token_valid": ((B, T), np.bool_),
        "text_length": ((B,), np.int64),
    }
    for name, (shape, dtype) in expected.items():
        array = getattr(batch, name)
        assert (array.shape, array.dtype) == (shape, dtype), name
    for row, record in enumerate(records):
        k, t = len(record.keep_indices), len(record.token_ids)
        np.testing.assert_array_equal(batch.patch_valid[row], np.arange(K) < k)
        np.testing.assert_array_equal(batch.token_valid[row], np.arange(T) < t)
        np.testing.assert_array_equal(batch.patches[row, :k], record.patches())
        np.testing.assert_array_equal(batch.patch_positions[row, :k], record.keep_indices)
        np.testing.assert_array_equal(batch.token_ids[row, :t], record.token_ids)
        np.testing.assert_array_equal(batch.token_positions[row, :t], record.token_positions)
        for array, used in ((batch.patches, k), (batch.patch_positions, k), (batch.token_ids, t)):
            assert not array[row, used:].any()
        assert tuple(batch.grid[row]) == record.grid
        assert (batch.class_id[row], batch.phase[row], batch.rank[row]) == (
            record.class_id,
            record.phase,
            record.rank,
        )
        assert (batch.score[row], batch.text_length[row]) == (np.float32(record.score), record.text_length)


def as_it_came(records: list[Record]) -> Batch:
    batch = read_batch(encode_batch(records))
    check_batch(batch)
    return batch


def assert_same(left: ReplayBatch, right: ReplayBatch) -> None:
    for name in (field.name for field in fields(left)):
        value, other = getattr(left, name), getattr(right, name)
        if isinstance(value, np.ndarray):
            assert (value.shape, value.dtype) == (other.shape, other.dtype), name
            np.testing.assert_array_equal(value, other)
        elif name != "held":
            assert value == other, name
    assert left.records == right.records


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9),
    st.sampled_from(["mosaic", "in_place", "strip"]),
    st.booleans(),
    st.sampled_from([None, 3]),
)
def test_a_batch_as_it_came_makes_what_its_records_make(
    numbers: list[int], layout: Any, pixels: bool, threads: int | None
) -> None:
    records = [
        make(
            number,
            layout=layout,
            codec=RawZstd() if number % 3 else WebP(),
            user_json={"number": number} if number % 2 else None,
            arrays={"logits": np.arange(number % 4) / 3} if number % 5 == 0 else None,
            array_dtypes={"logits": "float32"} if number % 10 == 0 else None,
            **({"token_ids": [2**17 + number], "token_positions": [0]} if number % 7 == 0 else {}),
        )
        for number in numbers
    ]
    settings: dict[str, Any] = {"pixels": pixels, "decode_threads": threads, "version": 7}
    made = ReplayBatch.from_batch(as_it_came(records), **settings)
    from_records = ReplayBatch.from_records(decode_batch(encode_batch(records)), **settings)
    assert len(made) == len(records)
    arrays = made.arrays()
    assert isinstance(made.held, Batch), "no records were made for them"
    for found, record in zip(arrays, records, strict=True):
        assert found.keys() == record.arrays().keys()
        for name, values in record.arrays().items():
            np.testing.assert_array_equal(found[name], values)
    assert_same(made, from_records)
    assert made.records == tuple(records)
    assert made.records is made.records
    if pixels:
        for image, record in zip(made.images(), records, strict=True):
            np.testing.assert_array_equal(image, record.image())


def test_a_batch_as_it_came_is_copied_and_pickled_with_its_records() -> None:
    records = make_many(5)
    batch = ReplayBatch.from_batch(as_it_came(records))
    for other in (pickle.loads(pickle.dumps(batch)), copy.copy(batch), copy.deepcopy(batch)):
        assert_same(batch, other)
    assert batch.records == tuple(records)


def test_bits_past_a_masks_end_are_refused() -> None:
    record = make(0)
    cells = record.keep_mask.size
    mask = bytearray(record.keep_mask_bytes)
    mask[-1] |= 1
    assert cells % 8, "there is room past the end"
    with pytest.raises(FormatError, match="past") as caught:
        ReplayBatch.from_records([make(1), replace(record, keep_mask_bytes=bytes(mask))], pixels=False)
    assert caught.value.code == "mask_mismatch"


def test_records_without_text_make_an_empty_axis() -> None:
    plain = [make(n, token_ids=None, token_positions=None, text_length=None) for n in range(3)]
    batch = ReplayBatch.from_records(plain)
    assert batch.token_ids.shape == batch.token_valid.shape == (3, 0)
    assert ReplayBatch.from_batch(as_it_came(plain)).token_ids.shape == (3, 0)


def test_patches_of_several_sizes_are_refused_in_words() -> None:
    small = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(FormatError, match=r"these records have \[4, 8\] px") as caught:
        ReplayBatch.from_records([make(0), make(1, patches=small), make(2)])
    assert caught.value.details == {"patch_px": [4, 8]}


def test_a_codec_without_its_library_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = replace(make(0), payload=b"")
    jpeg = make(1, codec=JPEG())
    monkeypatch.setattr(JPEG, "missing_library", classmethod(lambda cls: "a library: pip install it"))
    with pytest.raises(MissingLibraryError, match="codec em_jpeg needs a library: pip install it") as caught:
        ReplayBatch.from_records([damaged, jpeg])
    assert caught.value.code == "codec_unavailable"
    assert caught.value.details == {"codec": "em_jpeg"}


def test_no_records_are_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ReplayBatch.from_records([])
    with pytest.raises(ValueError, match="at least one"):
        ReplayBatch.from_batch(as_it_came([]))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_payload_is_a_format_error_from_any_thread(threads: int) -> None:
    good, bad = make_many(3), make(4)
    bad = replace(bad, payload=bad.payload[:-3])
    with pytest.raises(FormatError):
        ReplayBatch.from_records([*good, bad], decode_threads=threads)


def test_threads_decode_large_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.batch.processors", lambda: 4)

    def of_side(side: int, count: int) -> UnpackedBatch:
        patches = np.zeros((4, side // 2, side // 2, 3), dtype=np.uint8)
        record = make_record(class_id=0, patches=patches, keep_mask=np.ones((2, 2), dtype=bool), codec=WebP())
        return unpack_batch(read_batch(encode_batch([record] * count)))

    assert _threads_for(of_side(112, 256)) == 1
    assert _threads_for(of_side(384, 256)) == 4
    assert _threads_for(of_side(384, 2)) == 2
    assert _threads_for(of_side(384, 1)) == 1
