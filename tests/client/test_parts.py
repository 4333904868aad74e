"""Records of several pictures and texts on their way through the service and into batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, default_collate

from client import Buffer, ExemplarCache, ReplayBatch, picture_part, text_part
from client.buffer_dataset import BufferDataset
from client.dataset import ReplayDataset
from client.pictures import pictures_of
from memory_format import FormatError, Picture, RawZstd, Record, Text, make_record_of_parts
from tests.client.samples import make
from tests.memory_format.test_parts import assert_same_parts, dialogue, picture


def two_pictures(number: int) -> tuple[Record, list[Picture | Text]]:
    parts: list[Picture | Text] = [
        Text("user", np.array([151_900 + number, 4]), np.array([0, 2]), 3),
        picture(number, kept=2 + number % 3, patch_px=8),
        Text("narrator", np.array([9])),
        picture(number + 100, kept=5, grid=(2, 4), patch_px=8),
        Text("assistant", np.array([11, 12, number])),
    ]
    return make_record_of_parts(parts, class_id=number % 2, codec=RawZstd()), parts


def test_a_batch_says_which_picture_and_which_text() -> None:
    made = [two_pictures(0), two_pictures(1)]
    batch = ReplayBatch.from_records([made[0][0], make(3), made[1][0]])
    parts = batch.in_parts
    assert batch.has_parts
    assert parts.num_pictures.tolist() == [2, 1, 2]
    assert parts.picture_grid.tolist() == [[[3, 4], [2, 4]], [batch.grid[1].tolist(), [0, 0]], [[3, 4], [2, 4]]]
    assert parts.picture_at.tolist() == [[3, 4], [0, 0], [3, 4]]
    assert parts.patch_picture[0, batch.patch_valid[0]].tolist() == [0] * 2 + [1] * 5
    assert parts.token_turn[0, batch.token_valid[0]].tolist() == [0, 0, 1, 2, 2, 2]
    assert parts.token_role[0, batch.token_valid[0]].tolist() == [2, 2, -1, 3, 3, 3]
    assert not parts.token_role[1].any()
    assert parts.roles == (("user", "narrator", "assistant"), (), ("user", "narrator", "assistant"))
    found = batch.parts()
    assert_same_parts(found[0], made[0][1])
    assert_same_parts(found[2], made[1][1])
    assert_same_parts(found[1], list(make(3).parts()))
    for image, record in zip(batch.images(), batch.records, strict=True):
        np.testing.assert_array_equal(image, record.image())
    with pytest.raises(ValueError, match="no pixels"):
        ReplayBatch.from_records([made[0][0]], pixels=False).parts()
    assert not ReplayBatch.from_records([make(3)]).has_parts


def test_the_service_counts_every_byte_and_the_loader_draws_it(buffer: Buffer) -> None:
    made = {number: two_pictures(number) for number in range(4)}
    records = [record for record, _ in made.values()]
    assert buffer.push(records).bytes_used == sum(record.charge for record in records)
    assert [replace(record, exemplar_id=0) for record in buffer.records()] == records
    info = next(buffer.query())
    assert (info.num_pictures, info.num_patches) == (2, 2 + 5)
    assert info.keep_ratio == 7 / 20
    detail = buffer.get(info.exemplar_id)
    assert [(part.kind, part.grid, part.num_patches, part.role, part.text_length) for part in detail.parts] == [
        ("text", None, 0, "user", 3),
        ("picture", (3, 4), 2, "", 0),
        ("text", None, 0, "narrator", 1),
        ("picture", (2, 4), 5, "", 0),
        ("text", None, 0, "assistant", 3),
    ]
    first, second = (buffer.image(1, picture=place) for place in (0, 1))
    assert first != second
    with pytest.raises(FormatError, match=r"has 2 pictures, 0\.\.1, and no 2"):
        buffer.image(1, picture=2)
    for cache_bytes in (0, 2**20):
        for step, batch in enumerate(ReplayDataset(buffer, 6, num_steps=2, cache_bytes=cache_bytes, repair_text=0.9)):
            drawn = buffer.sample(6, step=step, repair_text=0.9, cache=ExemplarCache(2**20) if cache_bytes else None)
            for row, exemplar_id in enumerate(batch["exemplar_id"].tolist()):
                assert_same_parts(drawn.parts()[row], made[exemplar_id - 1][1])
            for name in ("patch_picture", "picture_grid", "picture_at", "num_pictures", "token_turn", "token_role"):
                np.testing.assert_array_equal(batch[name].numpy(), getattr(drawn.in_parts, name))
            pixels, kept = pictures_of(batch)
            assert pixels.shape == (6, 3, 24, 32)
            assert kept.shape == (6, 24, 32)


def test_exemplars_come_one_by_one_and_in_batches(buffer: Buffer) -> None:
    buffer.push([two_pictures(0)[0], make(1), two_pictures(2)[0]])
    dataset = BufferDataset(buffer)
    one = dataset[0]
    assert one["patch_picture"].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert one["token_role"].tolist() == [2, 2, -1, 3, 3, 3]
    (batch,) = DataLoader(dataset, batch_size=3)
    assert batch["num_pictures"].tolist() == [2, 1, 2]
    apart = default_collate([dataset[place] for place in range(3)])
    assert apart.keys() == batch.keys()
    for name, values in batch.items():
        np.testing.assert_array_equal(apart[name], values, name)


def test_pictures_and_texts_are_made_as_records_of_one_picture_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)

    def tokenizer(text: str) -> Any:
        return {"input_ids": [len(text), 151_000]}

    shown = picture_part(image, attention=np.arange(6.0).reshape(2, 3), keep=0.5)
    said = text_part("user", "What is it?", tokenizer, keep_tokens=[False, True])
    record = make_record_of_parts([said, shown], class_id=1, codec=RawZstd())
    assert (record.keep_mask.tolist(), record.token_ids.tolist()) == ([[False] * 3, [True] * 3], [151_000])
    assert record.text_length == 2
    np.testing.assert_array_equal(record.image()[16:], image[16:])
    assert dialogue().num_pictures == 2
