"""A packed batch is the padded one without its padding: the same answers, the same gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.model import ssf
from learner.model.backbones.block import Additions, Prefix
from learner.model.backbones.packing import SIMILAR, WORTH, packing
from learner.model.backbones.vilt import ViltBackbone, small_vilt
from learner.model.tokens import Tokens, concatenate
from tests.learner.builders import PATCH_PX, make_tokens


@pytest.fixture(params=[0, WORTH], ids=["many buckets", "one"], autouse=True)
def worth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What another bucket has to save: no batch as small as these is worth two as it is."""
    number: int = request.param
    monkeypatch.setattr("learner.model.backbones.packing.WORTH", number)
    return number


class Padded(ViltBackbone):
    """The same model as a GPU has it."""

    dense = False


def _backbone() -> ViltBackbone:
    backbone = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=32, num_layers=3, num_heads=2, vocab_size=200
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return backbone.eval()


def _tokens() -> Tokens:
    """Whole pictures, exemplars of a few patches, one without any picture, in no order of length."""
    whole, few = make_tokens(num=3, text=9), make_tokens(num=3, text=4, seed=5)
    few = few.keep_patches(torch.tensor([[1, 0, 0, 1, 0, 0, 0, 0, 1], [0, 1] + 7 * [0], 9 * [0]]).bool())
    return concatenate([few[:1], whole[:2], few[1:], whole[2:]])


def _padded(backbone: ViltBackbone) -> ViltBackbone:
    padded = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=32, num_layers=3, num_heads=2, vocab_size=200
    )
    padded.load_state_dict(backbone.state_dict())
    padded.__class__ = Padded
    return padded.eval()


@pytest.mark.parametrize("class_token", ["text", "image"])
@pytest.mark.parametrize("tuned", ["everything", "ssf"])
def test_features_and_gradients_are_those_of_the_padded_batch(class_token: str, tuned: str) -> None:
    packed, padded, tokens = _backbone(), _padded(_backbone()), _tokens()
    answers = []
    for backbone in (packed, padded):
        backbone.class_token = class_token  # type: ignore[assignment]
        if tuned == "ssf":
            ssf.inject(backbone)
        features = backbone(tokens)
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        answers.append((features, {name: value.grad for name, value in backbone.named_parameters()}))
    assert torch.allclose(answers[0][0], answers[1][0], atol=1e-5)
    for name, gradient in answers[0][1].items():
        other = answers[1][1][name]
        assert (gradient is None) == (other is None), name
        if gradient is not None and other is not None:
            assert torch.allclose(gradient, other, atol=1e-4 * float(other.abs().max().clamp(min=1))), name


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_added_is_given_to_the_sample_that_it_is_for(shared: bool) -> None:
    """Prompts, and a prefix of each sample's own: packing puts samples into another order."""
    packed, padded, tokens = _backbone(), _padded(_backbone()), _tokens()
    generator = torch.Generator().manual_seed(1)
    number = 1 if shared else len(tokens)
    prefix = Prefix(*(torch.randn(number, 3, 32, generator=generator) for _ in range(2)))
    additions = Additions(prompts=torch.randn(len(tokens), 2, 32, generator=generator), prefixes={1: prefix, 2: prefix})
    assert torch.allclose(packed(tokens, additions), padded(tokens, additions), atol=1e-5)
    assert torch.allclose(packed.prompted(tokens, additions), padded.prompted(tokens, additions), atol=1e-5)
    valid = torch.cat([tokens.token_valid, torch.ones(len(tokens), 1).bool(), tokens.patch_valid], 1)
    hidden, expected = (backbone.hidden(tokens, additions)[:, 2:][valid] for backbone in (packed, padded))
    assert torch.allclose(hidden, expected, atol=1e-5)


def test_attention_is_read_as_from_the_padded_batch() -> None:
    packed, padded, tokens = _backbone(), _padded(_backbone()), _tokens()
    (features, read), (expected, other) = (backbone.read(tokens, last_layers=2) for backbone in (packed, padded))
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(read.class_to_image, other.class_to_image, atol=1e-5)
    there = tokens.patch_valid
    assert torch.allclose(read.patch_norms[there], other.patch_norms[there], atol=1e-4)
    assert read.image_to_text is not None
    assert other.image_to_text is not None
    rows = there[:, None, :, None].expand(read.image_to_text.shape)
    assert torch.allclose(read.image_to_text[rows], other.image_to_text[rows], atol=1e-5)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 999))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_valid_place_is_one_row_and_samples_of_a_bucket_are_of_similar_length_where_it_matters(
    worth: int, lengths: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.zeros(len(lengths), 12, dtype=torch.bool)
    for sample, length in enumerate(lengths):
        valid[sample, torch.randperm(11, generator=generator)[: length - 1] + 1] = True
        valid[sample, 0] = True
    of = packing(valid, dense=True)
    values = torch.rand(len(lengths), 12, 4, generator=generator) * valid[:, :, None]
    rows = of.pack(values)
    assert len(rows) == int(valid.sum()) == sum(of.num_rows)
    assert torch.equal(of.unpack(rows), values)
    assert torch.equal(of.in_batch(rows[of.rows_at(slice(0, 1))]), values[:, :1])
    for bucket, part in zip(of.buckets, rows.split(of.num_rows), strict=True):
        own = valid[bucket.samples].sum(1)
        short = own[own < SIMILAR * bucket.length]
        assert not len(short) or (bucket.length**2 - short**2).sum() < worth
        padded = bucket.padded(part, 2)
        assert padded.shape == (2, len(bucket.samples), bucket.length, 2)
        assert torch.equal(bucket.packed(padded), part)
        assert torch.equal((bucket.mask == 0).sum(1), valid[bucket.samples].sum(1))
    assert sorted(torch.cat([bucket.samples for bucket in of.buckets]).tolist()) == list(range(len(lengths)))
