"""Vision transformers of timm: any of them whose patches can be left out.

Patches are left out where timm's own patch dropout does it, behind the position embeddings: what stays is in the places
that it has in the picture, and no pooling of any kind sees the rest. timm's own masks do not reach its poolings
(findings/timm_mask_and_pooling.sh).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from learner.model.backbones.pictures import Seen


class TimmPictures(nn.Module):
    """A :class:`~learner.model.backbones.pictures.PictureModel` of timm.

    Attention is that of an attention pooling where there is one (as SigLIP has: Zhai et al., ICCV 2023); else the class
    token's in the last blocks (as in DINO: Caron et al., ICCV 2021); else the mean that a patch receives from all
    patches (as in LTP: Kim et al., KDD 2022).

    Args:
        model: without a classifier.

    Raises:
        ValueError: it is none whose patches can be left out, or none of square ones.
    """

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.patch_px = patch_px_of(model)
        self.feature_dim = int(self.model.num_features)
        # timm's own give back indices in those models that turn the places of patches into rotations.
        self._left_out = _LeftOut(self.model.num_prefix_tokens, with_indices=self.model.patch_drop is None)
        self.model.patch_drop = self._left_out
        config = resolve_model_data_config(model)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name])[:, None, None], persistent=False)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    def forward(self, pixels: Tensor, keep: Tensor, mask_layers: int) -> Seen:
        pixels = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        self._left_out.keep = None if bool(keep.all()) else keep
        if not mask_layers:
            return Seen(self._pooled(self.model.forward_features(pixels)))
        with reading(self.model, mask_layers) as take:
            hidden = self.model.forward_features(pixels)
            attention, patches = take(hidden)
        return Seen(self._pooled(hidden), attention, patches)

    def _pooled(self, hidden: Tensor) -> Tensor:
        pooled: Tensor = self.model.forward_head(hidden, pre_logits=True)
        return pooled


class _LeftOut(nn.Module):
    """In the place of timm's patch dropout: ``(B, P + h * w, D)`` -> ``(B, P + n, D)``, of those that are kept.

    Attributes:
        keep: ``(B, h, w)``, ``n`` of each; None = all.
    """

    def __init__(self, num_prefix: int, *, with_indices: bool) -> None:
        super().__init__()
        self.num_prefix = num_prefix
        self.with_indices = with_indices
        self.keep: Tensor | None = None

    def forward(self, hidden: Tensor) -> Any:
        indices = None
        if self.keep is not None:
            indices = self.keep.flatten(1).nonzero()[:, 1].reshape(len(hidden), -1)
            prefix, patches = hidden[:, : self.num_prefix], hidden[:, self.num_prefix :]
            patches = patches.gather(1, indices[:, :, None].expand(-1, -1, hidden.shape[2]))
            hidden = torch.cat([prefix, patches], dim=1)
        return (hidden, indices) if self.with_indices else hidden


def make_timm(name: str, *, image_size: int, weights: str) -> TimmPictures:
    """A model by timm's name for it, for pictures of any shape.

    Args:
        image_size: side of the pictures that its position embeddings are made for; other grids are interpolated.
        weights: ``pretrained``: those of timm's hub; ``random``; else a file.

    Raises:
        ValueError: there is no such model, it is none whose patches can be left out, or the weights are not its own.
        OSError: the weights cannot be had.
    """
    options: dict[str, Any] = {"pretrained": weights != "random"}
    if weights not in ("pretrained", "random"):
        state = timm.models.load_state_dict(weights)
        own = {key: value for key, value in state.items() if not key.startswith(("head.", "head_dist."))}
        # As many classes as the model will have, none: else timm takes whatever fits, and leaves the rest random
        # without a word (findings/timm_missing_weights.sh).
        options["pretrained_cfg_overlay"] = {"state_dict": own, "num_classes": 0}
    model = _created(name, img_size=image_size, **options)
    model.pretrained_cfg.pop("state_dict", None)
    return TimmPictures(model)


def timm_shape(name: str) -> tuple[int, int, int]:
    """Of a model by timm's name for it: the side of a patch in pixels, and how many layers can be tuned and give
    attention.

    Raises:
        ValueError: as :func:`make_timm`.
    """
    with torch.device("meta"):
        model: Any = _created(name, pretrained=False)
    return patch_px_of(model), len(model.blocks), 1 if model.attn_pool is not None else len(model.blocks)


def _created(name: str, **options: Any) -> Any:
    try:
        model: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)
    except TypeError as error:
        # Not a ViT, or one of a fixed size; timm says so only by the arguments that it does not take.
        raise ValueError(f"{name} of timm is no ViT for pictures of any size ({error})") from error
    blocks = getattr(model, "blocks", None)
    known = isinstance(blocks, nn.ModuleList | nn.Sequential) and all(map(has_attention, blocks))
    if not known or not hasattr(model, "patch_drop"):
        raise ValueError(
            f"{name} of timm is a {type(model).__name__}, whose patches cannot be left out; those of ViT, EVA and "
            "DINOv3 can"
        )
    return model


def patch_px_of(model: Any) -> int:
    """Side of a patch in pixels.

    Raises:
        ValueError: patches are not square.
    """
    high, wide = model.patch_embed.feat_ratio(as_scalar=False)
    if high != wide:
        raise ValueError(f"{type(model).__name__} has patches of {high} x {wide} px, and square ones are wanted")
    return int(high)


@contextlib.contextmanager
def reading(model: Any, mask_layers: int = 1) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """A block with one pass of ``forward_features`` at a time. What is given makes of its answer ``(B, P + n, D)`` the
    attention ``(B, H, n)`` and the patches' states ``(B, n, D)`` before the last norm.

    timm's layers hand their matrix to nobody, and with a fused kernel form none: a hook on what comes after the softmax
    is skipped without a word. timm 1.0.31's own ``AttentionExtract`` then gives an empty dictionary
    (findings/timm_attention_extract.sh). So the layers are told to do without that kernel meanwhile, and what is given
    here raises ``RuntimeError`` where nothing came all the same.

    Args:
        model: a ViT of timm, whose blocks :func:`has_attention`.
        mask_layers: of how many of the last blocks, their mean.
    """
    prefix, pool = int(model.num_prefix_tokens), getattr(model, "attn_pool", None)
    query = slice(0, 1) if getattr(model, "cls_token", None) is not None else slice(prefix, None)
    layers = [] if pool is not None else [_attention_layers(block)[-1] for block in model.blocks[-mask_layers:]]
    rows: list[Tensor] = []
    states: list[Tensor] = []

    def keep_rows(module: nn.Module, args: tuple[Any, ...]) -> None:
        # Only these, so that the matrix itself need not outlive the layer.
        rows.append(args[0][:, :, query, prefix:].float().mean(2))

    def keep_state(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        states[:] = [out[:, prefix:]]

    def take(hidden: Tensor) -> tuple[Tensor, Tensor]:
        if pool is not None:
            return _pool_rows(
                pool, hidden if model.pool_include_prefix else hidden[:, prefix:], states[0].shape[1]
            ), states[0]
        if len(rows) != len(layers):
            raise RuntimeError(
                f"{type(layers[-1]).__name__} formed no attention matrix: the hook on its attn_drop did not fire. "
                "Give the model as timm makes it, not compiled or scripted"
            )
        attention = torch.stack(rows).mean(0)
        rows.clear()
        return attention, states[0]

    fused = [layer.fused_attn for layer in layers]
    handles = [layer.attn_drop.register_forward_pre_hook(keep_rows) for layer in layers]
    handles.append(model.blocks[-1].register_forward_hook(keep_state))
    try:
        for layer in layers:
            layer.fused_attn = False
        yield take
    finally:
        for handle in handles:
            handle.remove()
        for layer, before in zip(layers, fused, strict=True):
            layer.fused_attn = before


def has_attention(block: nn.Module) -> bool:
    """Whether a block's attention can be read."""
    return bool(_attention_layers(block))


def _attention_layers(block: nn.Module) -> list[Any]:
    return [
        module
        for module in block.modules()
        if hasattr(module, "fused_attn") and isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]


def _pool_rows(pool: Any, hidden: Tensor, count: int) -> Tensor:
    """Attention ``(B, H, n)`` of timm's ``AttentionPoolLatent`` to the last ``n`` tokens, computed once more as its
    ``forward`` has it; of several latents, their mean."""
    if pool.pos_embed is not None:
        hidden = hidden + pool.pos_embed[None].to(hidden.dtype)
    batch, number, _ = hidden.shape
    query = pool.q(pool.latent.expand(batch, -1, -1)).reshape(batch, -1, pool.num_heads, pool.head_dim)
    key = pool.kv(hidden).reshape(batch, number, 2, pool.num_heads, pool.head_dim)[:, :, 0]
    query, key = pool.q_norm(query.transpose(1, 2)), pool.k_norm(key.transpose(1, 2))
    rows: Tensor = (query.float() @ key.float().transpose(-1, -2) * pool.scale).softmax(-1).mean(2)
    return rows[:, :, -count:]
