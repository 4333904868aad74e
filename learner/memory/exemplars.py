"""From samples to exemplar records, and back to tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client import ReplayBatch
from client.tensors import ARRAYS_PREFIX, TensorBatch, to_tensors
from learner import world
from learner.baselines import cim
from learner.memory import latent, scaled
from learner.memory.selection import ranked
from learner.memory.settings import MemoryConfig
from learner.model.attention_masks import MaskConfig, compute_masks
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens
from learner.training.train import Replay
from memory_format import Record, make_codec, make_record

Stores = Literal["nothing", "full", "masked", "cim", "latent"]
"""``full``: whole pictures. ``masked``: the patches and words that the mask keeps. ``cim``: whole pictures, downsampled
outside their class-activation box (:mod:`learner.baselines.cim`). ``latent``: hidden states of a frozen block
(:mod:`learner.memory.latent`). Texts are whole but for a text mask."""


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


@dataclass(frozen=True)
class Stored:
    """What of a phase's data a method stores.

    Attributes:
        tokens: the samples, their pixels as they are to be stored.
        keep_patches: ``(N, K)`` bool.
        keep_tokens: ``(N, T)`` bool.
        patch_px: side of the patches as replay shows them; None = as in ``tokens``.
        states: what is stored in the place of the patches that are kept.
    """

    tokens: Tokens
    keep_patches: Tensor
    keep_tokens: Tensor
    patch_px: int | None = None
    states: Tokens | None = None

    @staticmethod
    def whole(tokens: Tokens) -> Stored:
        """All of each sample."""
        return Stored(tokens, tokens.patch_valid, tokens.token_valid)

    @property
    def kept(self) -> Tokens:
        """The samples as replay will show them, but for the codec's loss."""
        if self.states is not None:
            return self.states.keep_tokens(self.keep_tokens)
        kept = self.tokens.keep_patches(self.keep_patches).keep_tokens(self.keep_tokens)
        return scaled.enlarge(kept, self.patch_px or kept.patch_px)


def mask_split(model: Classifier, split: TokenisedSplit, config: MaskConfig, generator: torch.Generator) -> MaskedSplit:
    """Masks of every sample of a split, by the model as it is; ranks share the samples out."""
    keep_patches, keep_tokens = (torch.zeros_like(v) for v in (split.tokens.patch_valid, split.tokens.token_valid))
    patch_attention = torch.zeros(keep_patches.shape)
    all_features = torch.zeros((len(split), model.backbone.feature_dim))

    def own() -> Iterator[tuple[Tensor, ...]]:
        for rows, tokens, features, read in model.read(split.tokens, config):
            shares = split.object_shares
            if shares is not None:
                shares = shares[rows, : tokens.patch_valid.shape[1]].to(tokens.patch_valid.device)
            masks = compute_masks(read, tokens, config, generator, shares)
            found = (masks.keep_patches, masks.keep_tokens, masks.patch_attention.float(), features)
            yield rows, *(value.cpu() for value in found)

    # Whatever the ranks are, the generator draws for all samples, one batch after another.
    with world.alone() if config.choice == "random" else contextlib.nullcontext():
        for rows, patches, words, attention, features in world.of_all(own()):
            keep_patches[rows, : patches.shape[1]] = patches
            keep_tokens[rows, : words.shape[1]] = words
            patch_attention[rows, : attention.shape[1]] = attention
            all_features[rows] = features
    return MaskedSplit(keep_patches, keep_tokens, patch_attention, all_features)


def what_to_store(
    model: Classifier, new: TokenisedSplit, masked: MaskedSplit, stores: Stores, memory: MemoryConfig
) -> Stored:
    """The samples of a split as a method stores them.

    Raises:
        ValueError: it stores nothing.
    """
    if stores == "nothing":
        raise ValueError(f"a method that stores {stores} has no exemplars")
    if stores == "latent":
        states = latent.states_of(model, new.tokens, masked.keep_patches)
        return Stored(new.tokens, masked.keep_patches, masked.keep_tokens, states=states)
    tokens = cim.compress(model, new.tokens, model.targets(new.class_ids)) if stores == "cim" else new.tokens
    stored = Stored(tokens, masked.keep_patches, masked.keep_tokens) if stores == "masked" else Stored.whole(tokens)
    if not memory.patch_px:
        return stored
    return replace(stored, tokens=scaled.shrink(tokens, memory.patch_px, memory.resample), patch_px=tokens.patch_px)


