"""Records of several pictures and texts as one sequence each: in the order in which they were said and shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client import Buffer, ReplayBatch
from client.dataset import ReplayDataset
from client.sequences import Sequences, sequences_of
from client.tensors import to_tensors
from memory_format import Picture, RawZstd, Record, Text, make_record_of_parts
from memory_format.header import HEADER_BYTES
from tests.client.samples import make
from tests.memory_format.test_parts import picture

BIG = 151_999
"""The last word of a vocabulary of 152,000."""


def asked(number: int) -> tuple[Record, list[Picture | Text]]:
    """A dialogue with words before, between and behind two pictures, some of them dropped."""
    parts: list[Picture | Text] = [
        Text("system", np.array([5, BIG - number])),
        picture(number, kept=2 + number % 3, patch_px=8),
        Text("user", np.array([7, 8]), np.array([1, 3]), 4),
        picture(number + 50, kept=5, patch_px=8),
        Text("assistant", np.array([100_000 + number, BIG, 3])),
    ]
    return make_record_of_parts(parts, class_id=number % 2, codec=RawZstd()), parts


def as_said(parts: list[Picture | Text], first: int) -> list[tuple[str, int]]:
    """What stands in a sequence, from the parts themselves; ``first`` = number of the first picture in the batch."""
    found: list[tuple[str, int]] = []
    for part in parts:
        if isinstance(part, Text):
            found += [(part.role, int(word)) for word in part.token_ids]
        else:
            found += [("patch", first * part.keep_mask.size + int(place)) for place in np.flatnonzero(part.keep_mask)]
            first += 1
    return found


def stands(read: Sequences, row: int) -> list[tuple[str, int]]:
    roles = {0: "", 1: "system", 2: "user", 3: "assistant"}
    there = read.valid[row]
    rows = torch.stack([read.patch[row], read.token_role[row], read.token_ids[row]], dim=1)[there].tolist()
    return [("patch", patch) if patch >= 0 else (roles[role], word) for patch, role, word in rows]


def test_the_order_is_that_of_the_dialogue_and_no_dropped_patch_has_a_place() -> None:
    made = [asked(0), asked(1), asked(2)]
    batch = to_tensors(ReplayBatch.from_records([record for record, _ in made]))
    read = sequences_of(batch, fill=(1, 2, 3))
    assert [stands(read, row) for row in range(3)] == [as_said(made[row][1], 2 * row) for row in range(3)]
    assert read.valid.sum(1).tolist() == [14, 15, 16]
    assert read.valid.shape == (3, 16)
    assert not read.valid[0, 14:].any()
    assert read.position_ids[0].tolist() == list(range(16))
    assert read.pictures.shape == (6, 3, 24, 32)
    first = made[0][1][1]
    assert isinstance(first, Picture)
    cells = read.pictures[0].reshape(3, 3, 8, 4, 8).permute(1, 3, 2, 4, 0).flatten(0, 1)
    kept = torch.from_numpy(first.keep_mask).flatten()
    assert torch.equal(cells[kept], torch.from_numpy(first.patches.copy()))
    assert (cells[~kept] == torch.tensor([1, 2, 3])).all()


def test_features_stand_where_their_patches_do() -> None:
    batch = to_tensors(ReplayBatch.from_records([asked(0)[0], asked(1)[0]]))
    read = sequences_of(batch)
    patches = torch.arange(4 * 12.0).reshape(4, 12, 1)
    embedded = read.embedded(-read.token_ids[:, :, None].float(), patches)[:, :, 0]
    expected = torch.where(read.patch >= 0, read.patch, -read.token_ids).float()
    assert torch.equal(embedded, expected)
    with_class_token = torch.cat([patches[:, :1], patches], dim=1)
    for wrong in (patches[:3], patches[:, :5], with_class_token):
        with pytest.raises(ValueError, match="features of 4 pictures are wanted, one for each of their 12 places, got"):
            read.embedded(torch.zeros(2, read.valid.shape[1], 1), wrong)


def test_plain_records_have_the_picture_first() -> None:
    batch = ReplayBatch.from_records([make(1), make(1)])
    read = sequences_of(to_tensors(batch))
    for row in range(2):
        patches, words = int(batch.patch_valid[row].sum()), int(batch.token_valid[row].sum())
        assert (read.patch[row] >= 0).tolist()[: patches + words] == [True] * patches + [False] * words
        assert (
            read.token_ids[row, patches : patches + words].tolist()
            == batch.token_ids[row, batch.token_valid[row]].tolist()
        )


def test_pictures_of_different_sizes_are_refused() -> None:
    parts: list[Picture | Text] = [picture(0, kept=2, patch_px=8), picture(1, kept=2, grid=(2, 4), patch_px=8)]
    batch = to_tensors(ReplayBatch.from_records([make_record_of_parts(parts, class_id=0, codec=RawZstd())]))
    with pytest.raises(ValueError, match="grids of 2x4, 3x4: take them row by row"):
        sequences_of(batch)


def test_it_is_drawn_by_the_loader_and_every_byte_is_counted(buffer: Buffer) -> None:
    made = [asked(number) for number in range(5)]
    whole = [record for record, _ in made]
    assert all(record.charge == HEADER_BYTES + len(record.body) for record in whole)
    result = buffer.push(whole)
    assert result.bytes_used == sum(record.charge for record in whole) == buffer.info().bytes_used
    held = list(buffer.records())
    assert [bytes(record.body) for record in held] == [bytes(record.body) for record in whole]
    for batch in ReplayDataset(buffer, 4, num_steps=3, seed=1):
        read = sequences_of(batch)
        for row, exemplar_id in enumerate(batch["exemplar_id"].tolist()):
            assert stands(read, row) == as_said(made[exemplar_id - 1][1], 2 * row)
        assert int(read.token_ids.max()) == BIG
