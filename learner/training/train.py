"""Training one phase: new data beside replayed exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens, concatenate
from learner.training import augment
from learner.training.ablations.extras import Extras
from learner.training.ablations.stored_logits import joined
from learner.training.loop import fit
from learner.training.settings import TrainConfig
from learner.training.techniques.colour import jitter


@dataclass(frozen=True)
class Replay:
    """One replay batch.

    Attributes:
        tokens: ``(B, ...)``.
        class_ids: ``(B,)``.
        complete: its pictures have all their patches (whole pictures were stored).
        logits: ``(B, C)`` as they were when the exemplars were stored, NaN where there are none; None: none at all.
    """

    tokens: Tokens
    class_ids: NDArray[np.int64]
    complete: bool
    logits: Tensor | None = None


def train_phase(
    model: Classifier,
    new: TokenisedSplit,
    new_keep: Tensor,
    replay: Iterator[Replay] | None,
    *,
    phase: int,
    config: TrainConfig,
    generator: torch.Generator,
    extras: Extras | None = None,
    progress: str = "",
) -> None:
    """Train on the new classes, with as many replayed exemplars a step as there are new samples.

    Args:
        new: the phase's data.
        new_keep: ``(N, K)`` bool, the patches that the masked view of each new sample shows.
        replay: endless replay batches of ``config.batch_size``; None = no replay.
        phase: 0 is the base phase, with epochs of its own.
        generator: all randomness of the phase.
        extras: ablations that are on; None = none.
        progress: what to call it in the progress shown.
    """
    on = extras or Extras()
    raised = on.raised(model.classes_seen, new.class_ids, replayed=replay is not None).to(model.device)

    def loss_of(index: Tensor) -> Tensor:
        # Pixels go to the device as the bytes they are, and views of them are made there.
        samples = TokenisedSplit(new.tokens[index].to(model.device), new.class_ids[index.numpy()])
        keep = new_keep[index].to(model.device)
        views = _new_views(samples, keep, phase, config, generator)
        if replay is not None:
            shown = next(replay)
            shown = replace(shown, tokens=shown.tokens.to(model.device))
            views += _replay_views(shown, samples.tokens, ~keep, config, on, generator)
        views = [_coloured(view, config, on, generator) for view in views if len(view.class_ids)]
        return _loss(model, views, raised, on)

    model.train()
    fit(
        model.parameter_groups(config.rates),
        loss_of,
        num_samples=len(new),
        epochs=config.ssf_epochs if phase else config.base_epochs,
        batch_size=config.batch_size,
        weight_decay=config.weight_decay,
        clipped=model.parameters(),
        clip_norm=config.clip_norm,
        generator=generator,
        progress=progress,
    )
    model.finish_phase(new)


@dataclass(frozen=True)
class _View:
    """Some samples of a step as the model sees them; ``logits`` as in :class:`Replay`."""

    tokens: Tokens
    class_ids: NDArray[np.int64]
    logits: Tensor | None = None


def _new_views(
    new: TokenisedSplit, keep: Tensor, phase: int, config: TrainConfig, generator: torch.Generator
) -> list[_View]:
    """The step's new samples: some whole, some as their masked view, of the patches ``keep`` ``(B, K)``."""
    class_ids = new.class_ids
    tokens = augment.drop_words(new.tokens, config.word_drop, generator)
    if phase == 0:
        tokens = augment.drop_modality(tokens, config.modality_drop, generator)
    masked = torch.rand(len(new), generator=generator) < config.masked_views
    view = tokens[masked].keep_patches(keep[masked])
    return [_View(tokens[~masked], class_ids[~masked.numpy()]), _View(view, class_ids[masked.numpy()])]


def _replay_views(
    replay: Replay,
    new: Tokens,
    new_background: Tensor,
    config: TrainConfig,
    extras: Extras,
    generator: torch.Generator,
) -> list[_View]:
    """The step's exemplars. Masked ones: kept tokens only, or filled. Whole ones: as they are, or a random part of
    their patches, so that both methods train on views of the same kinds."""
    tokens = augment.drop_words(replay.tokens, config.word_drop, generator)
    chosen = torch.rand(len(tokens), generator=generator)
    if replay.complete:
        whole, part = chosen >= config.masked_views, chosen < config.masked_views
        drop = float(torch.empty(1).uniform_(0.4, 0.8, generator=generator))
        view = tokens[part]
        view = view.keep_patches(augment.random_keep(view.patch_valid, drop, generator))
        long = tokens[whole]
    else:
        whole, part = chosen < config.fill, chosen >= config.fill
        view = tokens[part]
        view = view.keep_patches(augment.random_keep(view.patch_valid, config.patch_drop, generator))
        long = extras.fill(tokens[whole], new, new_background, generator)
    return [
        _View(shown, replay.class_ids[rows.numpy()], None if replay.logits is None else replay.logits[rows])
        for shown, rows in ((long, whole), (view, part))
    ]


def _coloured(view: _View, config: TrainConfig, extras: Extras, generator: torch.Generator) -> _View:
    return replace(view, tokens=jitter(extras.view(view.tokens, generator), config.colour, generator))


def _loss(model: Classifier, views: list[_View], raised: Tensor, extras: Extras) -> Tensor:
    """Mean loss over all samples of the step; ``raised`` ``(C,)`` is added to the logits in the cross-entropy.

    Samples of similar length share a forward pass: padding few kept tokens to a whole picture would cost what
    masking saves.
    """
    longest = max(view.tokens.patches.shape[1] for view in views)
    groups = [
        [view for view in views if view.tokens.patches.shape[1] > 0.75 * longest],
        [view for view in views if view.tokens.patches.shape[1] <= 0.75 * longest],
    ]
    total, count = torch.zeros((), device=model.device), 0
    for group in groups:
        if not group:
            continue
        tokens = concatenate([view.tokens for view in group])
        targets = model.targets(np.concatenate([view.class_ids for view in group]))
        logits, own_loss = model.answer(tokens)
        total = total + F.cross_entropy(logits + raised, targets, reduction="sum") + own_loss
        stored = joined([view.logits for view in group], [len(view.class_ids) for view in group])
        for loss in extras.losses(logits, tokens, stored):
            total = total + loss
        count += len(targets)
    return total / count
