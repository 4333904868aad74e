"""Two learners, each by ``learner run`` in a process of its own: in step on one buffer, and each alone."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        addresses: of the service; of two, each learner asks one of its own first.
        budget_bytes: of the buffer that they share, and of each one's own.
    """

    method: str
    seeds: list[int]
    addresses: int = 1
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
    urls: Sequence[str],
    place: Path,
    run: Run,
    options: Iterable[str],
    environment: Mapping[str, str],
    tick: Callable[[str], None],
) -> None:
    """Run both learners with each seed, together and alone.

    Args:
        urls: of one service, or of its replicas: the first learner asks the first one first, the second the last.
        place: for their folders.
        run: what is known of it; what is found is added.
        options: for ``learner run``.

    Raises:
        LearnerError: one ended with an error.
    """
    run.learners = {name: Learner(classes) for name, classes in CLASSES.items()}
    asked = dict(zip(CLASSES, (",".join(urls), ",".join(reversed(urls))), strict=True))
    for seed in run.seeds:
        # Replicas keep no reports of runs.
        given = [*options, "--no-upload", "--methods", run.method]
        given += [f"--set=seed={seed}", f"--set=data.class_order_seed={seed}", "--set=data.base_classes=3"]
        given_to = {name: [*given, "--url", asked[name], "--classes", ",".join(CLASSES[name])] for name in CLASSES}
        # In step, so that both are tested with all that both have brought.
        shared = ["--buffer", f"shared-{seed}-{secrets.token_hex(4)}", f"--set=memory.in_step={json.dumps([*CLASSES])}"]
        tick(f"seed {seed}: each alone")
        alone = _learn({name: (words, place / f"alone-{seed}-{name}") for name, words in given_to.items()}, environment)
        tick(f"seed {seed}: together")
        together = _learn(
            {
                name: ([*words, *shared, f"--set=memory.learner={name}"], place / f"{seed}-{name}")
                for name, words in given_to.items()
            },
            environment,
        )
        for name, learner in run.learners.items():
            learner.own_alone.append(alone[name]["accuracy"])
            learner.own.append(together[name]["accuracy"])
            learner.others.append(together[name]["others"])
            run.budget_bytes = together[name]["budget_bytes"]


def _learn(
    given: Mapping[str, tuple[Sequence[str], Path]], environment: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Run learners at once, each with its options and its folder; by name, the last line of ``metrics.jsonl``."""
    begun: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (words, out) in given.items():
            command = [sys.executable, "-m", "learner", "run", "--out", str(out), *words]
            # Of two pipes, one would fill while the other is read, and its learner would wait.
            with out.with_suffix(".log").open("wb") as log:
                begun[name] = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        # Of one that has ended with an error, the other would wait for long.
        waiting = dict(begun)
        while waiting:
            for name, process in begun.items():
                status = process.poll()
                if status:
                    said = given[name][1].with_suffix(".log").read_text(errors="replace")
                    raise LearnerError(f"{name} ended with status {status}: {said[-2000:]}")
                if status == 0:
                    waiting.pop(name, None)
            time.sleep(0.2)
    finally:
        for process in begun.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    return {name: _last_line(out) for name, (_, out) in given.items()}


def _last_line(out: Path) -> dict[str, Any]:
    (metrics,) = out.glob("*/metrics.jsonl")
    found: dict[str, Any] = json.loads(metrics.read_text().splitlines()[-1])
    return found
