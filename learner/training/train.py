"""Training one phase: new data beside replayed exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from learner import abreast, world
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens, concatenate
from learner.training import augment
from learner.training.loop import AdamW, Progress, one_cycle
from learner.training.settings import TrainConfig


@dataclass(frozen=True)
class Replay:
    """One replay batch.

    Attributes:
        tokens: ``(B, ...)``.
        class_ids: ``(B,)``.
        complete: its pictures have all their patches (whole pictures were stored).
    """

    tokens: Tokens
    class_ids: NDArray[np.int64]
    complete: bool


def train_phase(
    model: Classifier,
    new: TokenisedSplit,
    new_keep: Tensor,
    replay: Iterator[Replay] | None,
    *,
    phase: int,
    config: TrainConfig,
    generator: torch.Generator,
    progress: str = "",
) -> None:
    """Train on the new classes, with replayed exemplars in each step.

    Args:
        new: the phase's data.
        new_keep: ``(N, K)`` bool, the patches that the masked view of each new sample shows.
        replay: replay batches of ``config.replayed``, or this rank's share of each, one for each of
            ``config.num_steps``; None = no replay.
        phase: 0 is the base phase, with epochs of its own.
        generator: all randomness of the phase.
        progress: what to call it in the progress shown.
    """

    # Ranks go through the samples in one order, and show each its share in its own way.
    drawing = generator if world.size() == 1 else _of_rank(generator)

    def gradients_of(step: Tensor) -> float:
        index = step[world.rank() :: world.size()]
        # Pixels go to the device as the bytes they are, and views of them are made there.
        samples = TokenisedSplit(new.tokens[index].to(model.device), new.class_ids[index.numpy()])
        views = []
        if len(index):
            views += _new_views(samples, new_keep[index].to(model.device), phase, config, drawing)
        if replay is not None:
            exemplars = next(replay)
            exemplars = replace(exemplars, tokens=exemplars.tokens.to(model.device))
            beside = samples.tokens if len(index) else new.tokens[step[:1]].to(model.device)
            views += _replay_views(exemplars, beside, config, drawing)
        shown = [view for view in views if len(view)]
        jittered = [replace(v, tokens=augment.jitter(v.tokens, config.colour, drawing)) for v in shown]
        return _gradients(model, jittered, parameters)

    model.train()
    parameters = list(model.parameters())
    optimizer = AdamW(model.parameter_groups(config.rates), weight_decay=config.weight_decay, fused=True)
    num_steps = config.num_steps(phase, len(new))
    schedule = one_cycle(optimizer, num_steps)
    with Progress(num_steps, progress if world.rank() == 0 else "") as shown_progress:
        for _ in range(config.epochs(phase)):
            for index in torch.randperm(len(new), generator=generator).split(config.batch_size):
                optimizer.zero_grad()
                loss = gradients_of(index)
                world.add_gradients(parameters)
                # Of float32: in float16 torch 2.14.1 makes all of them 0 where their norm is beyond 65,504
                # (findings/torch_clip_half.sh).
                torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm, foreach=True)
                optimizer.step()
                schedule.step()
                shown_progress.step(loss=loss)
    world.be_as_first(parameter for parameter in parameters if parameter.requires_grad)
    # What is frozen next would keep its gradients, which are as large as it is.
    optimizer.zero_grad()
    model.finish_phase(new)


def _of_rank(generator: torch.Generator) -> torch.Generator:
    """Randomness of this rank alone, for the same phase."""
    # Not the rank in the upper bits of one seed: on a CPU torch 2.14.1 drops them (findings/torch_seed_halves.sh).
    own = np.random.SeedSequence([generator.initial_seed(), world.rank()]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(own >> 1))


def _new_views(
    new: TokenisedSplit, keep: Tensor, phase: int, config: TrainConfig, generator: torch.Generator
) -> list[TokenisedSplit]:
    """The step's new samples: some whole, some as their masked view, of the patches ``keep`` ``(B, K)``."""
    class_ids = new.class_ids
    tokens = augment.drop_words(new.tokens, config.word_drop, generator)
    if phase == 0:
        tokens = augment.drop_modality(tokens, config.modality_drop, generator)
    masked = torch.rand(len(new), generator=generator) < config.masked_views
    view = tokens[masked].keep_patches(keep[masked])
    return [
        TokenisedSplit(tokens[~masked], class_ids[~masked.numpy()]),
        TokenisedSplit(view, class_ids[masked.numpy()]),
    ]


