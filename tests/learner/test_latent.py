"""Latent replay: states of a frozen block in the place of pixels, as arrays of a record that are charged as such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client import MemoryClient, ReplayBatch
from client.tensors import to_tensors
from learner.memory.exemplars import Stored, exemplar_features, record_of, to_replay
from learner.memory.latent import RANGES, STATES, states_of
from learner.model.backbones.choose import backbone_facts
from learner.model.backbones.vilt import ViltBackbone, small_vilt
from learner.model.classifier import Classifier
from learner.model.settings import BackboneConfig
from learner.run.methods import parse_method
from learner.run.run import Run
from learner.run.run_mark import buffer_name, mark_of
from learner.run.settings_check import check_method
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, make_tokens
from tests.learner.test_phases import CONFIG, PROBLEM

METHOD = "latent+last1"


@pytest.fixture
def model() -> Classifier:
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=3, num_heads=1)
    backbone.class_token = "image"
    model = Classifier(backbone, torch.device("cpu"), bf16="off")
    model.tune_by_ssf()
    model.tune_later(1)
    return model


def _backbone(model: Classifier) -> ViltBackbone:
    assert isinstance(model.backbone, ViltBackbone)
    return model.backbone


@pytest.mark.parametrize(("entry", "words"), [(3, True), (2, False), (0, False)])
def test_states_go_on_where_they_were_taken(model: Classifier, entry: int, words: bool) -> None:
    """Behind the last block nothing is left to see; before it, tuned blocks see no words."""
    _backbone(model).entry = entry
    tokens = make_tokens(num=5)
    if not words:
        tokens = tokens.keep_tokens(torch.zeros_like(tokens.token_valid))
    states = states_of(model, tokens, tokens.patch_valid)
    assert states.patches.shape == (5, 1 + 9, 1, 1, 64)
    torch.testing.assert_close(model.features(states), model.features(tokens), rtol=1e-4, atol=1e-5)


def test_a_record_holds_states_in_a_byte_each_and_is_charged_for_them(model: Classifier) -> None:
    tokens = make_tokens(num=4)
    keep = torch.zeros_like(tokens.patch_valid)
    keep[:, [1, 4, 8]] = True
    keep[2, [0, 2]] = True
    stored = Stored(tokens, keep, tokens.token_valid, states=states_of(model, tokens, keep))
    records = [record_of(stored, sample, class_id=0) for sample in range(4)]
    arrays = records[2].arrays()
    assert (arrays[STATES].dtype.name, arrays[STATES].shape) == ("uint8", (6, 64))
    assert len(records[2].extras) - len(records[1].extras) == 2 * (64 + 4)
    assert records[1].charge > len(records[1].extras)
    assert records[1].charge < 4 * (64 + 4) + 250
    assert records[2].keep_mask.ravel().tolist() == keep[2].tolist()
    replayed = to_replay(to_tensors(ReplayBatch.from_records(records)))
    assert not replayed.complete
    assert replayed.tokens.patch_valid.sum(1).tolist() == [4, 4, 6, 4]
    exact = stored.kept.patches[2, :, 0, 0]
    step = torch.from_numpy(arrays[RANGES][:, 1:].astype(np.float32))
    assert ((replayed.tokens.patches[2, :6, 0, 0] - exact).abs() <= step).all()
    close = exemplar_features(model, records)
    assert torch.nn.functional.cosine_similarity(close, model.features(stored.kept)).min() > 0.999


def test_a_run_stores_states_and_leaves_the_blocks_before_them_alone(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = replace(CONFIG, memory=replace(CONFIG.memory, budget_bytes=12_000))
    with MemoryClient(service.url) as client:
        run = Run(config, PROBLEM, client, out)
        metrics = run.run(parse_method(METHOD))
        records = list(client.buffer(buffer_name(mark_of(out), "", parse_method(METHOD).slug)).records())
    assert metrics[-1].exemplars == len(records) > 10
    assert sum(record.charge for record in records) == metrics[-1].bytes_used <= 12_000
    assert all(record.arrays()[STATES].shape == (1 + record.num_kept, 64) for record in records)
    base = run.base()[0]
    names = [name for name, parameter in base.backbone.named_parameters() if parameter.requires_grad]
    now = torch.load(out / parse_method(METHOD).slug / "checkpoint.pt", weights_only=True)["ssf"]
    before = [parameter for _, parameter in base.backbone.named_parameters() if parameter.requires_grad]
    moved = {name for name, a, b in zip(names, before, now, strict=True) if not torch.equal(a.detach(), b)}
    assert moved
    assert not any(name.startswith("encoder.layer.0.") for name in moved)
    assert any(name.startswith("encoder.layer.1.") for name in moved)
    # The classes are told by colour, and states keep it.
    assert metrics[-1].accuracy_old is not None
    assert metrics[-1].accuracy_old > 0.3


def test_what_cannot_store_states_is_refused(model: Classifier) -> None:
    with pytest.raises(ValueError, match="cannot tune the last 4 of 3 layers"):
        model.tune_later(4)
    pictures = replace(CONFIG, backbone=BackboneConfig(kind="callable", name="tests.learner.own_model:make"))
    with pytest.raises(ValueError, match=r"latent looks into the layers of a ViLT"):
        check_method(parse_method("latent"), pictures, backbone_facts(pictures.backbone))
    with pytest.raises(ValueError, match="later_layers is 6, but the first phase tunes 2 layers"):
        check_method(parse_method("latent"), CONFIG, backbone_facts(CONFIG.backbone))
    with pytest.raises(ValueError, match=r"needs train\.later_layers"):
        parse_method("latent+last0").configure(CONFIG)
    on_device = replace(CONFIG.train, decode_on_device=True)
    jpeg = replace(CONFIG, memory=replace(CONFIG.memory, codec={"id": "em_jpeg"}), train=on_device)
    with pytest.raises(ValueError, match="latent stores no pictures that could be decoded"):
        parse_method("latent").configure(jpeg)
