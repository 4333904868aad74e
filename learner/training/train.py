"""Training one phase: new data beside replayed exemplars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.model import ssf
from learner.model.attention import AttentionRead
from learner.model.attention_masks import MaskConfig
from learner.model.backbones.vilt import ViltBackbone
from learner.model.head import GrowingHead
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens, concatenate
from learner.run.config import TrainConfig
from learner.training import augment
from learner.training.progress import Progress
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


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(device: torch.device, setting: str) -> bool:
    """Whether to autocast to bfloat16: ``auto`` = where the hardware multiplies in it."""
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Classifier(nn.Module):
    """Backbone and growing head; head index <-> class id in the order the classes came.

    It says what a phase trains and how scores come about; :mod:`learner.baselines` has others that answer otherwise.
    """

    def __init__(self, backbone: ViltBackbone, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = GrowingHead(backbone.feature_dim, kind=config.head)
        self.classes_seen: list[int] = []
        self.device = device
        self.bf16 = use_bf16(device, config.bf16)
        self.to(device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    @property
    def batch_size(self) -> int:
        """Samples of a forward pass without gradients: where a call costs little, padding is what costs."""
        return 32 if self.device.type == "cpu" else 256

    def tune_by_ssf(self, pattern: str = ssf.DEFAULT_PATTERN) -> int:
        """Freeze the backbone and put scales and shifts into it; how many parameters they have, and errors, as in
        :func:`learner.model.ssf.inject`."""
        number = ssf.inject(self.backbone, pattern)
        self.round_frozen()
        return number

    def round_frozen(self) -> None:
        """Hold the blocks' frozen weights as autocast would round them in every pass: the same products for less."""
        if not self.bf16:
            return
        for module in self.backbone.encoder.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.to(torch.bfloat16)

    def targets(self, class_ids: NDArray[np.int64]) -> Tensor:
        """Head indices of class ids."""
        place = {class_id: index for index, class_id in enumerate(self.classes_seen)}
        return torch.tensor([place[int(class_id)] for class_id in class_ids], device=self.device)

    def encode(self, tokens: Tokens) -> Tensor:
        """Features ``(B, F)`` for the head, of tokens on the model's device."""
        return self.backbone(tokens)  # type: ignore[no-any-return]

    def logits(self, tokens: Tokens) -> Tensor:
        """Scores ``(B, C)`` of the classes seen."""
        with self.autocast():
            features = self.encode(tokens.to(self.device))
        return self.head(features.float())  # type: ignore[no-any-return]

    def answer(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits ``(B, C)`` for the training's loss, and a loss of the model's own, summed over the samples."""
        return self.logits(tokens), torch.zeros((), device=self.device)

    @torch.no_grad()
    def head_logits(self, features: Tensor) -> Tensor:
        """Logits of features that are there already, on the CPU."""
        return self.head(features.to(self.device)).cpu()  # type: ignore[no-any-return]

    def features(self, tokens: Tokens) -> Tensor:
        """Features ``(N, F)`` float32 on the CPU, without gradients."""

        def compute(part: Tokens) -> Tensor:
            with self.autocast():
                return self.encode(part.to(self.device))

        return self._of_all(compute, tokens)

    def scores(self, tokens: Tokens) -> Tensor:
        """:meth:`logits` ``(N, C)`` on the CPU, without gradients."""
        return self._of_all(self.logits, tokens)

    @torch.no_grad()
    def _of_all(self, compute: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
        """What ``compute`` gives for each of any number of samples, float32 on the CPU."""
        self.eval()
        rows, values = zip(
            *((rows, compute(part).float().cpu()) for rows, part in tokens.by_length(self.batch_size)), strict=True
        )
        return torch.cat(values)[torch.cat(rows).argsort()]

    @torch.no_grad()
    def read(self, tokens: Tokens, mask: MaskConfig) -> Iterator[tuple[Tensor, Tokens, Tensor, AttentionRead]]:
        """Batches in any order: which rows they are, their tokens, their features ``(B, F)`` and what attention
        ``mask`` needs, without gradients."""
        self.eval()
        for rows, part in tokens.by_length(self.batch_size):
            batch = part.to(self.device)
            with self.autocast():
                features, read = self.backbone.read(
                    batch, layers=mask.layers, last_layers=mask.last_layers, heads=mask.heads, text=mask.text
                )
            yield rows, batch, features.float(), read

    def add_classes(self, new: TokenisedSplit) -> None:
        """Grow the head by the classes of ``new``."""
        fresh = [c for c in dict.fromkeys(new.class_ids.tolist()) if c not in self.classes_seen]
        if self.head.kind == "cosine":
            # At their mean features: "imprinting" (Qi et al., CVPR 2018).
            features = F.normalize(self.features(new.tokens), dim=1)
            start = torch.stack([features[torch.from_numpy(new.class_ids == c)].mean(0) for c in fresh])
        else:
            # At zero: features share a large common part, so imprinted classes would outshout all others at first.
            start = torch.zeros(len(fresh), self.backbone.feature_dim)
        self.head.grow(start)
        self.classes_seen += fresh

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """What a phase trains, for an optimiser: SSF where it is in place, else the whole backbone; and the head."""
        tuned = list(ssf.scale_shift_parameters(self.backbone))
        if tuned:
            backbone = {"params": tuned, "lr": config.ssf_lr, "weight_decay": 0.0}
        else:
            whole = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
            backbone = {"params": whole, "lr": config.base_lr}
        return [backbone, {"params": list(self.head.parameters()), "lr": config.head_lr}]

    def finish_phase(self, new: TokenisedSplit) -> None:
        """What is left to do with a phase's data once it has been trained on."""

    def tuned_state(self) -> dict[str, Any]:
        """What phases change beside the head, for a checkpoint."""
        return {"ssf": [parameter.detach().cpu() for parameter in ssf.scale_shift_parameters(self.backbone)]}

    def restore_tuned(self, saved: dict[str, Any]) -> None:
        """Inverse of :meth:`tuned_state`, in a model that no phase has changed."""
        for parameter, value in zip(ssf.scale_shift_parameters(self.backbone), saved["ssf"], strict=True):
            parameter.data.copy_(value)


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
    groups = model.parameter_groups(config)
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
