"""From a configuration to what a run trains and tests on: the data set, tokenised and cut into phases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from learner.data.assemble import BadPictures
from learner.data.base import DataError, MultimodalData
from learner.data.load import load_data
from learner.data.settings import DataConfig
from learner.model.backbones.facts import backbone_facts
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.model.tokenised import PictureSplit, tokenise
from learner.run.automatic import suited
from learner.run.config import LearnerConfig
from learner.run.phase_order import class_order, cut
from learner.run.problem import Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What a configuration's data set holds, before it is cut into phases.

    Attributes:
        splits: ``train`` and, by name, those to test on.
        longest_text: tokens that a text may have, and ``positions``: those that the backbone has places for.
    """

    data: MultimodalData
    splits: dict[str, PictureSplit]
    longest_text: int
    positions: int

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
    return Loaded(data, splits, longest, positions)


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
    )


def in_order(problem: Problem, config: LearnerConfig) -> Problem:
    """The same samples with the classes in the order of another configuration, which differs in nothing else of data.

    Raises:
        DataError: that order gives phases that cannot be tested.
    """
    return replace(problem, phases=_phases(config.data, problem.class_names))


def _phases(data: DataConfig, class_names: Sequence[str]) -> list[list[int]]:
    return cut(class_order(data, class_names), data.base_classes, data.classes_per_phase)


def _say_what_is_cut(loaded: Loaded) -> None:
    splits = loaded.splits.values()
    cut, total = sum(split.num_cut for split in splits), sum(map(len, splits))
    if cut:
        log.warning(
            "%d of %d texts are longer than %d tokens (%s) and lose their end; the longest has %d",
            *(cut, total, loaded.longest_text, loaded.why_cut, max(split.longest for split in splits)),
        )
