"""What a run found: read again without the library that it was measured in."""

from __future__ import annotations

from dataclasses import dataclass, field

from learner.run.seeds import Spread, paired, spread


@dataclass(frozen=True)
class Score:
    """One strategy with one way to store and one seed.

    Attributes:
        accuracy: after each experience, on all classes seen so far: shares in [0, 1], the mean of the two ways to test.
        exemplars, bytes_held: after the last experience.
    """

    strategy: str
    way: str
    seed: int
    accuracy: list[float]
    exemplars: int
    bytes_held: int

    @property
    def last(self) -> float:
        return self.accuracy[-1]

    @property
    def average(self) -> float:
        return sum(self.accuracy) / len(self.accuracy)


@dataclass
class Run:
    """Attributes:
    own: the ways to store that are the library's own buffer.
    classes: first and one past the last of the data set's.
    """

    budget_bytes: int
    classes: tuple[int, int]
    seeds: list[int]
    ways: dict[str, str]
    """By name, in words; in the order of the table."""
    own: list[str]
    strategies: dict[str, str]
    """By name, in words."""
    scores: list[Score] = field(default_factory=list)
    earlier: list[tuple[str, str, int]] = field(default_factory=list)
    """Strategy, way and seed of those that an earlier call has trained, which this one found done."""

    @property
    def service(self) -> list[str]:
        """The ways to store that are the service."""
        return [way for way in self.ways if way not in self.own]

    def of(self, strategy: str, way: str) -> list[Score]:
        """One a seed."""
        found = {score.seed: score for score in self.scores if (score.strategy, score.way) == (strategy, way)}
        return [found[seed] for seed in self.seeds]

    def best_own(self, strategy: str) -> str:
        """The way of the library's own with the best mean last accuracy: the one to beat, chosen on the test itself."""
        return max(self.own, key=lambda way: spread([score.last for score in self.of(strategy, way)]).mean)

    def gain(self, strategy: str, way: str, over: str, figure: str = "last") -> Spread:
        """How far one way is above another, paired by seed. ``figure``: ``last`` or ``average``."""
        ours, theirs = ([float(getattr(score, figure)) for score in self.of(strategy, name)] for name in (way, over))
        return paired(ours, theirs)
