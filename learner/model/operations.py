"""How many operations the blocks of a transformer take, by their shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """A transformer's blocks: how many, and how wide they are outside (D) and inside of their two linear maps."""

    layers: int
    width: int
    inner: int

    def forward(self, tokens: float) -> float:
        """Operations of one sample of so many tokens."""
        return self._linear(tokens, self.layers) + self._attention(tokens, self.layers)

    def backward(self, tokens: float, tuned: int, *, weights: bool) -> float:
        """The same of its backward pass through the ``tuned`` last layers: what comes out of a product has gradients to
        both of its factors, but a frozen map's weights (``weights`` False) want none."""
        linear = self._linear(tokens, tuned)
        return linear * (2 if weights else 1) + 2 * self._attention(tokens, tuned)

    def _linear(self, tokens: float, layers: int) -> float:
        return 2 * tokens * layers * (4 * self.width**2 + 2 * self.width * self.inner)

    def _attention(self, tokens: float, layers: int) -> float:
        return 4 * tokens**2 * layers * self.width
