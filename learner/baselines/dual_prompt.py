"""DualPrompt: a general prompt in the first layers, and in the next ones an expert prompt for each phase.

Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022. Both are prefixes
of attention (equation 5). A phase trains the general prompt, its own expert prompt and that one's key, which the
cosine distance to the phase's queries pulls to them (equation 6, weight 1 in equation 8); at the test the nearest key
chooses the expert. Layers and lengths are the paper's: general in the first two, 5 long, expert in the next three, 20
long.

As in the authors' code a prefix joins the keys and values after their projection; their expert prompt also starts
where the last phase's ended, which the paper does not say and is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learner.baselines.frozen import FrozenClassifier, cosines, small_uniform
from learner.model.backbones.block import Additions, Prefix
from learner.model.tokens import Tokens

GENERAL_LAYERS, EXPERT_LAYERS = 2, 3
"""How many layers have which prompt: the first ones, and those that follow."""
GENERAL_LENGTH, EXPERT_LENGTH = 5, 20
PULL = 1.0
"""Lambda, weight of the key's distance to the queries."""


class DualPrompt(FrozenClassifier):
    """``general`` ``(layers, 2, L, D)``, keys before values; ``experts`` alike and ``keys`` ``(D,)``, one a phase."""

    def begin(self, generator: torch.Generator) -> None:
        depth = len(self.backbone.encoder.layer)
        # A backbone of few layers keeps at least one for the experts.
        first = min(GENERAL_LAYERS, depth - 1)
        self.general_layers = range(first)
        self.expert_layers = range(first, min(first + EXPERT_LAYERS, depth))
        self.general = small_uniform(first, 2, GENERAL_LENGTH, self.backbone.dim, generator=generator)
        self.experts = nn.ParameterList()
        self.keys = nn.ParameterList()

    def begin_phase(self, generator: torch.Generator) -> None:
        self.experts.requires_grad_(False)
        self.keys.requires_grad_(False)
        dim = self.backbone.dim
        self.experts.append(small_uniform(len(self.expert_layers), 2, EXPERT_LENGTH, dim, generator=generator))
        self.keys.append(small_uniform(self.backbone.feature_dim, generator=generator))

    def see(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        similarity = cosines(self.query(tokens), torch.stack(list(self.keys)))
        if self.training:
            expert = torch.full((len(tokens),), self.num_phases - 1, device=similarity.device)
        else:
            expert = similarity.argmax(1)
        chosen = torch.stack(list(self.experts))[expert].transpose(0, 1)
        prefixes = {
            layer: Prefix(pair[:1], pair[1:]) for layer, pair in zip(self.general_layers, self.general, strict=True)
        }
        prefixes |= {layer: Prefix(*pair.unbind(1)) for layer, pair in zip(self.expert_layers, chosen, strict=True)}
        features = self.backbone(tokens, Additions(prefixes=prefixes))
        return features, PULL * (1 - similarity[:, -1]).sum()
