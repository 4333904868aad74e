"""Models that see pictures alone: what a learner reads of them is what their own libraries give, and parts of pictures
are seen as if the rest were not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.utils.attention_extract import AttentionExtract
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from learner.data.base import DataError
from learner.model import ssf
from learner.model.attention_masks import AttentionRead, MaskConfig, compute_masks
from learner.model.backbones.choose import backbone_facts, make_backbone
from learner.model.backbones.modules import TextEmbeddings
from learner.model.backbones.of_timm import TimmPictures
from learner.model.backbones.of_transformers import TransformersPictures, make_vision
from learner.model.backbones.pictures import FLAT, PictureBackbone, _of_patches
from learner.model.classifier import Classifier
from learner.model.settings import BackboneConfig
from learner.model.tokens import Tokens, concatenate
from tests.learner.builders import PATCH_PX, make_split, make_tokens, make_vilt_shape
from tests.learner.own_model import OwnModel

SIDE = 3 * PATCH_PX
HALF = (0.5, 0.5, 0.5)


def of_timm(**options: Any) -> TimmPictures:
    kinds: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH_PX, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return TimmPictures(VisionTransformer(**kinds, num_classes=0, dynamic_img_size=True, **options))


def of_eva() -> TimmPictures:
    """Rotary positions, which go with the patches that are kept."""
    shape: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH_PX, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return TimmPictures(Eva(**shape, num_classes=0, dynamic_img_size=True, use_rot_pos_emb=True, use_abs_pos_emb=False))


_VISION: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": PATCH_PX,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def clip() -> TransformersPictures:
    return TransformersPictures(CLIPVisionModel(CLIPVisionConfig(**_VISION)), HALF, HALF)


def siglip(**options: Any) -> TransformersPictures:
    return TransformersPictures(SiglipVisionModel(SiglipVisionConfig(**_VISION, **options)), HALF, HALF)


MODELS: dict[str, Any] = {
    "timm": of_timm,
    "timm's pooling by attention": lambda: of_timm(
        class_token=False, global_pool="map", pool_include_prefix=True, reg_tokens=1
    ),
    "timm's registers and mean": lambda: of_timm(class_token=False, reg_tokens=2, global_pool="avg"),
    "timm's eva": of_eva,
    "CLIP": clip,
    "SigLIP": siglip,
    "SigLIP without a pooling": lambda: siglip(vision_use_head=False),
    "one's own": lambda: OwnModel(PATCH_PX),
}


def backbone_of(name: str) -> PictureBackbone:
    torch.manual_seed(0)
    model: Any = MODELS[name]()
    for parameter in model.parameters():  # libraries begin with weights so small that all tokens are alike
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    words = TextEmbeddings(make_vilt_shape())
    return PictureBackbone(model, name, words, PATCH_PX).eval()


def whole_pixels(tokens: Tokens) -> Tensor:
    """Of whole pictures of 3 x 3 patches, normalised by halves."""
    rows = tokens.patches.float().reshape(len(tokens), 3, 3, PATCH_PX, PATCH_PX, 3).permute(0, 5, 1, 3, 2, 4)
    return (rows.reshape(len(tokens), 3, SIDE, SIDE) / 255 - 0.5) / 0.5


def timms_own(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """What timm's own tool gives of each block, once it is told to do without fused kernels."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    names = [f"blocks.{place}.attn.attn_drop" for place in range(len(model.blocks))]
    found: dict[str, Tensor] = AttentionExtract(model, names=names, method="hook")(pixels)
    return found


