"""What a learner asks of a backbone: the port that every kind of model is behind.

:class:`~learner.model.backbones.vilt.ViltBackbone` reads pictures and words in one sequence. Models of pictures alone
are behind :class:`~learner.model.backbones.pictures.PictureBackbone`, which asks still less of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.model.attention_masks import AttentionRead
from learner.model.tokens import Tokens, special_tokens


class Backbone(nn.Module, ABC):
    """Tokens in; features and what masks are made of out.

    The samples of a batch ``(B, K, P, P, 3)`` may be whole or any part of themselves: a backbone computes with the
    patches that are there, at the places that they have in their picture, and with no others.
    """

    @property
    @abstractmethod
    def feature_dim(self) -> int:
        """F, of a sample's feature."""

    @property
    @abstractmethod
    def dense(self) -> bool:
        """Whether padding is left out of a pass, so that samples of any lengths may share one."""

    @property
    def reentrant(self) -> bool:
        """Whether threads may pass at once, each a batch of its own, and whether that is of use: on a CPU, where a pass
        draws nothing and leaves nothing behind in the model meanwhile."""
        return False

    @property
    @abstractmethod
    def reads_words(self) -> bool:
        """Whether its patches attend to words, by which texts can be masked."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """Its blocks, the first one first; none where they are not known. They are compiled one by one, and hold what
        autocast would round."""

    @abstractmethod
    def ssf_pattern(self, last: int = 0) -> str:
        """Which modules SSF tunes, by their names: those of the ``last`` layers, 0 = all.

        Raises:
            ValueError: it has not so many.
        """

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tensor:
        """Features ``(B, F)``."""

    @abstractmethod
    def read(self, tokens: Tokens, *, last_layers: int = 1, text: bool = True) -> tuple[Tensor, AttentionRead]:
        """Features ``(B, F)`` and attention, the mean of that of ``last_layers``; onto the words with ``text``.

        Raises:
            ValueError: there are not so many layers, or no attention onto words.
        """

    def compile_blocks(self) -> None:
        """Have ``torch.compile`` compile each block at its first use, for sequences of any length."""
        for layer in self.layers:
            layer.compile(dynamic=True)


def beside_words(state: Tensor, embedded: Tensor, tokens: Tokens) -> Tensor:
    """A sample's state ``(B, D)`` and beside it the mean of its embedded words ``(B, T, E)``, of ``[CLS]`` and
    ``[SEP]`` none: ``(B, D + E)``. Both halves are as long as each other, so that neither outweighs the other; the
    second is zero, where there are no words."""
    words = (tokens.token_valid & ~special_tokens(tokens)).to(embedded.dtype)[:, :, None]
    mean = (embedded[:, : words.shape[1]] * words).sum(1) / words.sum(1).clamp(min=1)
    length = state.detach().norm(dim=1, keepdim=True)
    return torch.cat([state, F.normalize(mean, dim=1) * length], dim=1)
