"""What the references without a memory have in common: a frozen backbone, and few parameters that steer it.

L2P, DualPrompt and EASE store nothing. They begin with the pretrained backbone and train their own base phase, on the
data, views, optimiser and epochs of all other methods; what a phase trains and how scores come about is theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.model.backbones.base import Backbone
from learner.model.backbones.vilt import NEEDS_VILT, ViltBackbone
from learner.model.classifier import Classifier
from learner.model.settings import Precision, Rates
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens

SMALL = 0.01
"""Prompts and keys start uniformly in [0, SMALL), as in the code of L2P and DualPrompt: a key's direction is soon that
of its queries."""


class FrozenClassifier(Classifier, ABC):
    """A classifier whose backbone never changes.

    Its own modules are all that is neither ``backbone`` nor ``head``; of those, what requires a gradient is trained.
    Old classes' logits take no part in the loss, so that their weights in the head stay as they are (the "class mask"
    of L2P's training; without a memory their scores would only be pushed down).

    Args:
        backbone: a ViLT, whose layers take prompts, prefixes and adapters.
        seed: draws the start of what it adds to the backbone.
    """

    backbone: ViltBackbone

    def __init__(self, backbone: Backbone, device: torch.device, *, bf16: Precision = "auto", seed: int = 0) -> None:
        super().__init__(backbone, device, bf16=bf16)
        if not isinstance(backbone, ViltBackbone):
            raise ValueError(f"{type(self).__name__} puts its own into the layers of a ViLT: {NEEDS_VILT}")
        self.backbone.requires_grad_(False)
        self.round_frozen()
        self.seed = seed
        self.num_phases = 0
        self.num_old = 0
        self.begin(torch.Generator().manual_seed(seed))
        self.to(device)

    @abstractmethod
    def begin(self, generator: torch.Generator) -> None:
        """Make what it adds to the backbone for all phases."""

    @abstractmethod
    def see(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Features ``(B, D)`` for the head, and what the model adds to the loss in training, summed over the samples.

        Args:
            tokens: on the model's device.
        """

    def begin_phase(self, generator: torch.Generator) -> None:
        """Make what phase ``num_phases`` trains, and freeze what it does not."""

    def train(self, mode: bool = True) -> FrozenClassifier:
        super().train(mode)
        self.backbone.eval()
        return self

    def encode(self, tokens: Tokens) -> Tensor:
        return self.see(tokens)[0]

    def answer(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        with self.autocast():
            features, own_loss = self.see(tokens.to(self.device))
        logits = self.head(features.float())
        is_old = torch.arange(logits.shape[1], device=logits.device) < self.num_old
        return logits.masked_fill(is_old, -torch.inf), own_loss

    @torch.no_grad()
    def query(self, tokens: Tokens) -> Tensor:
        """Features ``(B, D)`` float32 of the pretrained backbone alone: the prompts' keys are matched with them."""
        return self.backbone(tokens).float()  # type: ignore[no-any-return]

    def add_classes(self, new: TokenisedSplit) -> None:
        self.num_old = len(self.classes_seen)
        self._next_phase()
        super().add_classes(new)

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        own = [parameter for _, parameter in self._own_parameters() if parameter.requires_grad]
        head = list(self.head.parameters())
        # Decay would shrink what no gradient holds up: the old classes' weights, prompts that are not chosen.
        return [
            {"params": own, "lr": rates.added, "weight_decay": 0.0},
            {"params": head, "lr": rates.head, "weight_decay": 0.0},
        ]

    def tuned_state(self) -> dict[str, Any]:
        own = {name: parameter.detach().cpu() for name, parameter in self._own_parameters()}
        return {"num_phases": self.num_phases, "own": own}

    def restore_tuned(self, saved: dict[str, Any]) -> None:
        while self.num_phases < saved["num_phases"]:
            self._next_phase()
        for name, parameter in self._own_parameters():
            parameter.data.copy_(saved["own"][name])

    def _next_phase(self) -> None:
        # From the phase alone: the same after a resume as without one.
        seed = np.random.SeedSequence([self.seed, self.num_phases]).generate_state(1)[0]
        self.begin_phase(torch.Generator().manual_seed(int(seed)))
        # What is frozen now would keep the gradient of its last step, and training clips by the length of all.
        self.zero_grad()
        self.num_phases += 1
        self.to(self.device)

    def _own_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [item for item in self.named_parameters() if not item[0].startswith(("backbone.", "head."))]


def small_uniform(*shape: int, generator: torch.Generator) -> nn.Parameter:
    """A parameter that starts uniformly in [0, :data:`SMALL`)."""
    return nn.Parameter(SMALL * torch.rand(shape, generator=generator))


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """``(B, M)`` similarities of queries ``(B, D)`` and keys ``(M, D)``."""
    return F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