@pytest.mark.parametrize("last_layers", [1, 2])
@pytest.mark.parametrize(
    ("name", "prefix", "own_row"), [("timm", 1, True), ("timm's registers and mean", 2, False), ("timm's eva", 1, True)]
)
def test_timms_attention_is_what_timms_own_tool_gives(name: str, prefix: int, own_row: bool, last_layers: int) -> None:
    backbone, tokens = backbone_of(name), make_tokens()
    with torch.no_grad():
        features, read = backbone.read(tokens, last_layers=last_layers, text=False)
        pixels = (whole_pixels(tokens) * 0.5 + 0.5 - backbone.model.mean) / backbone.model.std
        backbone.model.model.patch_drop.keep = None
        own = list(timms_own(backbone.model.model, pixels).values())[-last_layers:]
        pooled = backbone.model.model.forward_head(backbone.model.model.forward_features(pixels), pre_logits=True)
    matrix = torch.stack(own).mean(0)[..., prefix:]
    expected = matrix[:, :, 0] if own_row else matrix[:, :, prefix:].mean(2)
    assert torch.allclose(read.class_to_image, expected, atol=1e-5)
    assert torch.allclose(features[:, :32], pooled, atol=1e-5)
    assert_masks_are_those_of(expected, read, tokens)


def test_timms_pooling_looks_where_its_answer_comes_from() -> None:
    backbone, tokens = backbone_of("timm's pooling by attention"), make_tokens()
    pool = backbone.model.model.attn_pool
    with torch.no_grad():
        _, read = backbone.read(tokens, text=False)
        entered: list[Tensor] = []
        handle = pool.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        proj = pool.proj.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        backbone(tokens)
        handle.remove()
        proj.remove()
        values = pool.kv(entered[0]).unflatten(-1, (2, 4, 8))[:, :, 1].transpose(1, 2)
        # The register's share, which masks do not ask for, is what is missing from one.
        weights = torch.cat([1 - read.class_to_image.sum(-1, keepdim=True), read.class_to_image], dim=-1)
    answer = (weights[:, :, None] @ values)[:, :, 0].flatten(1)
    assert torch.allclose(answer, entered[1][:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "last_layers"), [("CLIP", 1), ("CLIP", 2), ("SigLIP", 1), ("SigLIP without a pooling", 2)]
)
def test_attention_of_transformers_models_is_their_own(name: str, last_layers: int) -> None:
    backbone, tokens = backbone_of(name), make_tokens()
    model = backbone.model.model
    with torch.no_grad():
        features, read = backbone.read(tokens, last_layers=last_layers, text=False)
        assert model.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        out = model(whole_pixels(tokens), output_attentions=True)
        if name == "SigLIP":
            probe, states = model.head.probe.repeat(4, 1, 1), out.last_hidden_state
            expected = model.head.attention(probe, states, states, average_attn_weights=False)[1][:, :, 0]
        else:
            matrix = torch.stack(out.attentions[-last_layers:]).mean(0)
            expected = matrix[:, :, 0, 1:] if name == "CLIP" else matrix.mean(2)
    pooled = out.last_hidden_state.mean(1) if out.pooler_output is None else out.pooler_output
    assert torch.allclose(read.class_to_image, expected, atol=1e-5)
    assert torch.allclose(features[:, :32], pooled, atol=1e-5)
    assert_masks_are_those_of(expected, read, tokens)


def assert_masks_are_those_of(expected: Tensor, read: AttentionRead, tokens: Tokens) -> None:
    for config in (MaskConfig(text=False, drop_sinks=False), MaskConfig(text=False, heads="mean", drop_sinks=False)):
        scores = expected.amax(1) if config.heads == "max" else expected.mean(1)
        masks = compute_masks(read, tokens, config)
        assert torch.equal(masks.keep_patches, scores > scores.mean(1, keepdim=True))
        assert masks.keep_patches.any(1).all()


