"""What `make bench-learner` runs: data, methods, memory sizes, seeds; and what one job of it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from learner.data.base import MultimodalData
from learner.data.emoji import load_emoji
from learner.data.settings import DataConfig, SceneChoice, TextLength
from learner.memory.exemplars import Stored, record_of
from learner.memory.settings import MemoryConfig
from learner.model.settings import BackboneConfig
from learner.model.tokenised import tokenise
from learner.run.config import LearnerConfig
from learner.run.methods import parse_method
from learner.run.problem import Problem, class_order, cut
from learner.training.settings import TrainConfig
from memory_format import make_codec

REFERENCE_MEMORY = 5
"""Full samples a class: where all methods are compared, and what the last line of the output is about."""

METHODS: tuple[str, ...] = (
    "none",
    "full+lossless",
    "full",
    "full+mrdc",
    "full+px8",
    "full+typical",
    "cim",
    "grid",
    "random",
    "latent+keep4",
    "masked",
    "l2p",
    "dualprompt",
    "ease",
    "joint",
)
"""Rows of the table. Without a quality, that of :data:`RECIPE`."""

ABLATIONS: tuple[str, ...] = (
    "full+q10",
    "full+q30",
    "full+q60",
    "full+no-refit",
    "masked+q30",
    "masked+keep10",
    "masked+text",
    "masked+no-views",
    "masked+no-fill",
    "masked+no-repair",
    "masked+no-drop",
    "masked+no-translate",
    "masked+no-refit",
    "masked+cosine",
    "masked+herding-mean",
    "masked+typical",
    "masked+mean-heads+sinks",
)
"""Rows that ``--ablations`` adds to it."""

ORACLES: tuple[str, ...] = ("object", "masked+herding-test", "full+herding-test")
"""Rows that ``--oracles`` adds to it, no methods: masks that know the object, and orders that know the tests."""

CHARTED: tuple[str, ...] = ("full", "cim", "random", "masked")
"""Rows at the other memory sizes: the two charts."""

UNSEEN: tuple[str, ...] = ("full", "full+px8", "cim", "grid", "random", "masked")
"""Rows on the classes that are in no other table."""

TRIALS: dict[str, tuple[str, ...]] = {
    "full": ("full+q10", "full", "full+q30", "full+q60"),
    "full+px8": ("full+px4", "full+px8", "full+px12", "full+px8+pixel"),
    "cim": ("cim+q10", "cim", "cim+q30", "cim+q60"),
    "grid": ("grid", "grid+keep10", "grid+keep40", "grid+q30"),
    "random": ("random", "random+keep10", "random+keep40", "random+q30"),
    "latent": ("latent", "latent+keep10", "latent+keep4", "latent+keep4+last3"),
    "masked": ("masked", "masked+keep10", "masked+keep40", "masked+q30"),
    "l2p": ("l2p", "l2p+added10", "l2p+added30", "l2p+head1"),
    "dualprompt": ("dualprompt", "dualprompt+added10", "dualprompt+added30", "dualprompt+head1"),
    "ease": ("ease", "ease+added3", "ease+added10", "ease+head1"),
}
"""What `--tune` tries on the validation classes: as many trials for each."""


RECIPE = LearnerConfig(
    train=TrainConfig(base_epochs=12, modality_drop=0.3, batch_size=8, ssf_lr=1e-3),
    memory=MemoryConfig(codec={"id": "em_webp", "quality": 15}),
)
"""Chosen on the validation classes: the training by the base phase alone, before any method was compared
(docs/decisions/0008); the quality as the one at which whole pictures and masked ones are both best
(docs/decisions/0014)."""


@dataclass(frozen=True)
class Plan:
    """One benchmark.

    Attributes:
        first_class, num_classes: which of MM-Emoji-R's classes, in its order.
        num_phases: numbers of phases to run with; equal steps, the base takes what is left over.
        memories: full samples a class; ``methods`` run at :data:`REFERENCE_MEMORY` and ``charted`` at the others.
        test_per_class: in each test split, after every phase; None = all there are.
        config: settings of all runs; data sizes, phases, memory and seeds are put in by :meth:`Job.config`.
    """

    methods: tuple[str, ...] = METHODS
    charted: tuple[str, ...] = CHARTED
    seeds: tuple[int, ...] = (0, 1, 2)
    memories: tuple[int, ...] = (REFERENCE_MEMORY,)
    num_phases: tuple[int, ...] = (5,)
    first_class: int = 0
    num_classes: int = 18
    train_per_class: int | None = 32
    test_per_class: int | None = 32
    config: LearnerConfig = RECIPE

    def jobs(self) -> list[Job]:
        """All runs, those of one base phase side by side."""
        return [
            Job(phases, seed, memory, method)
            for phases in self.num_phases
            for seed in self.seeds
            for memory in self.memories
            for method in (self.methods if memory == REFERENCE_MEMORY else self.charted)
        ]


@dataclass(frozen=True)
class Job:
    """One method with one seed at one memory size."""

    num_phases: int
    seed: int
    memory: int
    method: str

    def base_path(self, out: Path) -> Path:
        """The base phase, which all methods and memory sizes of a seed share."""
        return out / f"base-p{self.num_phases}-s{self.seed}.pt"

    def folder(self, out: Path) -> Path:
        """Where the run's checkpoints and figures are."""
        return out / f"p{self.num_phases}-s{self.seed}-m{self.memory}"

    def config(self, plan: Plan, full_sample_bytes: int) -> LearnerConfig:
        """The run's configuration."""
        step = plan.num_classes // self.num_phases
        data = replace(
            plan.config.data,
            num_classes=plan.num_classes,
            # 0 = all there are.
            train_per_class=plan.train_per_class or 0,
            test_per_class=plan.test_per_class or 0,
            base_classes=plan.num_classes - (self.num_phases - 1) * step,
            classes_per_phase=step,
            class_order_seed=self.seed,
        )
        memory = replace(
            plan.config.memory, full_samples_per_class=self.memory, full_sample_bytes=full_sample_bytes, snapshots=False
        )
        return replace(plan.config, data=data, memory=memory, seed=self.seed)


