"""What knows more than a method may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client import MemoryClient
from learner.data.base import Split
from learner.model.backbones.choose import backbone_facts
from learner.model.tokenised import PictureSplit, TokenisedSplit
from learner.run.methods import parse_method
from learner.run.run import Run
from learner.run.settings_check import check_fit
from tests.conftest import Service
from tests.learner.test_methods import SHORT, _buffer
from tests.learner.test_phases import CONFIG, PROBLEM


def test_what_of_each_patch_the_object_covers_is_cut_as_the_picture_is() -> None:
    masks = np.zeros((2, 12, 12), dtype=np.bool_)
    masks[0, :4, 8:] = True  # the third patch of three times three
    masks[0, 4:6, :4] = True  # half of the fourth
    masks[1, 11, 11] = True
    split = Split(np.zeros((2, 12, 12, 3), np.uint8), ["a", "b"], np.zeros(2, np.int64), masks)
    pictures = PictureSplit(split, [np.array([1, 2])] * 2, patch_px=4)
    shares = pictures.load().object_shares
    assert shares is not None
    assert shares[0].tolist() == [0, 0, 1, 0.5, 0, 0, 0, 0, 0]
    assert shares[1].tolist() == [0] * 8 + [1 / 16]
    # Batches that are tested on pass by without.
    assert [batch.object_shares for batch in pictures.batches(1)] == [None, None]
    assert replace(pictures, split=replace(split, object_masks=None)).load().object_shares is None


def test_oracles_know_where_objects_are_and_what_is_tested(service: Service, tmp_path: Path) -> None:
    train = PROBLEM.train.load()
    shares = torch.rand(train.tokens.patch_valid.shape, generator=torch.Generator().manual_seed(0)) ** 2
    problem = replace(PROBLEM, train=replace(train, object_shares=shares))
    with MemoryClient(service.url) as client:
        last = Run(SHORT, problem, client, tmp_path / "object").run(parse_method("object"))[-1]
        held = list(client.buffer(_buffer(tmp_path / "object", "object")).records())
        covered = {keep.numpy().tobytes() for keep in shares > shares.mean(1, keepdim=True)}
        assert {record.keep_mask.tobytes() for record in held} <= covered
        assert last.keep_ratio == pytest.approx(float((shares > shares.mean(1, keepdim=True)).float().mean()), abs=0.05)
        with pytest.raises(ValueError, match="does not say where objects are"):
            Run(SHORT, PROBLEM, client, tmp_path / "unknown").run(parse_method("object"))
    config = parse_method("object").configure(replace(CONFIG, data=replace(CONFIG.data, name="food101")))
    with pytest.raises(ValueError, match="emoji alone says where objects are, not food101"):
        check_fit(config, backbone_facts(config.backbone))

    # Tests that look like one of the training samples: its like is kept first. One class is not tested.
    wanted = {class_id: int(np.flatnonzero(train.class_ids == class_id)[-1]) for class_id in range(5)}
    rows = torch.tensor(sorted(wanted.values()))
    tests = {"one": TokenisedSplit(train.tokens[rows], train.class_ids[rows])}
    with MemoryClient(service.url) as client:
        Run(SHORT, replace(PROBLEM, tests=tests), client, tmp_path / "tested").run(parse_method("full+herding-test"))
        records = list(client.buffer(_buffer(tmp_path / "tested", "full+herding-test")).records())
    assert {record.class_id for record in records} == set(range(6))
    for record in records:
        if record.rank == 0 and record.class_id in wanted:
            first = train.tokens.token_ids[wanted[record.class_id]]
            assert record.token_ids.tolist() == first[first > 0].tolist()
