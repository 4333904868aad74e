"""EASE: an adapter for each phase, and prototypes in all of their feature spaces.

Zhou et al., "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR 2024. A phase
trains an adapter of its own, beside the two linear maps of every layer (ReLU(x W_down) W_up, r = 16), by a cosine
classifier of its classes that is for training only. A class's prototype is its mean feature, in every adapter's space.
Of old classes there is no data when a new space comes: their prototypes there are mixed from those of the new
classes, by how alike the two are in the old class's own space (:func:`synthesise`). The test adds up the cosines to a
class's prototypes, its own space weighing 1 and the mean of the others alpha = 0.1 (:func:`scores`).

As in the authors' code: the mean of the other spaces, where the paper sums them. As in the paper and not as in the
code: adapters see what the linear maps see, and are not scaled down.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.baselines.frozen import FrozenClassifier
from learner.model.backbones.block import Additions
from learner.model.classifier import GrowingHead
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens

BOTTLENECK = 16
"""r, width of an adapter."""
OTHER_SPACES = 0.1
"""Alpha, weight of the spaces that are not a class's own."""


class Adapter(nn.Module):
    """``ReLU(x W_down) W_up``; zero until trained."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(dim, BOTTLENECK)
        self.up = nn.Linear(BOTTLENECK, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(F.relu(self.down(x)))
        return out


class Ease(FrozenClassifier):
    """``adapters``, a list of one for each layer for each phase; ``prototypes`` ``(C, S, D)`` in the order of
    ``classes_seen``, S the phases; ``spaces`` ``(C,)``, the phase that each class came in."""

    def begin(self, generator: torch.Generator) -> None:
        self.head = GrowingHead(self.backbone.feature_dim, kind="cosine")
        self.adapters = nn.ModuleList()
        self.prototypes = torch.zeros((0, 0, self.backbone.feature_dim), device=self.device)
        self.spaces = torch.zeros(0, dtype=torch.long, device=self.device)

    def begin_phase(self, generator: torch.Generator) -> None:
        self.adapters.requires_grad_(False)
        layers = range(len(self.backbone.encoder.layer))
        self.adapters.append(nn.ModuleList(Adapter(self.backbone.dim, generator) for _ in layers))

    def see(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return self._in_space(tokens, -1), torch.zeros((), device=self.device)

    def logits(self, tokens: Tokens) -> Tensor:
        return scores(self._in_all_spaces(tokens), self.prototypes, self.spaces)

    @torch.no_grad()
    def finish_phase(self, new: TokenisedSplit) -> None:
        self.eval()
        features = torch.cat([self._in_all_spaces(part.tokens) for part in new.batches(128)])
        targets = self.targets(new.class_ids)
        means = torch.stack(
            [features[targets == place].mean(0) for place in range(self.num_old, self.head.num_classes)]
        )
        guessed = synthesise(self.prototypes, self.spaces, means)
        self.prototypes = torch.cat([torch.cat([self.prototypes, guessed[:, None]], dim=1), means])
        self.spaces = torch.cat([self.spaces, self.spaces.new_full((len(means),), self.num_phases - 1)])

    def tuned_state(self) -> dict[str, Any]:
        return super().tuned_state() | {"prototypes": self.prototypes.cpu(), "spaces": self.spaces.cpu()}

    def restore_tuned(self, saved: dict[str, Any]) -> None:
        super().restore_tuned(saved)
        self.prototypes, self.spaces = (saved[name].to(self.device) for name in ("prototypes", "spaces"))

    def _in_space(self, tokens: Tokens, space: int) -> Tensor:
        adapters: Any = self.adapters[space]
        return self.backbone(tokens, Additions(adapters=adapters))  # type: ignore[no-any-return]

    def _in_all_spaces(self, tokens: Tokens) -> Tensor:
        """Features ``(B, S, D)`` float32, one forward pass for each adapter."""
        tokens = tokens.to(self.device)
        with self.autocast():
            features = [self._in_space(tokens, space) for space in range(len(self.adapters))]
        return torch.stack(features, dim=1).float()


def synthesise(prototypes: Tensor, spaces: Tensor, new: Tensor) -> Tensor:
    """Old classes' prototypes ``(C, D)`` in the newest space, where no data of theirs was seen: those of the new
    classes, weighted by the softmax of their cosines to the old class in the space that it came in.

    Args:
        prototypes: ``(C, S - 1, D)`` of the old classes.
        spaces: ``(C,)``, which of them is each class's own.
        new: ``(C_new, S, D)`` of the new classes, the newest space last.
    """
    own = F.normalize(prototypes[torch.arange(len(spaces)), spaces], dim=-1)
    there = F.normalize(new[:, spaces], dim=-1)
    similarity = torch.einsum("cd,ncd->cn", own, there)
    return similarity.softmax(1) @ new[:, -1]


def scores(features: Tensor, prototypes: Tensor, spaces: Tensor) -> Tensor:
    """``(B, C)`` from features ``(B, S, D)`` and prototypes ``(C, S, D)``: the cosine in each class's own space, and
    :data:`OTHER_SPACES` times the mean of those in the others."""
    cosine = torch.einsum("bsd,csd->bcs", F.normalize(features, dim=-1), F.normalize(prototypes, dim=-1))
    is_own = F.one_hot(spaces, features.shape[1]).bool()
    others = OTHER_SPACES / max(1, features.shape[1] - 1)
    return (cosine * torch.where(is_own, 1.0, others)).sum(-1)
