"""Two learners, each by ``learner run`` in a process of its own: at once on one buffer, and each alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.common.processes import ROOT

SETTINGS: Final = ROOT / "scripts" / "demo.toml"
CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "left": ("animal-mammal", "transport-ground", "sky-weather", "clothing", "time", "food-prepared"),
    "right": ("place-building", "face-concerned", "av-symbol", "sport", "office", "tool"),
}
"""Of the demo's, by learner."""
QUICK: Final = (
    "--set=data.base_classes=6",
    "--set=data.train_per_class=8",
    "--set=data.test_per_class=2",
    "--set=backbone.kind=small",
    "--set=backbone.hidden_size=64",
    "--set=backbone.num_layers=2",
    "--set=train.base_epochs=1",
    "--set=train.ssf_layers=0",
)
"""For next to no training."""


@dataclass
class Learner:
    """Accuracies of one learner after its last phase, one a seed: shares in [0, 1].

    Attributes:
        own_alone: on its classes, without the other; it is asked for one of them alone.
        own: the same beside the other; asked for one of both's.
        others: on the other's classes, which it has no samples of. Alone it knows of none.
    """

    classes: tuple[str, ...]
    own_alone: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


@dataclass
class Run:
    """What was found.

    Attributes:
        method: what both store.
        budget_bytes: of the buffer that they share, and of each one's own.
    """

    method: str
    seeds: list[int]
    budget_bytes: int = 0
    learners: dict[str, Learner] = field(default_factory=dict)

    def gains(self, name: str) -> list[float]:
        """By seed, how much of all classes a learner knows more than alone, where half of them count as unknown."""
        learner = self.learners[name]
        return [
            (own + others - alone) / 2
            for own, others, alone in zip(learner.own, learner.others, learner.own_alone, strict=True)
        ]


class LearnerError(RuntimeError):
    """A learner did not come to its end; the message has its last words."""


def measure(
    url: str, place: Path, run: Run, options: Iterable[str], environment: Mapping[str, str], tick: Callable[[str], None]
) -> None:
    """Run both learners with each seed, together and alone.

    Args:
        url: of a service.
        place: for their folders.
        run: what is known of it; what is found is added.
        options: for ``learner run``.

    Raises:
        LearnerError: one ended with an error.
    """
    run.learners = {name: Learner(classes) for name, classes in CLASSES.items()}
    for seed in run.seeds:
        given = [*options, f"--set=seed={seed}", f"--set=data.class_order_seed={seed}", "--set=data.base_classes=3"]
        alone = {name: [*given, "--out", str(place / f"alone-{seed}-{name}")] for name in CLASSES}
        together = {
            name: [*given, "--buffer", f"shared-{seed}", "--out", str(place / f"{seed}-{name}")] for name in CLASSES
        }
        tick(f"seed {seed}: each alone")
        last = _learn(url, run.method, alone, environment)
        tick(f"seed {seed}: together")
        _learn(url, run.method, together, environment)
        # Whoever came to its end first has not seen all that the other brought.
        tick(f"seed {seed}: told again")
        shared = _learn(url, run.method, together, environment)
        for name, learner in run.learners.items():
            learner.own_alone.append(last[name]["accuracy"])
            learner.own.append(shared[name]["accuracy"])
            learner.others.append(shared[name]["others"])
            run.budget_bytes = shared[name]["budget_bytes"]


def _learn(
    url: str, method: str, given: Mapping[str, list[str]], environment: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Run learners at once; by name, the last line of ``metrics.jsonl``."""
    begun: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    last = {}
    try:
        for name, words in given.items():
            command = [sys.executable, "-m", "learner", "run", "--url", url, "--methods", method, *words]
            command += ["--classes", ",".join(CLASSES[name])]
            out = Path(words[words.index("--out") + 1])
            # Of two pipes, one would fill while the other is read, and its learner would wait.
            with out.with_suffix(".log").open("wb") as log:
                process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            begun[name] = process, out
        for name, (process, out) in begun.items():
            if process.wait():
                said = out.with_suffix(".log").read_text(errors="replace")
                raise LearnerError(f"{name} ended with status {process.returncode}: {said[-2000:]}")
            (metrics,) = out.glob("*/metrics.jsonl")
            last[name] = json.loads(metrics.read_text().splitlines()[-1])
    finally:
        for process, _ in begun.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    return last