def _replay_views(replay: Replay, new: Tokens, config: TrainConfig, generator: torch.Generator) -> list[TokenisedSplit]:
    """The step's exemplars. Masked ones: kept tokens only, or filled. Whole ones: as they are, or a random part of
    their patches, so that both methods train on views of the same kinds."""
    tokens = augment.drop_words(replay.tokens, config.word_drop, generator)
    if tokens.are_states:
        kept = augment.random_keep(tokens.patch_valid, config.patch_drop, generator)
        kept[:, 0] = True  # the class token's
        return [TokenisedSplit(tokens.keep_patches(kept), replay.class_ids)]
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
        long = augment.fill(tokens[whole], new, generator)
    return [TokenisedSplit(long, replay.class_ids[whole.numpy()]), TokenisedSplit(view, replay.class_ids[part.numpy()])]


def _gradients(model: Classifier, views: list[TokenisedSplit], parameters: Sequence[Tensor]) -> float:
    """Mean loss over all samples of the step; the parameters are given its gradients. Of several ranks, this one's
    share of both."""
    count = world.total(sum(map(len, views)))
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def of_part(part: TokenisedSplit) -> tuple[Tensor, Sequence[Tensor | None]]:
        logits, own_loss = model.answer(part.tokens)
        targets = model.targets(part.class_ids)
        # No mean of means, whose shares may differ, nor a DTensor: over two ranks torch 2.14.1 gives its mse_loss twice
        # the gradient (findings/torch_dtensor_losses.sh).
        loss = (F.cross_entropy(logits, targets, reduction="sum") + own_loss) / count
        if not loss.requires_grad:
            return loss, [None] * len(trained)
        return loss.detach(), torch.autograd.grad(loss, trained, allow_unused=True)

    total = torch.zeros((), device=model.device)
    for loss, found in abreast.each(of_part, [(part,) for part in _parts(model, views)], model.abreast):
        total = total + loss
        # In the order of the parts, whichever was ready first: the same sums each time.
        for parameter, gradient in zip(trained, found, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                # Laid out as its parameter: what it is not, AdamW takes for other numbers
                # (findings/torch_fused_adam_layout.sh).
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            else:
                parameter.grad += gradient
    return total.item()


def _parts(model: Classifier, views: list[TokenisedSplit]) -> Iterator[TokenisedSplit]:
    """The samples of a step, as they share forward passes.

    Where padding costs (:attr:`~learner.model.backbones.base.Backbone.dense`), samples of similar length share one:
    padding few kept tokens to a whole picture would cost what masking saves. Where it does not, each of the passes
    that are computed abreast has as many long samples, and short ones, as the others.
    """
    longest = max((view.tokens.patches.shape[1] for view in views), default=0)
    similar = 0.0 if model.backbone.dense else 0.75 * longest
    pixels = [view for view in views if not view.tokens.are_states]
    for group in (
        [view for view in pixels if view.tokens.patches.shape[1] > similar],
        [view for view in pixels if view.tokens.patches.shape[1] <= similar],
        [view for view in views if view.tokens.are_states],
    ):
        if group:
            tokens = concatenate([view.tokens for view in group])
            class_ids = np.concatenate([view.class_ids for view in group])
            if model.abreast == 1:
                yield TokenisedSplit(tokens, class_ids)
            else:
                yield from (
                    TokenisedSplit(tokens[rows], class_ids[rows.numpy()]) for rows in tokens.dealt(model.abreast)
                )
