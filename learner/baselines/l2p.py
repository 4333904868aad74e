"""L2P: a pool of prompts, of which each sample gets those whose keys are nearest to its query.

Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022. The query is the pretrained model's class token
(q(x) = f(x)[0], section 4.2); the N keys of largest cosine are chosen (equation 3); their prompts go in front of the
embedded tokens, and the mean of the prompts' last states is classified (section 4.1); chosen keys are pulled to the
query by lambda = 0.5 times their cosine distance (equation 5). M, N and the length are the paper's for CIFAR-100.

Chosen sample by sample, as in the paper; its code lets a batch vote for one choice, at the test too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.baselines.frozen import FrozenClassifier, cosines, small_uniform
from learner.model.backbones.block import Additions
from learner.model.tokens import Tokens

POOL = 10
"""M, prompts in the pool."""
CHOSEN = 5
"""N, prompts that a sample gets."""
LENGTH = 5
"""Tokens of a prompt."""
PULL = 0.5
"""Lambda, weight of the keys' distance to the queries."""


class L2P(FrozenClassifier):
    """``prompts`` ``(M, L, D)`` and their ``keys`` ``(M, D)``, shared by all phases."""

    def begin(self, generator: torch.Generator) -> None:
        self.prompts = small_uniform(POOL, LENGTH, self.backbone.dim, generator=generator)
        self.keys = small_uniform(POOL, self.backbone.feature_dim, generator=generator)

    def see(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        similarity, chosen = choose(self.query(tokens), self.keys)
        prompts = self.prompts[chosen].flatten(1, 2)
        return self.backbone.prompted(tokens, Additions(prompts=prompts)), PULL * (1 - similarity).sum()


def choose(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and places ``(B, N)`` of the keys ``(M, D)`` nearest to each query ``(B, D)``, nearest first."""
    similarity, chosen = cosines(queries, keys).topk(CHOSEN, dim=1)
    return similarity, chosen
