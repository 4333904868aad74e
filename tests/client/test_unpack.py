"""A batch's masks and texts side by side are those of its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.unpack import unpack_batch
from memory_format import Batch, FormatError, Record, encode_batch, read_batch
from memory_format.header import FLAG_EXTRAS
from memory_format.wire import split_batch
from tests.memory_format.strategies import records
from tests.memory_format.test_record import simple


@given(st.lists(records(), max_size=6))
def test_it_holds_what_the_records_hold(made: list[tuple[Record, dict[str, Any]]]) -> None:
    several = [record for record, _ in made]
    batch = read_batch(encode_batch(several))
    unpacked = unpack_batch(batch)
    assert len(unpacked) == len(several)
    assert split_batch(batch) == several
    for index, record in enumerate(several):
        kept, said = unpacked.patch_valid[index], unpacked.token_valid[index]
        assert kept.sum() == record.num_kept
        assert kept[: record.num_kept].all()
        assert unpacked.patch_positions[index][kept].tolist() == record.keep_indices.tolist()
        assert unpacked.token_ids[index][said].tolist() == record.token_ids.tolist()
        assert unpacked.token_positions[index][said].tolist() == record.token_positions.tolist()
        assert bytes(batch.bodies[index][unpacked.payload_at[index] :]) == record.payload
        np.testing.assert_array_equal(unpacked.patches(index), record.patches())
    assert not unpacked.patch_positions[~unpacked.patch_valid].any()
    assert not unpacked.token_positions[~unpacked.token_valid].any()
    assert not unpacked.token_ids[~unpacked.token_valid].any()
    widths = (unpacked.patch_valid.shape[1], unpacked.token_valid.shape[1])
    assert widths == tuple(max(counts, default=0) for counts in zip(*map(_counts, several), strict=True)) or not several
    sizes = [record.canvas_size for record in several]
    assert unpacked.canvas_pixels() == sum(height * width for height, width in sizes)


def _counts(record: Record) -> tuple[int, int]:
    return record.num_kept, len(record.token_ids)


def _cut_in_the_masks(batch: Batch) -> None:
    batch.bodies[1] = batch.bodies[1][:2]


def _cut_in_the_text(batch: Batch) -> None:
    batch.bodies[1] = batch.bodies[1][:4]


def _cut_in_the_extras(batch: Batch) -> None:
    batch.headers["flags"][1] |= FLAG_EXTRAS
    batch.bodies[1] = memoryview(bytes(batch.bodies[1][:7]) + b"\xff\xff\xff\x7f{}")


def _newer_flags(batch: Batch) -> None:
    batch.headers["flags"][1] |= 0x80


def _bits_past_the_mask(batch: Batch) -> None:
    body = bytearray(batch.bodies[1])
    body[0] |= 1
    batch.bodies[1] = memoryview(bytes(body))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut_in_the_masks, "record 1: a body of 2 bytes is cut short"),
        (_cut_in_the_text, "record 1: a body of 4 bytes is cut short"),
        (_cut_in_the_extras, "record 1: a body of 13 bytes is cut short"),
        (_newer_flags, "record 1: record flags 0x84 were written by a newer version"),
        (_bits_past_the_mask, "record 1: the bitmask has bits set past its 6 cells"),
    ],
)
def test_a_batch_that_was_not_checked_is_refused(damage: Callable[[Batch], None], said: str) -> None:
    record = simple()
    found = read_batch(encode_batch([record, record, record]))
    batch = replace(found, headers=found.headers.copy(), bodies=list(found.bodies))
    assert unpack_batch(batch).token_ids.tolist() == [record.token_ids.tolist()] * 3
    damage(batch)
    with pytest.raises(FormatError, match=said) as caught:
        unpack_batch(batch)
    assert caught.value.details["index"] == 1
