"""From a configuration to what a run trains and tests on: the data set, tokenised and cut into phases.

What the settings leave to the data is chosen here: how classes are cut into phases, and how large the memory is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from learner.data.assemble import BadPictures
from learner.data.base import DataError, MultimodalData
from learner.data.load import load_data
from learner.data.settings import DataConfig
from learner.memory.exemplars import Stored, record_of
from learner.memory.settings import MemoryConfig
from learner.model.backbones.choose import backbone_facts
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.model.tokenised import PictureSplit, Samples, tokenise
from learner.run.config import LearnerConfig
from learner.run.problem import Problem, chosen, class_order, cut
from memory_format import make_codec, vocabulary_fingerprint

log = logging.getLogger(__name__)

FULL_SAMPLES = 5
"""Of each class that a memory has room for, where the data chooses: the middle of the sizes that the benchmark has."""
LARGEST_SHARE = 0.25
"""Of the samples to train on: a memory of more of them would have little to forget."""
_MEASURED = 64


@dataclass(frozen=True)
class Loaded:
    """What a configuration's data set holds, before it is cut into phases.

    Attributes:
        splits: ``train`` and, by name, those to test on.
        words: of the vocabulary of the token ids, that of id 0 first.
        longest_text: tokens that a text may have, and ``positions``: those that the backbone has places for.
    """

    data: MultimodalData
    splits: dict[str, PictureSplit]
    longest_text: int
    positions: int
    words: list[str]

    @property
    def why_cut(self) -> str:
        """What limits the length of texts."""
        limited = self.longest_text == self.positions
        return "the backbone has no more positions" if limited else "data.max_text_tokens"


def load_samples(config: LearnerConfig, directory: Path | None, bad_pictures: BadPictures | None = None) -> Loaded:
    """The data of a configuration, tokenised.

    Args:
        bad_pictures: see :func:`~learner.data.load.load_data`.

    Raises:
        DataError: the data cannot be used; the message says what would.
        FetchError: a package that data or tokenizer come from cannot be fetched.
    """
    positions = backbone_facts(config.backbone).text_positions
    patch_px = config.backbone.patch_px
    data = load_data(config.data, patch_px=patch_px, directory=directory, bad_pictures=bad_pictures)
    tokenizer = wordpiece_tokenizer(directory)
    longest = min(config.data.max_text_tokens, positions)
    splits = {
        name: tokenise(split, tokenizer, patch_px=patch_px, max_text_tokens=longest)
        for name, split in {"train": data.train, **data.test}.items()
    }
    words = tokenizer.get_vocab()
    return Loaded(data, splits, longest, positions, sorted(words, key=words.__getitem__))


def load_problem(config: LearnerConfig, directory: Path | None) -> tuple[LearnerConfig, Problem]:
    """The data of a configuration, cut into phases; and the configuration with what it left to the data.

    Raises:
        DataError: the data cannot be used, or does not go with the settings; the message says what would.
        FetchError: a package that data or tokenizer come from cannot be fetched.
    """
    loaded = load_samples(config, directory)
    _say_what_is_cut(loaded)
    config = suited(config, loaded.splits["train"], loaded.data.num_classes)
    return config, cut_into_phases(config, loaded)


def cut_into_phases(config: LearnerConfig, loaded: Loaded) -> Problem:
    """The phases of a configuration that leaves nothing to the data.

    Raises:
        DataError: the settings do not go with the data, or a phase cannot be trained or tested.
    """
    data = loaded.data
    if config.data.base_classes > data.num_classes:
        raise DataError(
            f"data.base_classes is {config.data.base_classes}, but {data.name} has {data.num_classes} classes"
        )
    tests = {name: split for name, split in loaded.splits.items() if name != "train"}
    return Problem(
        train=loaded.splits["train"],
        tests=tests,
        phases=_phases(config.data, data.class_names),
        class_names=data.class_names,
        notes=data.notes,
        vocabulary=vocabulary_fingerprint(loaded.words),
        words=loaded.words,
    )


def in_order(problem: Problem, config: LearnerConfig) -> Problem:
    """The same samples with the classes in the order of another configuration, which differs in nothing else of data.

    Raises:
        DataError: that order gives phases that cannot be tested.
    """
    return replace(problem, phases=_phases(config.data, problem.class_names))


def _phases(data: DataConfig, class_names: Sequence[str]) -> list[list[int]]:
    return cut(chosen(data, class_order(data, class_names), class_names), data.base_classes, data.classes_per_phase)


def _say_what_is_cut(loaded: Loaded) -> None:
    splits = loaded.splits.values()
    num_cut, total = sum(split.num_cut for split in splits), sum(map(len, splits))
    if num_cut:
        log.warning(
            "%d of %d texts are longer than %d tokens (%s) and lose their end; the longest has %d",
            *(num_cut, total, loaded.longest_text, loaded.why_cut, max(split.longest for split in splits)),
        )


def suited_phases(data: DataConfig, num_classes: int) -> DataConfig:
    """The settings with ``base_classes`` and ``classes_per_phase`` chosen where they are 0: a third of the classes
    first, and the others in four phases or fewer."""
    base = data.base_classes or min(num_classes, max(2, math.ceil(num_classes / 3)) if num_classes > 2 else 1)
    step = data.classes_per_phase or max(1, math.ceil((num_classes - base) / 4))
    return replace(data, base_classes=base, classes_per_phase=step)


@dataclass(frozen=True)
class Budget:
    """A budget and what it is made of.

    Attributes:
        full_samples: of each class that it has room for.
        full_sample_bytes: what one costs, the mean over some of the data.
    """

    full_samples: int
    full_sample_bytes: int
    num_classes: int

    @property
    def budget_bytes(self) -> int:
        """In two digits: the same data has the same budget where a library's next version packs a little better."""
        exact = self.full_samples * self.full_sample_bytes * self.num_classes
        digits = int(10 ** max(0, len(str(exact)) - 2))
        return math.ceil(exact / digits) * digits

    def __str__(self) -> str:
        return (
            f"{self.budget_bytes:,} bytes: {self.full_samples} full samples of about {self.full_sample_bytes:,} bytes "
            f"for each of {self.num_classes} classes"
        )


def suggest_budget(train: Samples, memory: MemoryConfig) -> Budget:
    """A budget for some data: :data:`FULL_SAMPLES` of each class, but no more than :data:`LARGEST_SHARE` of them.

    Raises:
        PictureError: a picture has become unreadable.
    """
    classes, counts = np.unique(train.class_ids, return_counts=True)
    chosen = classes[:: -(-len(classes) // _MEASURED)].tolist()
    measured = train.of_classes(chosen, at_most=max(1, _MEASURED // len(chosen)))
    codec = make_codec(memory.codec)
    charges = [
        record_of(Stored.whole(batch.tokens), row, class_id=0, codec=codec).charge
        for batch in measured.batches(_MEASURED)
        for row in range(len(batch))
    ]
    return Budget(
        full_samples=min(FULL_SAMPLES, max(1, int(LARGEST_SHARE * float(counts.mean())))),
        full_sample_bytes=round(float(np.mean(charges))),
        num_classes=len(classes),
    )


def suited(config: LearnerConfig, train: Samples, num_classes: int) -> LearnerConfig:
    """The configuration with all that is left to the data."""
    memory = config.memory
    if not (memory.budget_bytes or memory.grows):
        memory = replace(memory, budget_bytes=suggest_budget(train, memory).budget_bytes)
    return replace(config, data=suited_phases(config.data, len(config.data.classes) or num_classes), memory=memory)
