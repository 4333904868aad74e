"""ViLT (Kim et al., arXiv 2102.03334) fed with any subset of its tokens.

Its modules have the names of ``transformers.ViltModel``'s, so that every ViLT checkpoint loads.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.model.attention_masks import AttentionRead
from learner.model.backbones.base import Backbone, beside_words
from learner.model.backbones.block import NOTHING, Additions, Block
from learner.model.backbones.modules import Embeddings, ViltShape, draw_weights, unfilled
from learner.model.backbones.packing import Packing, packing
from learner.model.ssf import DEFAULT_PATTERN, last_layers_pattern
from learner.model.tokens import Tokens

if TYPE_CHECKING:
    from transformers import ViltModel

ClassToken = Literal["text", "image"]

VILT_MEAN_STD = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

NEEDS_VILT = "backbone.kind must be parts, small, or pretrained with a ViLT"
"""What is said where a part of the learner looks into a backbone's layers."""

ALL = slice(None)

MeanStd = tuple[tuple[float, float, float], tuple[float, float, float]]


class ViltBackbone(Backbone):
    """Tokens in; features and the two attention reads out.

    Args:
        shape: of its weights.
        weights: by the names of a ``ViltModel`` without pooler; they are taken over, not copied. None: as torch draws
            them.
        class_token: whose feature stands for the sample and whose attention masks the image: ViLT's pooled text
            ``[CLS]``, or the image's own class token (the right one when the blocks come from an image model).
        mean_std: pixel normalisation that the patch embedding was trained with.
        project_text: put a linear map, the identity at first, between the word embeddings and the blocks: for words
            that come from another model than the blocks.
        keep_words: a sample's feature is the class token's and, beside it, the mean of its words as they enter the
            first block: for blocks of an image model, which carry little of what words say to the class token
            (docs/decisions/0012).
    """

    def __init__(
        self,
        shape: ViltShape,
        weights: Mapping[str, Tensor] | None = None,
        *,
        class_token: ClassToken = "text",
        mean_std: MeanStd = VILT_MEAN_STD,
        project_text: bool = False,
        keep_words: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        with contextlib.nullcontext() if weights is None else unfilled():
            self.embeddings = Embeddings(shape)
            self.encoder: Any = nn.Module()
            self.encoder.layer = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
            self.layernorm: Any = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        if weights is not None:
            # No weight has two names: torch 2.14.1 would part them (findings/torch_assign_unties.sh).
            self.load_state_dict(weights, assign=True)
        self.class_token = class_token
        self.keep_words = keep_words
        self._compiled = False
        self.entry = 0
        """The block that states of exemplars enter (:meth:`states`)."""
        self.text_projection: nn.Linear | None = None
        if project_text:
            self.text_projection = nn.Linear(self.dim, self.dim)
            nn.init.eye_(self.text_projection.weight)
            nn.init.zeros_(self.text_projection.bias)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        mean, std = (torch.tensor(values).mul(255) for values in mean_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def dim(self) -> int:
        """D, of a token's state."""
        return self.shape.hidden_size

    @property
    def feature_dim(self) -> int:
        """D, or 2 D with ``keep_words``."""
        return self.dim * (2 if self.keep_words else 1)

    @property
    def dense(self) -> bool:
        return not self._compiled and self.pixel_mean.device.type == "cpu"

    @property
    def reentrant(self) -> bool:
        drops = self.training and (self.shape.hidden_dropout_prob or self.shape.attention_probs_dropout_prob)
        return self.dense and not drops

    def forward(self, tokens: Tokens, additions: Additions = NOTHING) -> Tensor:
        """Features ``(B, F)``."""
        if tokens.are_states:
            return self._of_states(tokens)
        place = additions.num_prompts + self.class_index(tokens)
        embedded, hidden = self._through(tokens, additions, slice(place, place + 1))
        return self._feature(self.layernorm(hidden[:, 0]), embedded, tokens)

    def states(self, tokens: Tokens) -> Tensor:
        """What enters block :attr:`entry` of the class token and of the patches, ``(B, 1 + K, D)`` float32."""
        embedded, valid = self._embed(tokens)
        packed = self._packing(valid)
        hidden = packed.unpack(self._encode(packed.pack(embedded), packed, blocks=slice(self.entry)))
        place, first_patch = self.class_index(tokens), tokens.token_ids.shape[1] + 1
        return torch.cat([hidden[:, place : place + 1], hidden[:, first_patch:]], dim=1).float()

    def _of_states(self, tokens: Tokens) -> Tensor:
        """Features ``(B, F)`` of states."""
        packed = self._packing(tokens.patch_valid)
        hidden = packed.pack(tokens.patches.flatten(2))
        wanted = packed.rows_at(slice(0, 1))
        last = packed.in_batch(self._encode(hidden, packed, wanted=wanted, blocks=slice(self.entry, None)))
        return self._feature(self.layernorm(last[:, 0]), self._embed_words(tokens), tokens)

    def hidden(self, tokens: Tokens, additions: Additions = NOTHING) -> Tensor:
        """Last hidden states ``(B, P + T + 1 + K, D)``: prompts, text, the image's class token, patches."""
        return self.layernorm(self._through(tokens, additions)[1])  # type: ignore[no-any-return]

    def prompted(self, tokens: Tokens, additions: Additions) -> Tensor:
        """Features ``(B, F)`` with the mean of the prompts' last hidden states in the place of the class token's."""
        embedded, hidden = self._through(tokens, additions, slice(additions.num_prompts))
        return self._feature(self.layernorm(hidden).mean(1), embedded, tokens)

    def compile_blocks(self) -> None:
        self._compiled = True
        super().compile_blocks()

    @property
    def reads_words(self) -> bool:
        return True

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self.encoder.layer)

    def ssf_pattern(self, last: int = 0) -> str:
        return last_layers_pattern(len(self.layers), last) if last else DEFAULT_PATTERN

    def read(self, tokens: Tokens, *, last_layers: int = 1, text: bool = True) -> tuple[Tensor, AttentionRead]:
        """Features ``(B, F)``, and the two attentions that masks need: the class token's row and, with ``text``, the
        patches' rows onto the text. Of ``last_layers``, their mean.

        Raises:
            ValueError: there are not so many layers.
        """
        blocks: list[Any] = list(self.encoder.layer)
        if not 1 <= last_layers <= len(blocks):
            raise ValueError(f"last_layers must lie in 1..{len(blocks)}, got {last_layers}")
        embedded, valid = self._embed(tokens)
        packed = self._packing(valid)
        entered: deque[Tensor] = deque(maxlen=last_layers)
        hidden = packed.unpack(self._encode(packed.pack(embedded), packed, entered=entered))
        num_text = tokens.token_ids.shape[1]
        first_patch = num_text + 1
        rows = torch.tensor([self.class_index(tokens)], device=hidden.device)
        if text:
            rows = torch.cat([rows, torch.arange(first_patch, hidden.shape[1], device=hidden.device)])
        of_layers = [
            block.attention_rows(packed.unpack(state), rows, valid)
            for block, state in zip(blocks[-last_layers:], entered, strict=True)
        ]
        attention = of_layers[0] if last_layers == 1 else torch.stack(of_layers).mean(0)
        read = AttentionRead(
            class_to_image=attention[:, :, 0, first_patch:],
            image_to_text=attention[:, :, 1:, :num_text] if text else None,
            patch_norms=hidden[:, first_patch:].float().norm(dim=-1),
        )
        return self._feature(self.layernorm(hidden[:, self.class_index(tokens)]), embedded, tokens), read

    def class_index(self, tokens: Tokens) -> int:
        """Place of the class token in the sequence."""
        # The sequence is text, image class token, patches: ViLT's order.
        return 0 if self.class_token == "text" else tokens.token_ids.shape[1]

    def _through(self, tokens: Tokens, additions: Additions, wanted: slice | None = None) -> tuple[Tensor, Tensor]:
        """The sequence before the first block, ``(B, T + 1 + K, D)``, and the ``wanted`` places of it behind the last,
        with prompts in front; None: all, 0 at padding."""
        embedded, valid = self._embed(tokens)
        hidden, valid = additions.prepend(embedded, valid)
        packed = self._packing(valid)
        rows = None if wanted is None else packed.rows_at(wanted)
        hidden = self._encode(packed.pack(hidden), packed, additions, rows)
        return embedded, packed.unpack(hidden) if rows is None else packed.in_batch(hidden)

    def _packing(self, valid: Tensor) -> Packing:
        return packing(valid, dense=self.dense)

    def _feature(self, state: Tensor, embedded: Tensor, tokens: Tokens) -> Tensor:
        """A sample's feature ``(B, F)`` from the state ``(B, D)`` that stands for it and the embedded sequence."""
        return beside_words(state, embedded, tokens) if self.keep_words else state

    def _encode(
        self,
        hidden: Tensor,
        packed: Packing,
        additions: Additions = NOTHING,
        wanted: Tensor | None = None,
        entered: deque[Tensor] | None = None,
        blocks: slice = ALL,
    ) -> Tensor:
        """The rows ``(S, D)`` behind the last of the ``blocks``, or the ``wanted`` of them; what goes into each block
        is put into ``entered``."""
        last = len(self.encoder.layer) - 1
        for place, block in list(enumerate(self.encoder.layer))[blocks]:
            if entered is not None:
                entered.append(hidden)
            hidden = block(
                hidden,
                packed,
                prefix=additions.prefixes.get(place),
                adapter=additions.adapters[place] if additions.adapters else None,
                wanted=wanted if place == last else None,
            )
        return hidden

    def _embed(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Embedded sequence ``(B, T + 1 + K, D)``, and which of its places are there."""
        embeddings = self.embeddings
        kinds = embeddings.token_type_embeddings.weight
        text = self._embed_words(tokens)
        positions = self._patch_positions(tokens)
        image = self._project(tokens.patches) + positions + kinds[1]
        class_token = embeddings.cls_token + embeddings.position_embeddings[:, :1] + kinds[1]
        class_token = class_token.expand(len(tokens), -1, -1)
        hidden = embeddings.dropout(torch.cat([text, class_token.to(text.dtype), image.to(text.dtype)], dim=1))
        class_valid = tokens.patch_valid.new_ones((len(tokens), 1))
        return hidden, torch.cat([tokens.token_valid, class_valid, tokens.patch_valid], dim=1)

    def _embed_words(self, tokens: Tokens) -> Tensor:
        """``(B, T, D)``."""
        text: Tensor = self.embeddings.text_embeddings(tokens.token_ids, tokens.token_positions)
        if self.text_projection is not None:
            # In float32 as all that enters the first block: the residual stream begins here.
            with torch.autocast(text.device.type, enabled=False):
                text = self.text_projection(text.float())
        return text + self.embeddings.token_type_embeddings.weight[0]

    def _project(self, patches: Tensor) -> Tensor:
        """Patch embedding ``(B, K, D)``: a convolution with stride = kernel is a linear map of each patch."""
        projection = self.embeddings.patch_embeddings.projection
        pixels = (patches.float() - self.pixel_mean) / self.pixel_std
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(pixels.flatten(2), weight, projection.bias)

    def _patch_positions(self, tokens: Tokens) -> Tensor:
        """Position embeddings ``(B, K, D)``, bilinear in the sample's own grid as in ViLT."""
        grids, which = torch.unique(tokens.grid, dim=0, return_inverse=True)
        tables = [self._position_table(int(h), int(w)) for h, w in grids.tolist()]
        if len(tables) == 1:
            return tables[0][tokens.patch_positions]
        longest = max(len(table) for table in tables)
        stacked = torch.stack([F.pad(table, (0, 0, 0, longest - len(table))) for table in tables])
        return stacked[which[:, None], tokens.patch_positions]

    def _position_table(self, h: int, w: int) -> Tensor:
        side = self.shape.image_size // self.shape.patch_size
        table = self.embeddings.position_embeddings[0, 1:]
        if (h, w) == (side, side):
            return table
        square = table.T.unflatten(1, (side, side))[None]
        resized = F.interpolate(square, size=(h, w), mode="bilinear", align_corners=True)
        return resized[0].flatten(1).T


def small_vilt(
    *,
    image_size: int = 112,
    patch_px: int = 16,
    hidden_size: int = 192,
    num_layers: int = 6,
    num_heads: int = 3,
    vocab_size: int = 30522,
    seed: int = 0,
) -> ViltBackbone:
    """A small ViLT with random weights: trains from nothing in minutes, and needs nothing downloaded."""
    shape = ViltShape(
        image_size=image_size,
        patch_size=patch_px,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        vocab_size=vocab_size,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = ViltBackbone(shape)
        draw_weights(backbone)
        nn.init.trunc_normal_(backbone.embeddings.position_embeddings, std=0.02)
        nn.init.trunc_normal_(backbone.embeddings.cls_token, std=0.02)
    return backbone


def pretrained_vilt(name_or_folder: str) -> ViltBackbone:
    """A ViLT checkpoint from a local folder or by its hub name, such as ``dandelin/vilt-b32-mlm``; float32, whatever
    type the file has.

    Raises:
        OSError: transformers finds no such folder and no such model.
        ValueError: it is a ViLT of another kind than all that are known.
    """
    from transformers import ViltModel  # 250 MiB

    # Not in the file's type, as by default since transformers 5 (5.24.0, findings/transformers_half_by_file.sh).
    found = ViltModel.from_pretrained(name_or_folder, add_pooling_layer=False, dtype=torch.float32)
    return with_weights_of(found)


def with_weights_of(model: ViltModel, *, class_token: ClassToken = "text", project_text: bool = False) -> ViltBackbone:
    """A backbone that shares the weights of a ``ViltModel`` without pooler; the other arguments are
    :class:`ViltBackbone`'s.

    Raises:
        ValueError: it is a ViLT of another kind than all that are known.
    """
    shape = ViltShape.of(model.config)
    return ViltBackbone(shape, model.state_dict(), class_token=class_token, project_text=project_text)
