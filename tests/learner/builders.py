"""Small token batches and a small data set for the learner's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from learner.model.backbones.modules import ViltShape
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens
from learner.run.problem import Problem

if TYPE_CHECKING:
    from transformers import ViltConfig

PATCH_PX = 8


def make_vilt_config(num_layers: int) -> ViltConfig:
    """A tiny ViLT for pictures of 3 x 3 patches."""
    from transformers import ViltConfig  # not for who wants tokens alone

    return ViltConfig(
        image_size=3 * PATCH_PX,
        patch_size=PATCH_PX,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        vocab_size=200,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def make_vilt_shape() -> ViltShape:
    """As :func:`make_vilt_config`, of one layer."""
    return ViltShape(
        image_size=3 * PATCH_PX,
        patch_size=PATCH_PX,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=200,
        max_position_embeddings=16,
    )


def make_tokens(
    *, num: int = 4, grid: tuple[int, int] = (3, 3), text: int = 7, vocab: int = 200, seed: int = 0
) -> Tokens:
    """Full samples with random pixels; texts of different lengths (``[CLS]`` 1, words, ``[SEP]`` 2)."""
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1]
    lengths = torch.randint(3, text + 1, (num,), generator=generator)
    lengths[0] = text
    places = torch.arange(text).expand(num, text)
    valid = places < lengths[:, None]
    ids = torch.randint(3, vocab, (num, text), generator=generator) * valid
    ids[:, 0] = 1
    ids[torch.arange(num), lengths - 1] = 2
    return Tokens(
        patches=torch.randint(0, 256, (num, count, PATCH_PX, PATCH_PX, 3), dtype=torch.uint8, generator=generator),
        patch_positions=torch.arange(count).expand(num, count).contiguous(),
        patch_valid=torch.ones((num, count), dtype=torch.bool),
        grid=torch.tensor(grid).expand(num, 2).contiguous(),
        token_ids=ids,
        token_positions=places.contiguous(),
        token_valid=valid,
    )


def make_split(classes: list[int], per_class: int, *, seed: int = 0) -> TokenisedSplit:
    """Classes that differ in colour (image) and in one word (text), so that a small model learns them at once."""
    class_ids = np.repeat(np.array(classes, dtype=np.int64), per_class)
    tokens = make_tokens(num=len(class_ids), seed=seed)
    colours = torch.tensor([[40 * (c % 6), 255 - 40 * (c % 5), 70 * (c % 4)] for c in class_ids.tolist()])
    noise = tokens.patches.float() / 8
    patches = (colours[:, None, None, None, :] * 0.8 + noise).clamp(0, 255).to(torch.uint8)
    ids = tokens.token_ids.clone()
    ids[:, 1] = torch.from_numpy(class_ids) + 100
    # The shortest texts are [CLS] word [SEP]: place 1 is a word in all of them.
    return TokenisedSplit(
        Tokens(
            patches=patches,
            patch_positions=tokens.patch_positions,
            patch_valid=tokens.patch_valid,
            grid=tokens.grid,
            token_ids=ids,
            token_positions=tokens.token_positions,
            token_valid=tokens.token_valid,
        ),
        class_ids,
    )


def make_problem(*, phases: list[list[int]], per_class: int = 12) -> Problem:
    """A problem of such classes."""
    classes = [class_id for phase in phases for class_id in phase]
    return Problem(
        train=make_split(classes, per_class, seed=1),
        tests={"near": make_split(classes, 4, seed=2), "far": make_split(classes, 3, seed=3)},
        phases=phases,
    )


class Words:
    """What a report asks of a tokenizer: every other id is the end of a word."""

    def id_to_token(self, id: int) -> str | None:
        return f"##w{id}" if id % 2 else f"w<{id}>"
