"""What a run asks of a machine, counted from its settings and its data before anything is computed.

An estimate: every picture counts as a whole square, and every exemplar as a whole picture. Masked ones are shorter, so
that their methods cost less. Products of matrices are counted and nothing else: a multiplication and an addition are
two operations, as in what makers say of their devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from learner.model.operations import Encoder
from learner.run.config import LearnerConfig
from learner.run.problem import Problem


@dataclass(frozen=True)
class Load:
    """What the phases of some data hold.

    Attributes:
        new: samples to train on that come in each phase.
        tests: samples that are tested on after each phase.
        tokens: of a sample, on average: patches, words and a class token.
        exemplars: that the memory has room for, as whole pictures, after the last phase.
    """

    new: Sequence[int]
    tests: Sequence[int]
    tokens: float
    exemplars: int


@dataclass(frozen=True)
class Cost:
    """Of one method that stores whole pictures, its base phase included.

    Attributes:
        steps: of training.
        trained: samples that pass forward and backward, new and replayed ones.
        passed: samples that pass forward alone, for masks, selection, the classifier and tests.
        operations: of all products of matrices; None where the backbone's shape is not known before it is made.
        picture_bytes: of the pixels of the largest phase, which are in memory at once.
    """

    steps: int
    trained: int
    passed: int
    operations: float | None
    picture_bytes: int

    def __str__(self) -> str:
        counted = "" if self.operations is None else f", {_short(self.operations)}FLOP of matrix products"
        return (
            f"{self.steps:,} steps, {self.trained:,} samples trained on, {self.passed:,} passed{counted}; "
            f"{_short(self.picture_bytes)}B of pixels in memory at once"
        )


def _short(value: float) -> str:
    """In three digits, and the beginning of its unit: ``1.23 G``."""
    power = max((power for power in range(0, 19, 3) if value >= 10**power), default=0)
    return f"{value / 10**power:.3g} {dict(zip(range(0, 19, 3), ('', *'kMGTPE'), strict=True))[power]}"


def estimate(config: LearnerConfig, load: Load, encoder: Encoder | None) -> Cost:
    """What the phases of some data cost with a configuration that leaves nothing to the data."""
    train = config.train
    base, *later = load.new
    trained_later = sum(round((1 + train.replay) * train.ssf_epochs * number) for number in later)
    # Masks of new samples before training and after it, features to select by, and those of what is stored.
    of_new = 2 + 1 + train.translate
    fitted = load.exemplars * len(load.new) if train.refit else 0
    passed = of_new * sum(load.new) + fitted + sum(load.tests)
    operations = None
    if encoder is not None:
        forward, tuned = encoder.forward(load.tokens), train.ssf_layers or encoder.layers
        whole = train.base_tunes == "backbone"
        backward = encoder.backward(load.tokens, tuned, weights=False)
        base_backward = encoder.backward(load.tokens, encoder.layers, weights=True) if whole else backward
        operations = (
            (train.base_epochs * base + trained_later + passed) * forward
            + train.base_epochs * base * base_backward
            + trained_later * encoder.backward(load.tokens, train.later_layers or tuned, weights=False)
        )
    return Cost(
        steps=sum(train.num_steps(phase, number) for phase, number in enumerate(load.new)),
        trained=train.base_epochs * base + trained_later,
        passed=passed,
        operations=operations,
        picture_bytes=int(max(load.new) * load.tokens * 3 * config.backbone.patch_px**2),
    )


def load_of(problem: Problem, config: LearnerConfig, *, words: float, exemplars: int) -> Load:
    """What a problem's phases hold; pictures count as squares of ``data.image_size``.

    Args:
        words: tokens of a text, on average.
        exemplars: as :class:`Load` has them.
    """
    few = config.data.interim_tests_per_class
    new = [len(problem.train.of_classes(classes)) for classes in problem.phases]
    tests = problem.tests.values()
    interim = accumulate(sum(len(split.of_classes(classes, few)) for split in tests) for classes in problem.phases)
    patches = (config.data.image_size // config.backbone.patch_px) ** 2
    return Load(new, [*list(interim)[:-1], sum(map(len, tests))], patches + words + 1, exemplars)