@pytest.mark.parametrize("name", list(MODELS))
def test_a_part_of_a_picture_is_seen_as_if_the_rest_were_not_there(name: str) -> None:
    """Whatever the other places show, alone or in a batch of other shapes."""
    backbone, tokens = backbone_of(name), make_tokens()
    keep = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    keep[:, 4] = True
    part = tokens.keep_patches(keep)
    others = concatenate([part, make_tokens(num=2, grid=(2, 4), seed=3), tokens])
    with torch.no_grad():
        features = backbone(part)
        assert torch.allclose(backbone(others)[:4], features, atol=1e-5)
        assert torch.allclose(torch.cat([backbone(part[i : i + 1]) for i in range(4)]), features, atol=1e-5)
        assert not torch.allclose(backbone(tokens), features, atol=1e-3)
        read, alone = backbone.read(others, text=False)[1], backbone.read(part, text=False)[1]
    most = part.patches.shape[1]
    there = part.patch_valid[:, None].expand_as(alone.class_to_image)
    assert torch.allclose(read.class_to_image[:4, :, :most][there], alone.class_to_image[there], atol=1e-5)
    assert torch.allclose(read.patch_norms[:4, :most][part.patch_valid], alone.patch_norms[part.patch_valid], atol=1e-4)


def test_what_is_left_out_of_a_class_tokens_model_is_what_timms_mask_hides() -> None:
    backbone, tokens = backbone_of("timm"), make_tokens()
    keep = torch.zeros(4, 9, dtype=torch.bool)
    keep[:, [1, 5, 6]] = True
    visible = torch.cat([torch.ones(4, 1, dtype=torch.bool), keep], dim=1)[:, None, None].expand(-1, 1, 10, -1)
    with torch.no_grad():
        features = backbone(tokens.keep_patches(keep))[:, :32]
        pixels = (whole_pixels(tokens) * 0.5 + 0.5 - backbone.model.mean) / backbone.model.std
        backbone.model.model.patch_drop.keep = None
        expected = backbone.model.model(pixels, attn_mask=visible)
    assert torch.allclose(features, expected, atol=1e-5)


def test_a_sample_without_a_picture_shows_a_grey_one_and_its_words() -> None:
    backbone, tokens = backbone_of("SigLIP"), make_tokens()
    blind = tokens.keep_patches(torch.zeros_like(tokens.patch_valid))
    with torch.no_grad():
        features = backbone(blind)
        grey = torch.full((1, 3, SIDE, SIDE), FLAT)
        expected = backbone.model(grey, torch.ones(1, 3, 3, dtype=torch.bool), 0).features
    assert torch.allclose(features[:, :32], expected.expand(4, -1), atol=1e-5)
    assert (features[:, 32:].norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", list(MODELS))
def test_ssf_tunes_it_and_changes_nothing_at_first(name: str) -> None:
    """Of maps that are never called but computed with, too."""
    plain, backbone = backbone_of(name), backbone_of(name)
    model, new = Classifier(backbone, torch.device("cpu"), bf16="off"), make_split([0, 1], 4)
    model.tune_by_ssf()
    assert torch.allclose(model.features(new.tokens), torch.cat([plain(new.tokens)]).detach(), atol=1e-5)
    model.train()
    backbone(new.tokens).square().sum().backward()
    tuned = list(ssf.scale_shift_parameters(backbone))
    assert tuned
    assert sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in tuned) > 0.7 * len(tuned)
    last = backbone_of(name)
    assert (
        Classifier(last, torch.device("cpu"), bf16="on").tune_by_ssf(1) < sum(p.numel() for p in tuned)
        or name == "one's own"
    )
    with pytest.raises(DataError, match=r"train\.ssf_layers is 9, and .* names [13] layers"):
        backbone.ssf_pattern(9)


def test_attention_may_come_in_three_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    keep = torch.tensor([[[True, False, True], [False, True, True]]])
    matrix = torch.rand((1, 2, 6, 6), generator=generator)
    assert torch.equal(_of_patches(matrix, keep), matrix[:, :, 0, 2:])  # a class token and a register
    assert torch.equal(_of_patches(matrix[:, :, :4, :4], keep), matrix[:, :, :4, :4].mean(2))
    rows, places = torch.rand((1, 2, 4), generator=generator), torch.rand((1, 2, 3), generator=generator)
    assert torch.equal(_of_patches(rows, keep), rows)
    assert torch.equal(_of_patches(places, keep), places[keep].reshape(1, 1, 4))