def default() -> Plan:
    """The table on a CPU."""
    return Plan()


def full() -> Plan:
    """The whole grid, for a GPU."""
    return Plan(
        charted=tuple(method for method in METHODS if parse_method(method).stores != "nothing"),
        seeds=(0, 1, 2, 3, 4),
        memories=(1, 3, 5, 7, 10),
        num_phases=(5, 10, 20),
        num_classes=59,
        train_per_class=None,
        test_per_class=None,
    )


def tune() -> Plan:
    """Trials on classes that are in no table."""
    return Plan(methods=tuple(name for names in TRIALS.values() for name in names), seeds=(0,), first_class=18)


def unseen() -> Plan:
    """Classes and seeds that no decision has looked at: run once, and printed as it falls."""
    return Plan(methods=UNSEEN, charted=UNSEEN, seeds=(100, 101, 102), first_class=36, num_classes=23)


def quick() -> Plan:
    """Everything once on almost nothing: does it work?"""
    return Plan(
        methods=("none", "full", "full+q60", "cim", "random", "masked", "l2p", "dualprompt", "ease", "joint"),
        charted=("full", "masked"),
        seeds=(0, 1),
        memories=(2, REFERENCE_MEMORY),
        num_phases=(2,),
        num_classes=4,
        train_per_class=10,
        test_per_class=4,
        config=LearnerConfig(
            data=DataConfig(image_size=64),
            backbone=BackboneConfig(kind="small", hidden_size=64, num_layers=2),
            train=TrainConfig(base_epochs=1, ssf_epochs=1),
        ),
    )


def load_data(plan: Plan, directory: Path | None) -> MultimodalData:
    """The classes of a plan; ids stay those of the whole set."""
    last = plan.first_class + plan.num_classes
    of = plan.config.data
    data = _emoji(of.image_size, last, plan.train_per_class, plan.test_per_class, of.scenes, of.texts, directory)
    classes = range(plan.first_class, last)
    tests = {name: split.subset(classes) for name, split in data.test.items()}
    return replace(data, train=data.train.subset(classes), test=tests)


@cache
def _emoji(
    size: int,
    classes: int,
    train: int | None,
    test: int | None,
    scenes: SceneChoice,
    texts: TextLength,
    directory: Path | None,
) -> MultimodalData:
    return load_emoji(
        size=size,
        num_classes=classes,
        train_per_class=train,
        test_per_class=test,
        scenes=scenes,
        texts=texts,
        directory=directory,
    )


def load_problem(plan: Plan, job: Job, directory: Path | None) -> Problem:
    """The data of a job, cut into phases in the order of its seed."""
    from learner.model.backbones.weights import wordpiece_tokenizer

    data = load_data(plan, directory)
    tokenizer = wordpiece_tokenizer(directory)
    settings = {"patch_px": plan.config.backbone.patch_px, "max_text_tokens": plan.config.data.max_text_tokens}
    config = job.config(plan, 1).data
    order = cut(
        class_order(config, data.class_names[plan.first_class :]), config.base_classes, config.classes_per_phase
    )
    return Problem(
        train=tokenise(data.train, tokenizer, **settings).load(),
        tests={name: tokenise(split, tokenizer, **settings).load() for name, split in data.test.items()},
        phases=[[plan.first_class + place for place in classes] for classes in order],
    )


def full_sample_bytes(plan: Plan, directory: Path | None) -> int:
    """Mean bytes that the memory charges for a whole sample in the configuration's codec: the unit of the budgets."""
    problem = load_problem(plan, plan.jobs()[0], directory)
    tokens = problem.train.load().tokens
    codec = make_codec(plan.config.memory.codec)
    rows = range(0, len(problem.train), max(1, len(problem.train) // 200))
    charges = [record_of(Stored.whole(tokens), row, class_id=0, codec=codec).charge for row in rows]
    return round(float(np.mean(charges)))
