"""Backbones that see pictures alone: what such a model has to do, and how a learner feeds it with parts of pictures.

A model of :mod:`timm <learner.model.backbones.of_timm>`, one of
:mod:`transformers <learner.model.backbones.of_transformers>` and one of a user's own are all a :class:`PictureModel`.
Words come beside what it sees, as the mean of their embeddings (docs/decisions/0012).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from learner.data.base import DataError
from learner.model.attention_masks import AttentionRead
from learner.model.backbones.base import Backbone, beside_words
from learner.model.backbones.modules import TextEmbeddings
from learner.model.tokens import Tokens

FLAT = 0.5
"""What a place without a patch looks like: grey, in each colour."""


@dataclass(frozen=True)
class Seen:
    """What a model saw in ``B`` pictures of ``h`` x ``w`` places, of which ``n`` in each have a patch.

    Attributes:
        features: ``(B, F)``, the class token's state or what the model pools.
        attention: how much each patch matters, where that was asked for; the patches in row-major order. One of

            - ``(B, H, N, N)``: probabilities of ``H`` heads between ``N`` tokens, of which the last ``n`` are the
              patches. With ``N > n`` the first is the class token, and its row counts (as in DINO: Caron et al., ICCV
              2021). With ``N == n`` there is none, and a patch counts by the mean attention that it receives (as in
              LTP: Kim et al., KDD 2022).
            - ``(B, H, n)``: a row of each head, such as that of an attention pooling.
            - ``(B, h, w)``: a map; of places without a patch it is not looked at.
        patches: ``(B, n, D)``, the patches' last hidden states before the last norm, by which sinks are told
            (``mask.drop_sinks``). None: no patch is taken for one.
    """

    features: Tensor
    attention: Tensor | None = None
    patches: Tensor | None = None


class PictureModel(Protocol):
    """A ``torch.nn.Module`` that looks at pictures.

    Attributes:
        patch_px: side of a patch in pixels.
        feature_dim: F, of :attr:`Seen.features`.

    It may have ``layers``, its blocks from the first to the last: then ``train.ssf_layers`` can tune some of them, and
    frozen ones are held as autocast would round them.
    """

    patch_px: int
    feature_dim: int

    def __call__(self, pixels: Tensor, keep: Tensor, mask_layers: int) -> Seen:
        """Look.

        Args:
            pixels: ``(B, 3, h * patch_px, w * patch_px)`` float32 in 0..1, as the picture has them: the model itself
                normalises them. Places without a patch are grey (:data:`FLAT`).
            keep: ``(B, h, w)`` bool, which places have a patch: ``n`` in every picture of a call, so that
                ``tokens[keep.flatten(1)].reshape(B, n, D)`` is those that are there. A model that cannot do without the
                others may leave them in, and sees grey.
            mask_layers: of how many of the last layers attention is asked for, their mean; 0 = of none.
        """


class PictureBackbone(Backbone):
    """A :class:`PictureModel`, and words beside it.

    A pass takes pictures of one grid with as many patches each: no padding is in it, and no pooling has to know of any.
    A sample without a picture shows a grey one.

    Args:
        model: also a ``torch.nn.Module``.
        name: what it is called in errors.
        words: embeds texts.
        patch_px: what settings say.
    """

    model: Any

    def __init__(self, model: PictureModel, name: str, words: TextEmbeddings, patch_px: int) -> None:
        super().__init__()
        self.name = name
        self.model = _module(model, name)
        if model.patch_px != patch_px:
            raise DataError(
                f"backbone.patch_px is {patch_px}, and {name} has patches of {model.patch_px} px: "
                f"set backbone.patch_px={model.patch_px}, and data.image_size to a multiple of it"
            )
        self.words = words

    @property
    def feature_dim(self) -> int:
        """The model's and the words'."""
        return int(self.model.feature_dim) + self.words.word_embeddings.embedding_dim

    @property
    def dense(self) -> bool:
        return True

    @property
    def reads_words(self) -> bool:
        return False

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(getattr(self.model, "layers", ()))

    def ssf_pattern(self, last: int = 0) -> str:
        if not last:
            return r"model\..*"
        if last > len(self.layers):
            raise DataError(
                f"train.ssf_layers is {last}, and {self.name} names {len(self.layers)} layers: 0 tunes all of the model"
            )
        chosen = {id(layer) for layer in self.layers[-last:]}
        named = [re.escape(name) for name, module in self.named_modules() if id(module) in chosen]
        return rf"(?:{'|'.join(named)})\..*"

    def forward(self, tokens: Tokens) -> Tensor:
        return self._features(tokens, [(rows, seen.features) for rows, _, seen in self._looks(tokens, 0)])

    def read(self, tokens: Tokens, *, last_layers: int = 1, text: bool = True) -> tuple[Tensor, AttentionRead]:
        """As :meth:`Backbone.read`.

        Raises:
            DataError: ``text``, which the model does not see.
        """
        if text:
            raise DataError(f"{self.name} sees pictures alone and has no attention to words: leave mask.text off")
        features, rows_read, norms = [], [], tokens.patch_valid.new_ones(tokens.patch_valid.shape).float()
        for rows, keep, seen in self._looks(tokens, last_layers):
            features.append((rows, seen.features))
            if seen.attention is None:
                raise DataError(f"{self.name} gave no attention, though that of {last_layers} layers was asked for")
            places = tokens.patch_positions[rows]
            rows_read.append((rows, _at(places, keep, _of_patches(seen.attention.float(), keep))))
            if seen.patches is not None:
                norms[rows] = _at(places, keep, seen.patches.float().norm(dim=-1)[:, None])[:, 0]
        # At places of padding stands what is at the picture's first place; nobody looks there.
        return self._features(tokens, features), AttentionRead(_in_order(rows_read), None, norms)

    def _features(self, tokens: Tokens, found: list[tuple[Tensor, Tensor]]) -> Tensor:
        return beside_words(_in_order(found), self.words(tokens.token_ids, tokens.token_positions), tokens)

    def _looks(self, tokens: Tokens, mask_layers: int) -> Iterator[tuple[Tensor, Tensor, Seen]]:
        """Rows ``(b,)`` of the batch, which places ``(b, h, w)`` of them have a patch, and what the model saw."""
        shapes = torch.cat([tokens.grid.to(tokens.patch_valid.device), tokens.patch_valid.sum(1, keepdim=True)], dim=1)
        alike, which = torch.unique(shapes, dim=0, return_inverse=True)
        for place, (h, w, count) in enumerate(alike.tolist()):
            rows = (which == place).nonzero()[:, 0]
            pixels, keep = _pictures(tokens[rows], h, w, count)
            seen = self.model(pixels, keep, mask_layers)
            yield rows, keep, _checked(seen, keep, int(self.model.feature_dim), self.name)


@torch.no_grad()
def check_model(model: PictureModel, *, image_size: int, name: str = "the model") -> None:
    """Show a model two grey pictures, whole and with half of their patches.

    Args:
        image_size: side of the pictures in pixels.
        name: what it is called in errors.

    Raises:
        DataError: it is none that a learner can have, or what it gives is not right; says what came, and what would be.
    """
    module = _module(model, name)
    side = image_size // model.patch_px
    pixels = torch.full((2, 3, side * model.patch_px, side * model.patch_px), FLAT)
    whole = torch.ones((2, side, side), dtype=torch.bool)
    half = torch.zeros_like(whole).flatten(1)
    half[:, : max(1, side * side // 2)] = True
    training = module.training
    module.eval()
    for keep in (whole, half.reshape_as(whole)):
        if _checked(model(pixels, keep, 1), keep, model.feature_dim, name).attention is None:
            raise DataError(f"{name} gave no attention, though that of the last layer was asked for")
    module.train(training)


def _pictures(tokens: Tokens, h: int, w: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures ``(b, 3, H, W)`` of samples with one grid and as many patches, and which places have those."""
    side, number = tokens.patch_px, len(tokens)
    canvas = torch.full((number, h * w, side, side, 3), FLAT, device=tokens.patches.device)
    keep = torch.zeros((number, h * w), dtype=torch.bool, device=canvas.device)
    places = tokens.patch_positions[tokens.patch_valid].reshape(number, count)
    rows = torch.arange(number, device=canvas.device)[:, None]
    canvas[rows, places] = (tokens.patches[tokens.patch_valid].float() / 255).reshape(number, count, side, side, 3)
    keep[rows, places] = True
    if not count:
        keep[:] = True
    pixels = canvas.reshape(number, h, w, side, side, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(number, 3, h * side, w * side), keep.reshape(number, h, w)


def _of_patches(attention: Tensor, keep: Tensor) -> Tensor:
    """A row ``(B, H, n)`` of each head from what :attr:`Seen.attention` may be."""
    count = int(keep[0].sum())
    if attention.ndim == 4:
        row = attention[:, :, 0] if attention.shape[-1] > count else attention.mean(2)
        return row[:, :, -count:]
    if attention.shape == keep.shape:
        return attention[keep].reshape(len(keep), 1, count)
    return attention


def _at(places: Tensor, keep: Tensor, values: Tensor) -> Tensor:
    """Values ``(b, H, n)`` of the places that are kept, at the places ``(b, K)`` of a batch: ``(b, H, K)``."""
    flat, heads = keep.flatten(1), values.shape[1]
    all_places = values.new_zeros((len(keep), heads, flat.shape[1]))
    all_places[flat[:, None].expand(-1, heads, -1)] = values.flatten()
    return all_places.gather(2, places[:, None].expand(-1, heads, -1))


def _in_order(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """What was found of some rows each, in the order of the batch."""
    rows, values = zip(*found, strict=True)
    joined: Tensor = torch.cat(values)[torch.cat(rows).argsort()]
    return joined


def _module(model: PictureModel, name: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise DataError(
            f"{name} must give a torch.nn.Module, so that it can be trained; it gave {type(model).__name__}"
        )
    for attribute, what in (("patch_px", "the side of a patch in pixels"), ("feature_dim", "how long a feature is")):
        if type(value := getattr(model, attribute, None)) is not int or value < 1:
            raise DataError(f"{name} must have {attribute}, {what}, a whole number from 1 on; it has {value!r}")
    return model


def _checked(seen: Seen, keep: Tensor, feature_dim: int, name: str) -> Seen:
    """What a model gave, if that is of the shapes that :class:`Seen` has.

    Raises:
        DataError: it is not; says what came, and what is right.
    """
    if not isinstance(seen, Seen):
        raise DataError(f"{name} must return a {Seen.__module__}.Seen, and returned a {type(seen).__name__}")
    (number, h, w), count = keep.shape, int(keep[0].sum())
    _demand("features", seen.features, name, lambda shape: shape == (number, feature_dim), f"({number}, {feature_dim})")
    if seen.patches is not None:
        right = f"({number}, {count}, D)"
        _demand("patches", seen.patches, name, lambda shape: len(shape) == 3 and shape[:2] == (number, count), right)
    if seen.attention is not None:
        right = f"({number}, H, N, N) with N of {count} or more, ({number}, H, {count}) or ({number}, {h}, {w})"
        _demand("attention", seen.attention, name, lambda shape: _is_attention(shape, keep.shape, count), right)
    return seen


def _is_attention(shape: tuple[int, ...], grids: tuple[int, ...], count: int) -> bool:
    if len(shape) == 4:
        return shape[0] == grids[0] and shape[2] == shape[3] >= count
    return shape == grids or (len(shape) == 3 and shape[0] == grids[0] and shape[2] == count)


def _demand(what: str, value: object, name: str, fits: Callable[[tuple[int, ...]], bool], right: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        raise DataError(f"{what} of {name} must be a tensor of floats, and came as {came}")
    if not fits(tuple(value.shape)):
        raise DataError(f"{what} of {name} came as {tuple(value.shape)}: {right} is right")