def own(function: str, **changes: Any) -> BackboneConfig:
    return BackboneConfig(kind="callable", name=f"tests.learner.own_model:{function}", **{"patch_px": 8} | changes)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "other_patches",
            r"backbone\.patch_px is 8, and .*other_patches has patches of 10 px: set backbone\.patch_px=10",
        ),
        ("no_module", r"must give a torch\.nn\.Module, so that it can be trained; it gave str"),
        ("short_features", r"features of .* came as \(2, 7\): \(2, 16\) is right"),
        (
            "long_attention",
            r"attention of .* \(2, 2, 11, 5\): \(2, H, N, N\) with N of 9 or more, \(2, H, 9\) or \(2, 3, 3\)",
        ),
        ("whole_numbers", r"attention of .* must be a tensor of floats, and came as torch\.int64"),
        ("few_patches", r"patches of .* came as \(2, 3, 16\): \(2, 9, D\) is right"),
        ("no_attention", "gave no attention, though that of the last layer was asked for"),
        ("a_dictionary", r"must return a learner\.model\.backbones\.pictures\.Seen, and returned a dict"),
        ("nowhere", "cannot be imported .*PYTHONPATH has to hold the folder of tests"),
        ("of_any_depth", "must take image_size and patch_px, and nothing else .missing a required argument: 'depth'"),
        ("SIDE", "is no function but a int"),
    ],
)
def test_a_model_of_ones_own_that_is_wrong_is_refused_in_words(function: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make_backbone(own(function), SIDE, 0, None)


def test_models_that_cannot_be_had_are_refused_in_words(tmp_path: Any) -> None:
    for config, words in (
        (BackboneConfig(kind="callable", name="no_colon"), r"package\.module:function, got 'no_colon'"),
        (BackboneConfig(kind="timm", name="vit_of_nowhere"), r"backbone\.name: .*vit_of_nowhere"),
        (BackboneConfig(kind="timm", name="resnet10t"), "resnet10t of timm is no ViT"),
        (BackboneConfig(kind="timm", name="beit_base_patch16_224"), "beit_base_patch16_224 of timm is"),
    ):
        with pytest.raises(DataError, match=words):
            backbone_facts(config)
    missing = BackboneConfig(kind="timm", name="test_vit", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(
        DataError, match=r"the weights of .test_vit. cannot be read.*backbone\.weights to a file or to random"
    ):
        make_backbone(missing, 32, 0, None)


def test_timms_weights_are_drawn_by_the_seed_or_come_from_a_file_whole(tmp_path: Any) -> None:
    chosen = BackboneConfig(kind="timm", name="test_vit", weights="random")
    first, again, other = (make_backbone(chosen, 32, seed, None) for seed in (0, 0, 1))
    tokens = _sixteen(make_tokens(vocab=30_000))
    with torch.no_grad():
        assert torch.equal(first(tokens), again(tokens))
        assert not torch.allclose(first(tokens)[:, :64], other(tokens)[:, :64])
    assert isinstance(first, PictureBackbone)
    state = first.model.model.state_dict()
    torch.save(state, tmp_path / "own.pth")
    of_file = make_backbone(
        BackboneConfig(kind="timm", name="test_vit", weights=str(tmp_path / "own.pth")), 32, 5, None
    )
    with torch.no_grad():
        assert torch.equal(of_file(tokens), first(tokens))
    del state["blocks.3.attn.qkv.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(DataError, match=r"blocks\.3\.attn\.qkv\.weight"):
        make_backbone(BackboneConfig(kind="timm", name="test_vit", weights=str(tmp_path / "part.pth")), 32, 0, None)


def _sixteen(tokens: Tokens) -> Tokens:
    """The same with patches of 16 px."""
    large = tokens.patches.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return Tokens(**{**vars(tokens), "patches": large})


def test_a_checkpoint_in_half_precision_is_held_in_full(tmp_path: Path) -> None:
    CLIPVisionModel(CLIPVisionConfig(**_VISION)).half().save_pretrained(tmp_path)
    found = make_vision(str(tmp_path), "clip_vision_model")
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
