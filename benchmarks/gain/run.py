"""Avalanche's strategies, each with each way to store its exemplars."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.gain.found import Run, Score
from benchmarks.gain.model import Frozen, Probe
from benchmarks.gain.ways import WAYS, Stores, Way, class_incremental
from client import Buffer, MemoryClient
from client.files import write_atomically

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.logging import BaseLogger
    from avalanche.training import DER, ER_ACE, GDumb, Naive
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ExemplarsBuffer
    from avalanche.training.supervised import ICaRL

BATCH: Final = 16
ALPHA, BETA = 0.1, 0.5
"""How much old logits and old classes count in DER++: what Avalanche takes unless told otherwise."""
EMBEDDING: Final = 64
"""Numbers that iCaRL's extractor makes of a frozen ViT's features: what it learns."""


@dataclass(frozen=True)
class Samples:
    """Attributes:
    pictures: ``(N, 3, H, W)`` uint8.
    classes: ``(N,)``, from 0.
    """

    pictures: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Training:
    """How long, and how fast: the same for all ways to store."""

    epochs: int = 10
    gdumb_epochs: int = 30
    """It has the memory alone to train on."""
    rate: float = 0.03


@dataclass(frozen=True)
class Trained:
    """A strategy, and what says how much it keeps."""

    strategy: Any
    items: Callable[[], int]
    held: Callable[[], int]
    """Bytes."""


Make = Callable[[ExemplarsBuffer, Training, Mapping[str, Any]], Any]


def _replay(policy: ExemplarsBuffer, training: Training, options: Mapping[str, Any]) -> Any:
    plugin = ReplayPlugin(policy.max_size, storage_policy=policy)
    return Naive(**options, train_epochs=training.epochs, plugins=[plugin])


def _ace(policy: ExemplarsBuffer, training: Training, options: Mapping[str, Any]) -> Any:
    strategy = ER_ACE(**options, train_epochs=training.epochs, mem_size=policy.max_size, batch_size_mem=BATCH)
    strategy.storage_policy = policy
    return strategy


def _gdumb(policy: ExemplarsBuffer, training: Training, options: Mapping[str, Any]) -> Any:
    strategy = GDumb(**options, train_epochs=training.gdumb_epochs, mem_size=policy.max_size)
    (plugin,) = (plugin for plugin in strategy.plugins if hasattr(plugin, "storage_policy"))
    plugin.storage_policy = policy
    return strategy


def _der(policy: ExemplarsBuffer, training: Training, options: Mapping[str, Any]) -> Any:
    strategy = DER(
        **options,
        train_epochs=training.epochs,
        mem_size=policy.max_size,
        batch_size_mem=BATCH,
        alpha=ALPHA,
        beta=BETA,
    )
    strategy.storage_policy = policy
    return strategy


@dataclass(frozen=True)
class Problem:
    """What is learnt.

    Attributes:
        tests: ways to test, each of which counts the same.
        classes: as in :class:`Run`.
    """

    train: Samples
    tests: Sequence[Samples]
    frozen: Frozen
    classes: tuple[int, int]
    training: Training = Training()

    @property
    def num_classes(self) -> int:
        return int(self.train.classes.max()) + 1


def _by_policy(make: Make, *, with_logits: bool = False) -> Callable[[Problem, Stores, Way, str, int], Trained]:
    """Of a strategy that asks a storage policy."""

    def trained(problem: Problem, stores: Stores, way: Way, name: str, seed: int) -> Trained:
        model = Probe(problem.frozen, problem.num_classes, attends=way.attends)
        policy, held = stores.policy(way, name, seed, logits=problem.num_classes if with_logits else 0)
        options = {
            "model": model,
            "optimizer": torch.optim.Adam(model.parameters(), problem.training.rate),
            "criterion": nn.CrossEntropyLoss(),
            **_common(),
        }
        # Of order of classes and first weights alone, so that ways differ by nothing else.
        torch.manual_seed(seed)
        return Trained(make(policy, problem.training, options), lambda: len(policy.buffer), held)

    return trained


def _icarl(problem: Problem, stores: Stores, way: Way, name: str, seed: int) -> Trained:
    extractor = Probe(problem.frozen, EMBEDDING, attends=way.attends)
    classifier = nn.Linear(EMBEDDING, problem.num_classes)
    strategy = ICaRL(
        feature_extractor=extractor,
        classifier=classifier,
        optimizer=torch.optim.Adam([*extractor.parameters(), *classifier.parameters()], problem.training.rate),
        memory_size=stores.items(way),
        buffer_transform=None,
        fixed_memory=True,
        train_epochs=problem.training.epochs,
        eval_mb_size=BATCH,
        **_common(),
    )
    items, held = stores.into(strategy, way, name)
    torch.manual_seed(seed)
    return Trained(strategy, items, held)


def _common() -> dict[str, Any]:
    return {"train_mb_size": BATCH, "evaluator": EvaluationPlugin(loggers=[BaseLogger()])}


STRATEGIES: Final[Mapping[str, tuple[str, Callable[[Problem, Stores, Way, str, int], Trained]]]] = {
    "er": ("ER (`Naive` with `ReplayPlugin`)", _by_policy(_replay)),
    "er-ace": ("ER-ACE (`ER_ACE`)", _by_policy(_ace)),
    "der": ("DER++ (`DER` with `beta`)", _by_policy(_der, with_logits=True)),
    "gdumb": ("GDumb (`GDumb`)", _by_policy(_gdumb)),
    "icarl": ("iCaRL (`ICaRL`)", _icarl),
}
"""In words, and what makes one."""


def measure(
    problem: Problem,
    memory: MemoryClient,
    out: Path,
    *,
    budget_bytes: int,
    ways: Sequence[str],
    strategies: Sequence[str],
    seeds: Sequence[int],
    tick: Callable[[Score], None],
) -> Run:
    """Train all that is not done yet: each score lies in ``out`` as soon as it is there."""

    def buffer(name: str) -> Buffer:
        return memory.create_buffer(f"{name}-{secrets.token_hex(4)}", budget_bytes=budget_bytes)

    stores = Stores(problem.train.pictures, problem.train.classes, problem.frozen, budget_bytes, buffer)
    run = Run(
        budget_bytes,
        problem.classes,
        list(seeds),
        {name: WAYS[name].words for name in ways},
        [name for name in ways if WAYS[name].own],
        {name: STRATEGIES[name][0] for name in strategies},
    )
    for seed in seeds:
        for strategy in strategies:
            for name in ways:
                path = out / f"{strategy}-{name}-{seed}.json"
                key = repr((budget_bytes, problem.classes, problem.training, WAYS[name]))
                said = json.loads(path.read_text()) if path.exists() else {}
                if said.get("key") == key:
                    run.earlier.append((strategy, name, seed))
                else:
                    score = _train(problem, stores, WAYS[name], strategy, name, seed)
                    said = {"key": key, "score": asdict(score)}
                    write_atomically(path, json.dumps(said).encode())
                run.scores.append(Score(**said["score"]))
                tick(run.scores[-1])
    return run


def _train(problem: Problem, stores: Stores, way: Way, strategy: str, name: str, seed: int) -> Score:
    torch.manual_seed(seed)
    trained = STRATEGIES[strategy][1](problem, stores, way, f"{strategy}-{name}-{seed}", seed)
    accuracy = []
    seen: set[int] = set()
    for experience in class_incremental(problem.train.pictures, problem.train.classes, seed).train_stream:
        trained.strategy.train(experience)
        seen |= set(experience.classes_in_this_experience)
        accuracy.append(_accuracy(trained.strategy.model, problem.tests, torch.tensor(sorted(seen))))
    return Score(strategy, name, seed, accuracy, trained.items(), trained.held())


@torch.no_grad()
def _accuracy(model: nn.Module, tests: Sequence[Samples], seen: Tensor) -> float:
    model.eval()
    found = []
    for test in tests:
        rows = torch.isin(test.classes, seen)
        scores = torch.cat([model(part) for part in test.pictures[rows].split(64)])
        found.append(float((scores.argmax(1) == test.classes[rows]).float().mean()))
    return sum(found) / len(found)
