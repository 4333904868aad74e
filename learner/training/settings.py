"""Settings: how phases are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learner.model.settings import HeadKind, Precision, Rates
from learner.ranges import FINITE, within

Draw = Literal["class_balanced", "uniform", "forgotten"]

MAX_BATCH = 4096
"""Records a draw that the service gives at most."""


@dataclass(frozen=True)
class TrainConfig:
    """How phases are trained.

    Attributes:
        base_tunes: what phase 0 trains beside the head: ``ssf`` alone, as all later phases, or the whole ``backbone``.
        ssf_layers: how many of the last layers SSF tunes; 0 = all. The others stay as they are and need no backward
            pass.
        later_layers: how many of the last layers phases after the first tune; 0 = those that the first tunes.
        base_epochs: passes over the data of phase 0.
        base_lr: highest learning rate of the whole backbone.
        ssf_epochs: passes over the new data of each later phase.
        ssf_lr: highest learning rate of SSF.
        head_lr: highest learning rate of the head.
        added_lr: highest learning rate of what L2P, DualPrompt and EASE add to their frozen backbone.
        head: the classifier: ``linear``, or ``cosine``, which does not look at lengths.
        clip_norm: largest norm of a step's gradient.
        batch_size: new samples a step.
        replay: replayed exemplars a step, for each new sample.
        draw: which exemplars replay draws: ``class_balanced``: a class with equal chances, then one of its exemplars;
            ``uniform``: any; ``forgotten``: the more often, the worse the model of the last phase's end knows it.
        weight_decay: AdamW's, but for SSF, which has none.
        masked_views: share of the new (and of full replayed) samples shown as their masked view, so that few tokens
            do not come to mean an old class.
        patch_drop: share of the patches of replayed exemplars that are dropped at random.
        word_drop: share of all words that are dropped at random.
        fill: share of masked exemplars whose dropped places are filled, with patches of a new picture.
        repair_text: share of replayed exemplars that get the text of another of their class (done by the service).
        colour: how far brightness, contrast and saturation of a sample move at most, as a share; 0 = not at all.
        refit: test with a classifier that is fitted to the exemplars (:mod:`learner.training.refit`),
            where there is a memory.
        translate: fit that classifier to what the exemplars' whole pictures would give
            (:mod:`learner.training.refit`).
        modality_drop: share of base-phase samples that are shown without their picture, and the same share without
            their words; those that have only one of both keep it.
        bf16: train in bfloat16; ``auto``: where the hardware has it.
        compile: compile the backbone's blocks by ``torch.compile``: a minute or more at the start, for quicker steps. A
            CPU needs a C++ compiler for it.
        decode_on_device: decode replayed JPEG exemplars on the model's device; needs ``memory.codec`` to be JPEG.
    """

    base_tunes: Literal["ssf", "backbone"] = "ssf"
    ssf_layers: int = 0
    later_layers: int = 0
    base_epochs: int = 12
    base_lr: float = 1e-4
    ssf_epochs: int = 3
    ssf_lr: float = 3e-3
    head: HeadKind = "linear"
    clip_norm: float = 1.0
    head_lr: float = 3e-3
    added_lr: float = 3e-3
    batch_size: int = 24
    replay: float = 1.0
    draw: Draw = "class_balanced"
    weight_decay: float = 0.05
    masked_views: float = 0.5
    patch_drop: float = 0.15
    word_drop: float = 0.1
    fill: float = 0.5
    repair_text: float = 0.25
    colour: float = 0.0
    refit: bool = True
    translate: bool = True
    modality_drop: float = 0.15
    bf16: Precision = "auto"
    compile: bool = False
    decode_on_device: bool = False

    @property
    def rates(self) -> Rates:
        """The learning rates, for a model's parts."""
        return Rates(self.base_lr, self.ssf_lr, self.head_lr, self.added_lr)

    @property
    def replayed(self) -> int:
        """Exemplars a step, one at least."""
        return max(1, round(self.replay * self.batch_size))

    def epochs(self, phase: int) -> int:
        """Passes over the new data of a phase."""
        return self.ssf_epochs if phase else self.base_epochs

    def num_steps(self, phase: int, num_samples: int) -> int:
        """Steps of a phase with so many new samples."""
        return self.epochs(phase) * -(-num_samples // self.batch_size)

    def __post_init__(self) -> None:
        within(self, 0, 1, "masked_views", "patch_drop", "word_drop", "fill", "repair_text", "colour")
        within(self, 0, 0.5, "modality_drop")  # counts for each of two modalities
        within(self, 0, 10**9, "base_epochs", "ssf_epochs", "ssf_layers", "later_layers")
        within(self, 1, MAX_BATCH, "batch_size")
        within(self, 0.01, 16, "replay")
        if self.replayed > MAX_BATCH:
            raise ValueError(
                f"replay times batch_size are {self.replayed} exemplars a step; a draw gives {MAX_BATCH} at most"
            )
        within(self, 0, FINITE, "base_lr", "ssf_lr", "head_lr", "added_lr", "weight_decay")
        within(self, 1e-9, FINITE, "clip_norm")
        if self.translate and not self.refit:
            raise ValueError("translate needs refit, the classifier that it is for: turn both off, or leave both on")
