"""What a frozen backbone is given beside its tokens enters where it should, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from learner.model.backbones.block import Additions, Prefix
from learner.model.backbones.vilt import ViltBackbone, small_vilt
from learner.model.tokens import Tokens
from tests.learner.builders import PATCH_PX, make_tokens

KEPT = torch.arange(9) < 5


def _backbone(num_layers: int = 3, class_token: str = "image") -> ViltBackbone:
    backbone = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=32, num_layers=num_layers, num_heads=2, vocab_size=200
    )
    backbone.class_token = class_token  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return backbone.requires_grad_(False).eval()


def _parts(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Samples without their last patches, and those patches without the rest."""
    return tokens.keep_patches(KEPT.expand(len(tokens), 9)), tokens.keep_patches(~KEPT.expand(len(tokens), 9))


def _embedded(backbone: ViltBackbone, tokens: Tokens) -> torch.Tensor:
    """The patches of samples as they enter the first layer."""
    hidden, _ = backbone._embed(tokens)
    return hidden[:, tokens.token_ids.shape[1] + 1 :]


@pytest.mark.parametrize("class_token", ["text", "image"])
def test_prompts_are_tokens_like_any_other(class_token: str) -> None:
    """Attention has no order: a sample's own patches, taken out and put back as prompts, change nothing."""
    backbone, tokens = _backbone(class_token=class_token), make_tokens(num=3)
    kept, dropped = _parts(tokens)
    additions = Additions(prompts=_embedded(backbone, dropped))
    assert additions.num_prompts == 4
    assert torch.allclose(backbone(kept, additions), backbone(tokens), atol=1e-5)
    assert (backbone(kept) - backbone(tokens)).abs().max() > 1e-2
    hidden, whole = backbone.hidden(kept, additions), backbone.hidden(tokens)
    assert torch.allclose(hidden[:, :4], whole[:, -4:], atol=1e-5)
    assert torch.allclose(hidden[:, 4:], whole[:, :-4], atol=1e-5)


@pytest.mark.parametrize("trains", [True, False])
def test_a_prefix_is_attended_to_like_tokens_of_the_layer(trains: bool) -> None:
    """In a single layer, what the class token sees of dropped patches is their keys and values, and nothing else."""
    backbone, tokens = _backbone(num_layers=1), make_tokens(num=3)
    layer = backbone.encoder.layer[0]
    attention = layer.attention.attention
    kept, dropped = _parts(tokens)
    normed = layer.layernorm_before(_embedded(backbone, dropped))
    prefix = Prefix(attention.key(normed), attention.value(normed))
    # Training takes another path than the fused kernel's.
    prefix.keys.requires_grad_(trains)
    features = backbone(kept, Additions(prefixes={0: prefix}))
    assert features.requires_grad == trains
    assert torch.allclose(features, backbone(tokens), atol=1e-5)
    # One prefix for all samples is that of each.
    shared = Prefix(prefix.keys[:1], prefix.values[:1])
    repeated = Prefix(*(values[:1].repeat(3, 1, 1) for values in (prefix.keys, prefix.values)))
    assert torch.allclose(
        backbone(kept, Additions(prefixes={0: shared})), backbone(kept, Additions(prefixes={0: repeated})), atol=1e-6
    )


def test_an_adapter_is_added_to_the_linear_maps_beside_it() -> None:
    backbone, tokens = _backbone(num_layers=2), make_tokens(num=2)
    zero = torch.nn.Linear(32, 32)
    torch.nn.init.zeros_(zero.weight)
    torch.nn.init.zeros_(zero.bias)
    assert torch.allclose(backbone(tokens, Additions(adapters=[zero, zero])), backbone(tokens), atol=1e-6)

    # In the last layer its output reaches the final norm with nothing in between.
    maps = backbone.encoder.layer[-1].intermediate
    seen: list[torch.Tensor] = []
    handle = maps.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    adapter = torch.nn.Linear(32, 32)
    features = backbone(tokens, Additions(adapters=[zero, adapter]))
    handle.remove()
    last: list[torch.Tensor] = []
    handle = backbone.layernorm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    backbone(tokens)
    handle.remove()
    # Of the last layer nothing is computed but the class token.
    assert seen[0].shape == (2, 32)
    # Packed, the longer sample is first.
    order = (tokens.token_valid.sum(1) + tokens.patch_valid.sum(1)).argsort(descending=True, stable=True)
    expected = backbone.layernorm(last[0] + adapter(seen[0])[order.argsort()])
    assert torch.allclose(features, expected, atol=1e-5)


def test_nothing_is_left_behind() -> None:
    backbone, tokens = _backbone(), make_tokens(num=2)
    before, names = backbone(tokens), set(backbone.state_dict())
    prefix = Prefix(torch.ones(1, 4, 32), torch.ones(1, 4, 32))
    adapters = [torch.nn.Linear(32, 32) for _ in range(3)]
    changed = backbone(
        tokens, Additions(prompts=torch.ones(2, 3, 32), prefixes={0: prefix, 2: prefix}, adapters=adapters)
    )
    assert (changed - before).abs().max() > 1e-2
    assert torch.equal(backbone(tokens), before)
    assert set(backbone.state_dict()) == names
