"""From samples to exemplar records, and back to tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from client.dataset import TensorBatch
from learner.config import MemoryConfig, Method
from learner.data.tokenised import TokenisedSplit
from learner.masks import MaskConfig, compute_masks
from learner.selection import cosine_scores, selection_order
from learner.tokens import Tokens
from learner.train import Classifier, Replay
from memory_format import Record, make_codec, make_record


@dataclass(frozen=True)
class MaskedSplit:
    """Masks of a phase's data. All on the CPU.

    Attributes:
        keep_patches: ``(N, K)`` bool.
        keep_tokens: ``(N, T)`` bool.
        patch_attention: ``(N, K)``.
        features: ``(N, D)`` of the full samples.
    """

    keep_patches: Tensor
    keep_tokens: Tensor
    patch_attention: Tensor
    features: Tensor


def mask_split(model: Classifier, split: TokenisedSplit, config: MaskConfig, generator: torch.Generator) -> MaskedSplit:
    """Masks of every sample of a split, by the model as it is."""
    parts = []
    for tokens, features, read in model.read(split.tokens):
        masks = compute_masks(read, tokens, config, generator)
        parts.append((masks.keep_patches, masks.keep_tokens, masks.patch_attention, features))
    return MaskedSplit(
        *(
            torch.cat([value.float() if value.is_floating_point() else value for value in column]).cpu()
            for column in zip(*parts, strict=True)
        )
    )


def make_exemplars(
    model: Classifier,
    new: TokenisedSplit,
    masked: MaskedSplit,
    *,
    method: Method,
    memory: MemoryConfig,
    phase: int,
    learner_id: str,
    rng: np.random.Generator,
) -> Iterator[Record]:
    """The phase's samples as records, class by class, each class in its order of preference.

    Selection orders and the memory truncates, so every sample is offered: how many stay is a matter of the budget.
    Full exemplars are selected by the feature of the full sample, masked ones by that of the masked sample, against the
    same class mean of full samples.
    """
    keep_patches, keep_tokens = masked.keep_patches, masked.keep_tokens
    features = masked.features
    if method == "full":
        keep_patches, keep_tokens = new.tokens.patch_valid, new.tokens.token_valid
    else:
        features = model.features(new.tokens.keep_patches(keep_patches).keep_tokens(keep_tokens))
    codec = make_codec(memory.codec)
    for class_id in dict.fromkeys(new.class_ids.tolist()):
        members = np.flatnonzero(new.class_ids == class_id)
        mean = masked.features[members].mean(0).numpy()
        of_class = features[members].numpy()
        scores = cosine_scores(of_class, mean)
        for rank, place in enumerate(selection_order(of_class, mean, memory.selection, rng)):
            sample = int(members[place])
            yield _record(
                new.tokens,
                sample,
                keep_patches[sample],
                keep_tokens[sample],
                class_id=class_id,
                phase=phase,
                learner_id=learner_id,
                score=float(scores[place]),
                rank=rank,
                codec=codec,
            )


def _record(tokens: Tokens, sample: int, keep_patches: Tensor, keep_tokens: Tensor, **fields: object) -> Record:
    h, w = tokens.grid[sample].tolist()
    return make_record(
        patches=tokens.patches[sample][keep_patches].numpy(),
        keep_mask=keep_patches[: h * w].numpy().reshape(h, w),  # behind it is padding up to the largest grid
        token_ids=tokens.token_ids[sample][keep_tokens].numpy(),
        token_positions=np.flatnonzero(keep_tokens.numpy()),
        text_length=int(tokens.token_valid[sample].sum()),
        **fields,  # type: ignore[arg-type]
    )


def to_replay(batch: TensorBatch) -> Replay:
    """A batch of the client's data set -> tokens and class ids."""
    tokens = Tokens(
        patches=batch["patches"],
        patch_positions=batch["patch_positions"],
        patch_valid=batch["patch_valid"],
        grid=batch["grid"],
        token_ids=batch["token_ids"],
        token_positions=batch["token_positions"],
        token_valid=batch["token_valid"],
    )
    complete = bool((tokens.patch_valid.sum(1) == tokens.grid.prod(1)).all())
    return Replay(tokens, batch["class_id"].numpy(), complete)


def with_text_mask(config: MaskConfig) -> MaskConfig:
    """The same masks with the text masked too, for showing what it would keep."""
    return replace(config, text=True)
