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
from learner.training.progress import Progress
from learner.training.settings import TrainConfig
from learner.training.techniques.balance import log_shares
from learner.training.techniques.colour import jitter
from learner.training.techniques.distill import distillation_loss
from learner.training.techniques.fill import fill
from learner.training.techniques.flip import flip
from learner.training.techniques.stored_logits import stored_logits_loss


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


def one_cycle(optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Up to each group's rate in the first fifth of the steps, down to nothing in the rest; for any number of them,
    none too."""
    total = num_steps + 1  # the schedule sets the first step's rate before it
    rising = 0.2
    if rising * total == 1:
        # torch's rise would be from step 0 to step 0, and a division by zero (2.14): one that ends just after it.
        rising *= 1.01
    rates = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=total, pct_start=rising)


def train_phase(
    model: Classifier,
    new: TokenisedSplit,
    new_keep: Tensor,
    replay: Iterator[Replay] | None,
    *,
    phase: int,
    config: TrainConfig,
    generator: torch.Generator,
    teacher: Classifier | None = None,
    progress: str = "",
) -> None:
    """Train on the new classes, with as many replayed exemplars a step as there are new samples.

    Args:
        new: the phase's data.
        new_keep: ``(N, K)`` bool, the patches that the masked view of each new sample shows.
        replay: endless replay batches of ``config.batch_size``; None = no replay.
        phase: 0 is the base phase, with epochs of its own.
        generator: all randomness of the phase.
        teacher: the model before the phase, for ``config.distill``.
        progress: what to call it in the progress shown.
    """
    groups = model.parameter_groups(config.rates)
    epochs = config.ssf_epochs if phase else config.base_epochs
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    steps_per_epoch = -(-len(new) // config.batch_size)
    num_steps = epochs * steps_per_epoch
    schedule = one_cycle(optimizer, num_steps)
    shares = log_shares(model.classes_seen, new.class_ids, replayed=replay is not None)
    raised = config.balance * shares.to(model.device)
    model.train()
    with Progress(num_steps, progress) as shown_progress:
        for _ in range(epochs):
            order = torch.randperm(len(new), generator=generator)
            for index in order.split(config.batch_size):
                # Pixels go to the device as the bytes they are, and views of them are made there.
                samples = TokenisedSplit(new.tokens[index].to(model.device), new.class_ids[index.numpy()])
                keep = new_keep[index].to(model.device)
                views = _new_views(samples, keep, phase, config, generator)
                if replay is not None:
                    shown = next(replay)
                    shown = replace(shown, tokens=shown.tokens.to(model.device))
                    views += _replay_views(shown, samples.tokens, ~keep, config=config, generator=generator)
                views = [_augmented(view, config, generator) for view in views if len(view.class_ids)]
                loss = _loss(model, teacher, views, raised, config)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                schedule.step()
                shown_progress.step(loss=loss.item())
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
    replay: Replay, new: Tokens, new_background: Tensor, *, config: TrainConfig, generator: torch.Generator
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
        long = fill(tokens[whole], config.fill_from, new, new_background, generator)
    return [
        _View(shown, replay.class_ids[rows.numpy()], None if replay.logits is None else replay.logits[rows])
        for shown, rows in ((long, whole), (view, part))
    ]


def _augmented(view: _View, config: TrainConfig, generator: torch.Generator) -> _View:
    tokens = flip(view.tokens, config.flip, generator)
    return replace(view, tokens=jitter(tokens, config.colour, generator))


def _loss(
    model: Classifier, teacher: Classifier | None, views: list[_View], raised: Tensor, config: TrainConfig
) -> Tensor:
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
        if teacher is not None:
            with torch.no_grad():
                said = teacher.logits(tokens)
            total = total + config.distill * distillation_loss(logits, said)
        if config.stored_logits and any(view.logits is not None for view in group):
            total = total + config.stored_logits * stored_logits_loss(logits, _stored_logits(group).to(model.device))
        count += len(targets)
    return total / count


def _stored_logits(views: list[_View]) -> Tensor:
    """``(B, C)`` of all samples of the views, NaN where there are none."""
    width = max(view.logits.shape[1] for view in views if view.logits is not None)
    rows = []
    for view in views:
        known = torch.zeros((len(view.class_ids), 0)) if view.logits is None else view.logits
        rows.append(F.pad(known, (0, width - known.shape[1]), value=torch.nan))
    return torch.cat(rows)