def by_class(features: Tensor, class_ids: NDArray[np.int64]) -> dict[int, NDArray[np.floating]]:
    """Features ``(N, D)`` by the class of each, ``(N,)``."""
    return {class_id: features[class_ids == class_id].numpy() for class_id in np.unique(class_ids).tolist()}


def make_exemplars(
    model: Classifier,
    class_ids: NDArray[np.int64],
    stored: Stored,
    class_features: Mapping[int, NDArray[np.floating]],
    *,
    memory: MemoryConfig,
    phase: int,
    learner_id: str,
    rng: np.random.Generator,
) -> list[tuple[int, Record]]:
    """The phase's samples as records, each with its row: class by class, each class in its order of preference. Ranks
    share out what is computed and encoded.

    Selection orders and the memory truncates, so every sample is offered: how many stay is a matter of the budget.
    Each sample is selected by the feature of what is stored of it, against the class mean of full samples.

    Args:
        class_ids: ``(N,)``.
        class_features: by class, ``(M, D)`` features of the full samples that its exemplars are to stand for.
    """
    features = model.features(stored.kept)
    codec = make_codec(memory.codec)
    chosen: list[tuple[int, dict[str, object]]] = []
    for class_id in dict.fromkeys(class_ids.tolist()):
        members = np.flatnonzero(class_ids == class_id)
        of_class = ranked(features[members].numpy(), class_features[class_id], memory.selection, rng)
        for rank, (place, score) in enumerate(of_class):
            chosen.append((int(members[place]), {"class_id": class_id, "score": score, "rank": rank}))

    def encoded(choice: tuple[int, dict[str, object]]) -> tuple[int, Record]:
        sample, place_in_class = choice
        return sample, record_of(stored, sample, codec=codec, phase=phase, learner_id=learner_id, **place_in_class)

    return world.each(chosen, encoded)


def record_of(stored: Stored, sample: int, **fields: object) -> Record:
    """One of the samples as a record; ``fields`` as :func:`~memory_format.make_record` has them."""
    tokens, keep_patches, keep_tokens = stored.tokens, stored.keep_patches[sample], stored.keep_tokens[sample]
    h, w = tokens.grid[sample].tolist()
    keep_mask = keep_patches[: h * w].numpy().reshape(h, w)  # behind it is padding up to the largest grid
    fields |= {
        "token_ids": tokens.token_ids[sample][keep_tokens].numpy(),
        "token_positions": np.flatnonzero(keep_tokens.numpy()),
        "text_length": int(tokens.token_valid[sample].sum()),
    }
    if stored.states is not None:
        states = stored.states.patches[sample, : 1 + int(keep_mask.sum()), 0, 0].numpy()
        return latent.state_record(states, keep_mask, tokens.patch_px, **fields)
    patches = tokens.patches[sample][keep_patches].numpy()
    return make_record(patches=patches, keep_mask=keep_mask, **fields)  # type: ignore[arg-type]


def exemplar_features(
    model: Classifier, records: Sequence[Record], patch_px: int | None = None, batch_size: int = 128
) -> Tensor:
    """Features ``(N, D)`` of at least one exemplar as replay shows it, on the CPU; ``patch_px`` as :func:`to_replay`
    has it."""
    parts = [
        ReplayBatch.from_records(records[start : start + batch_size]) for start in range(0, len(records), batch_size)
    ]
    return torch.cat([model.features(to_replay(to_tensors(part), patch_px).tokens) for part in parts])


def as_split(records: Sequence[Record], class_ids: NDArray[np.int64], patch_px: int | None = None) -> TokenisedSplit:
    """Records as samples of some classes, ``(N,)``; ``patch_px`` as :func:`to_replay` has it."""
    return TokenisedSplit(to_replay(to_tensors(ReplayBatch.from_records(records)), patch_px).tokens, class_ids)


def to_replay(batch: TensorBatch, patch_px: int | None = None) -> Replay:
    """A batch of the client's data set -> tokens and class ids.

    Args:
        patch_px: side of the patches that the model reads; those that were stored with fewer pixels are enlarged.
            None = as they are.
    """
    tokens = Tokens(**{field.name: batch[field.name] for field in fields(Tokens)})
    if ARRAYS_PREFIX + latent.STATES in batch:
        arrays = {name: batch[ARRAYS_PREFIX + name] for name in (latent.STATES, latent.RANGES)}
        return Replay(latent.from_arrays(tokens, arrays), batch["class_id"].numpy(), complete=False)
    complete = bool((tokens.patch_valid.sum(1) == tokens.grid.prod(1)).all())
    tokens = scaled.enlarge(tokens, patch_px or tokens.patch_px)
    return Replay(tokens, batch["class_id"].numpy(), complete)
