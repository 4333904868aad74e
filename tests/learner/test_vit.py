"""Attention of timm's ViTs: what it is compared with their own arithmetic, and what it says where there is none."""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers.attention import Attention
from torch import Tensor

from client import record_from_image
from learner.model.vit import pretrained_vit, vit_attention
from memory_format import FormatError


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **options)


def pictures(number: int, height: int = 48, width: int = 64) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(number)]


def last_matrix(model: Any, pixels: Tensor) -> Tensor:
    """``(B, H, N, N)`` of a plain ``VisionTransformer``'s last block, from its weights."""
    seen: list[Tensor] = []
    attention = model.blocks[-1].attn
    handle = attention.qkv.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        model.eval().forward_features(pixels)
    handle.remove()
    (qkv,) = seen
    query, key, _ = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights: Tensor = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return weights


@pytest.mark.parametrize(
    ("name", "prefix", "row", "size"),
    [
        ("vit_tiny_patch16_224", 1, 0, 64),
        ("deit_tiny_distilled_patch16_224", 2, 0, 64),
        ("vit_small_patch14_reg4_dinov2", 5, 0, 56),
        ("vit_medium_patch16_reg4_gap_256", 4, None, 64),
    ],
)
@pytest.mark.parametrize("heads", ["mean", "max"])
def test_it_is_the_class_tokens_row_of_the_last_block(
    name: str, prefix: int, row: int | None, size: int, heads: Any
) -> None:
    model = make(name, img_size=size, depth=2)
    pixels = torch.randn(3, 3, size, size)
    matrix = last_matrix(model, pixels)[..., prefix:]
    rows = matrix[:, :, prefix:].mean(2) if row is None else matrix[:, :, row]
    expected = rows.mean(1) if heads == "mean" else rows.amax(1)
    found = vit_attention(model, pixels, heads=heads, batch_size=2)
    assert found.shape == (3, 4, 4)
    assert torch.allclose(found.flatten(1), expected, atol=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("name", "options", "grid"),
    [
        ("eva02_tiny_patch14_224", {}, (16, 16)),  # rotary positions
        ("vit_small_patch16_dinov3", {"img_size": 64}, (4, 4)),
        ("beit_base_patch16_224", {"depth": 1}, (14, 14)),  # relative ones
        ("vit_base_patch16_siglip_224", {"depth": 1}, (14, 14)),  # pools by attention
        ("vit_base_patch32_clip_224", {"depth": 1}, (7, 7)),
        ("vit_tiny_r_s16_p8_224", {}, (7, 7)),  # behind a ResNet
        ("vitamin_small_224", {}, (14, 14)),  # behind convolutions
    ],
)
def test_vits_of_all_kinds_are_read(name: str, options: dict[str, Any], grid: tuple[int, int]) -> None:
    found = vit_attention(make(name, **options), pictures(1))
    assert found.shape == (1, *grid)
    assert 0.5 < float(found.sum()) <= 1 + 1e-5
    assert float(found.std()) > 0


def test_pictures_are_seen_as_the_model_was_trained_to_see_them() -> None:
    model = make("vit_tiny_patch16_224", img_size=64, depth=1)
    image = pictures(1)[0]
    resized = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))
    # timm says 0.5 for this model's mean and deviation.
    pixels = (torch.from_numpy(resized.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    expected = vit_attention(model, pixels)
    for given in (image, Image.fromarray(image)):
        assert torch.allclose(vit_attention(model, [given]), expected, atol=1e-6)


def test_other_sizes_are_read_where_the_model_takes_them() -> None:
    model = make("vit_tiny_patch16_224", depth=1, dynamic_img_size=True)
    assert vit_attention(model, torch.randn(1, 3, 32, 80)).shape == (1, 2, 5)


def test_the_model_is_as_it_was() -> None:
    model = make("vit_tiny_patch16_224", img_size=32, depth=2, proj_drop_rate=0.5, attn_drop_rate=0.5)
    model.train()
    model.blocks[0].eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(vit_attention(model, pixels), vit_attention(model, pixels))
    assert model.training
    assert model.blocks[1].attn.training
    assert not model.blocks[0].attn.training
    assert model.blocks[-1].attn.fused_attn
    assert not model.blocks[-1].attn.attn_drop._forward_pre_hooks
    with pytest.raises(AssertionError):  # the model's own, of a size that it does not take
        vit_attention(model, torch.randn(1, 3, 48, 48))
    assert model.training
    assert model.blocks[-1].attn.fused_attn
    assert not model.blocks[-1].attn.attn_drop._forward_pre_hooks


class AlwaysFused(Attention):
    """Forms no matrix, whatever its flag says."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        return out


def test_a_hook_that_does_not_fire_is_an_error() -> None:
    model = make("vit_tiny_patch16_224", img_size=32, depth=2)
    model.blocks[-1].attn = AlwaysFused(192, num_heads=3)
    with pytest.raises(RuntimeError, match="formed no attention matrix: the hook on its attn_drop did not fire"):
        vit_attention(model, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224"])
def test_models_that_have_no_such_attention_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="vit_attention reads ViTs of timm"):
        vit_attention(make(name), pictures(1))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "there is no picture"),
        ("cat.jpg", "images must be a list of pictures"),
        (Image.new("RGB", (8, 8)), "images must be a list of pictures"),
        (torch.zeros(3, 32, 32), r"\(B, 3, H, W\) floats, got \(3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"floats, got \(1, 3, 32, 32\) torch.uint8"),
    ],
)
def test_what_are_no_pictures_is_refused_in_words(images: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vit_attention(make("vit_tiny_patch16_224", img_size=32, depth=1), images)
    with pytest.raises(FormatError, match="there is no such file"):
        vit_attention(make("vit_tiny_patch16_224", img_size=32, depth=1), ["nowhere.jpg"])


def test_the_pretrained_one_looks_at_the_cup() -> None:
    from skimage import data

    (attention,) = vit_attention(pretrained_vit(), [data.coffee()])
    assert attention.shape == (14, 14)
    cup = attention[1:7, 4:9]
    table = torch.cat([attention[:, :2].flatten(), attention[:, -2:].flatten()])
    assert cup.mean() > 3 * table.mean()
    with pytest.raises(ValueError, match="a picture of 100 px does not divide into patches of 16 px"):
        pretrained_vit(image_size=100)


def test_it_goes_straight_into_a_record() -> None:
    model = make("vit_tiny_patch16_224", img_size=64, depth=1)
    (image,) = pictures(1)
    (attention,) = vit_attention(model, [image])
    record = record_from_image(image, class_id=0, attention=attention, keep=0.25)
    assert record.grid == (4, 4)
    assert set(record.keep_indices.tolist()) == set(attention.flatten().topk(4).indices.tolist())


@pytest.mark.parametrize("missing", ["torch", "timm"])
def test_a_missing_library_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "learner.model.vit")
    monkeypatch.setattr(builtins, "__import__", without)
    words = rf"learner\.model\.vit needs {missing}.*pip install -e '\.\[learner\]'"
    with pytest.raises(ModuleNotFoundError, match=words):
        importlib.import_module("learner.model.vit")
