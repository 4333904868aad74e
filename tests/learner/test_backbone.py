"""The backbone must be transformers' ViLT in all but how its tokens come in, and the attention read must be the one
that eager attention forms."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import ViltModel

from learner.model.backbones.packing import additive
from learner.model.backbones.vilt import VILT_MEAN_STD, ViltBackbone, pretrained_vilt, small_vilt, with_weights_of
from learner.model.tokens import Tokens, concatenate, special_tokens
from memory_format import patches_to_image
from tests.learner.builders import PATCH_PX, make_tokens, make_vilt_config


def _eager(seed: int = 0) -> ViltModel:
    torch.manual_seed(seed)
    model = ViltModel(make_vilt_config(num_layers=3), add_pooling_layer=False)
    model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _through_transformers(model: ViltModel, tokens: Tokens) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    pixels = torch.stack([torch.from_numpy(patches_to_image(patches, (3, 3))) for patches in tokens.patches.numpy()])
    mean, std = (torch.tensor(values) * 255 for values in VILT_MEAN_STD)
    output = model(
        input_ids=tokens.token_ids,
        attention_mask=tokens.token_valid.long(),
        pixel_values=((pixels - mean) / std).permute(0, 3, 1, 2),
        output_attentions=True,
    )
    return output.last_hidden_state, output.attentions


@pytest.mark.parametrize("class_token", ["text", "image"])
def test_features_and_attention_equal_those_of_transformers(class_token: str) -> None:
    model = _eager()
    tokens = make_tokens(text=6)
    torch.manual_seed(0)
    hidden, attentions = _through_transformers(model, tokens)
    backbone = with_weights_of(model, class_token=class_token).eval()  # type: ignore[arg-type]

    features, read = backbone.read(tokens)

    place = 0 if class_token == "text" else 6
    assert torch.allclose(features, hidden[:, place], atol=1e-5)
    assert torch.allclose(backbone(tokens), features, atol=1e-6)
    # transformers draws the order of the patches at random: it is the same for every row, so compare sorted.
    last = attentions[-1]
    expected = last[:, :, place, 7:].sort(-1).values
    assert torch.allclose(read.class_to_image.sort(-1).values, expected, atol=1e-6)
    assert read.image_to_text is not None
    assert torch.allclose(read.image_to_text.sum(2), last[:, :, 7:, :6].sum(2), atol=1e-5)


def _matrices(model: ViltModel, tokens: Tokens) -> list[torch.Tensor]:
    """Every layer's attention ``(B, H, N, N)`` as transformers' own eager encoder forms it."""
    eager = copy.deepcopy(model)
    hidden, valid = with_weights_of(model).eval()._embed(tokens)
    mask = additive(valid)[:, None, None]
    return list(eager.encoder(hidden, attention_mask=mask, output_attentions=True).attentions)


@pytest.mark.parametrize("class_token", ["text", "image"])
@pytest.mark.parametrize("last_layers", [1, 2])
def test_every_attention_read_equals_that_of_eager_attention(class_token: str, last_layers: int) -> None:
    model = _eager()
    tokens = make_tokens(text=6)
    matrices = _matrices(model, tokens)
    backbone = with_weights_of(model, class_token=class_token).eval()  # type: ignore[arg-type]
    features, read = backbone.read(tokens, last_layers=last_layers)
    expected = torch.stack(matrices[-last_layers:]).mean(0)
    place = 0 if class_token == "text" else 6
    assert torch.allclose(read.class_to_image, expected[:, :, place, 7:], atol=1e-6)
    assert read.image_to_text is not None
    assert torch.allclose(read.image_to_text, expected[:, :, 7:, :6], atol=1e-6)
    assert torch.allclose(backbone(tokens), features, atol=1e-6)

    # Without the text, the same class row and nothing else is read.
    class_only = backbone.read(tokens, last_layers=last_layers, text=False)[1]
    assert class_only.image_to_text is None
    assert torch.allclose(class_only.class_to_image, read.class_to_image, atol=1e-6)


def test_more_layers_than_there_are_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        with_weights_of(_eager()).read(make_tokens(), last_layers=4)


def test_padding_changes_nothing() -> None:
    backbone = small_vilt(image_size=24, patch_px=PATCH_PX, hidden_size=32, num_layers=2, num_heads=2, vocab_size=200)
    long, short = make_tokens(num=3, text=9), make_tokens(num=2, text=4, seed=5)
    short = short.keep_patches(torch.arange(9).expand(2, 9) % 3 == 0)
    together = backbone(concatenate([long, short]))
    assert torch.allclose(together[:3], backbone(long), atol=1e-5)
    assert torch.allclose(together[3:], backbone(short), atol=1e-5)


def test_dropped_tokens_keep_their_places() -> None:
    backbone = with_weights_of(_eager())
    tokens = make_tokens(num=2)
    keep = torch.tensor([[1, 0, 0, 1, 0, 0, 0, 0, 1]]).bool().expand(2, 9)
    kept = tokens.keep_patches(keep)
    assert kept.patch_positions.tolist() == [[0, 3, 8]] * 2
    moved = replace(kept, patch_positions=torch.tensor([[1, 3, 8]] * 2))
    assert (backbone(kept) - backbone(moved)).abs().max() > 1e-3


def test_other_grids_interpolate_positions_as_vilt_does() -> None:
    backbone = with_weights_of(_eager())
    tokens = make_tokens(num=2, grid=(2, 4))
    table = backbone._position_table(2, 4)
    square = backbone.embeddings.position_embeddings[:, 1:].transpose(1, 2).reshape(1, 32, 3, 3)
    expected = F.interpolate(square, size=(2, 4), mode="bilinear", align_corners=True)
    assert torch.allclose(table, expected.flatten(2)[0].T, atol=1e-6)
    mixed = concatenate([tokens, make_tokens(num=2)])
    assert torch.allclose(backbone(mixed)[:2], backbone(tokens), atol=1e-5)


def test_a_checkpoint_folder_loads(tmp_path: object) -> None:
    model = _eager()
    model.save_pretrained(str(tmp_path))
    tokens = make_tokens()
    assert torch.allclose(pretrained_vilt(str(tmp_path))(tokens), with_weights_of(model)(tokens), atol=1e-6)


def test_a_checkpoint_in_half_precision_is_computed_with_in_full(tmp_path: Path) -> None:
    model = _eager().half()
    model.save_pretrained(tmp_path)
    tokens = make_tokens()
    found = pretrained_vilt(str(tmp_path))(tokens)
    assert found.dtype == torch.float32
    assert torch.equal(found, with_weights_of(model.float())(tokens))


def test_a_checkpoint_of_another_kind_is_refused_with_words(tmp_path: Path) -> None:
    config = make_vilt_config(num_layers=1)
    config.hidden_act = "relu"
    ViltModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'relu': wanted are 3 and 'gelu'"):
        pretrained_vilt(str(tmp_path))


def test_a_missing_checkpoint_is_a_clear_error(tmp_path: object) -> None:
    with pytest.raises(OSError, match="nowhere"):
        pretrained_vilt(f"{tmp_path}/nowhere")


def _small() -> ViltBackbone:
    side = 3 * PATCH_PX
    return small_vilt(image_size=side, patch_px=PATCH_PX, hidden_size=64, num_heads=1, num_layers=2, vocab_size=200)


def test_a_projection_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    model = ViltModel(make_vilt_config(num_layers=2), add_pooling_layer=False).eval()
    plain, projected = with_weights_of(model), with_weights_of(model, project_text=True)
    tokens = make_tokens()
    assert torch.equal(projected(tokens), plain(tokens))
    assert torch.allclose(projected.hidden(tokens)[:, 0], plain(tokens), atol=1e-6)


def test_kept_words_stand_beside_the_class_token() -> None:
    plain = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=64, num_heads=1, num_layers=2, vocab_size=200
    ).eval()
    backbone = copy.deepcopy(plain)
    backbone.keep_words = True
    tokens = make_tokens(text=6)
    wordless = tokens.keep_tokens(special_tokens(tokens))

    features, (read_features, _) = backbone(tokens), backbone.read(tokens)

    assert features.shape == (4, backbone.feature_dim) == (4, 128)
    assert torch.allclose(read_features, features, atol=1e-6)
    assert torch.allclose(features[:, :64], plain(tokens), atol=1e-6)
    lengths = features.unflatten(1, (2, 64)).norm(dim=-1)
    assert torch.allclose(lengths[:, 1], lengths[:, 0], rtol=1e-4)
    assert torch.equal(backbone(wordless)[:, 64:], torch.zeros(4, 64))


def test_kept_words_are_the_mean_of_the_words_alone() -> None:
    backbone = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=64, num_heads=1, num_layers=2, vocab_size=200
    )
    backbone.keep_words = True
    tokens = make_tokens(num=1, text=5)  # [CLS], three words, [SEP]
    words = backbone.embeddings.text_embeddings(tokens.token_ids, tokens.token_positions)
    expected = words[0, 1:4].mean(0) + backbone.embeddings.token_type_embeddings.weight[0]

    kept = backbone(tokens)[0, 64:]

    assert torch.allclose(F.normalize(kept, dim=0), F.normalize(expected, dim=0), atol=1e-5)
    # What fills up a batch counts for nothing: alone or beside a longer text, a sample has one feature.
    longer = concatenate([tokens, make_tokens(num=1, text=9, seed=1)])
    assert torch.allclose(backbone(longer)[0], backbone(tokens)[0], atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here, and there is no g++")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the compiler's own doing
def test_compiled_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = _small().eval()
    compiled = copy.deepcopy(plain)
    compiled.compile_blocks()
    for text, grid in ((6, (3, 3)), (9, (2, 4))):
        tokens = make_tokens(text=text, grid=grid)
        with torch.no_grad():
            features, read = compiled.read(tokens)
            expected, expected_read = plain.read(tokens)
        assert torch.allclose(features, expected, atol=1e-4)
        assert torch.allclose(read.class_to_image, expected_read.class_to_image, atol=1e-5)
        (gradient,) = torch.autograd.grad(compiled(tokens).square().sum(), [compiled.embeddings.cls_token])
        (expected,) = torch.autograd.grad(plain(tokens).square().sum(), [plain.embeddings.cls_token])
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
