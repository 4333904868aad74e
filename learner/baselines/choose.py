"""The references without a memory, by name."""

from __future__ import annotations

from learner.baselines.dual_prompt import DualPrompt
from learner.baselines.ease import Ease
from learner.baselines.frozen import FrozenClassifier
from learner.baselines.l2p import L2P

REFERENCES: dict[str, type[FrozenClassifier]] = {"l2p": L2P, "dualprompt": DualPrompt, "ease": Ease}
"""By :data:`learner.run.method_parts.Model`."""
