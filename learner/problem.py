"""From a configuration to what a run trains and tests on: the data set, tokenised and cut into phases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from learner.backbones.facts import backbone_facts
from learner.backbones.weights import wordpiece_tokenizer
from learner.class_order import class_order, cut
from learner.config import DataConfig, LearnerConfig
from learner.data.base import DataError
from learner.data.load import load_data
from learner.data.tokenised import PictureSplit, tokenise
from learner.phases import Problem

log = logging.getLogger(__name__)


def load_problem(config: LearnerConfig, directory: Path | None) -> Problem:
    """The data of a configuration, tokenised and cut into phases.

    Raises:
        DataError: the data cannot be used, or does not go with the settings; the message says what would.
        FetchError: a package that data or tokenizer come from cannot be fetched.
    """
    positions = backbone_facts(config.backbone).text_positions
    data = load_data(config.data, patch_px=config.backbone.patch_px, directory=directory)
    if config.data.base_classes > data.num_classes:
        raise DataError(
            f"data.base_classes is {config.data.base_classes}, but {data.name} has {data.num_classes} classes"
        )
    tokenizer = wordpiece_tokenizer(directory)
    longest = min(config.data.max_text_tokens, positions)
    splits = {
        name: tokenise(split, tokenizer, patch_px=config.backbone.patch_px, max_text_tokens=longest)
        for name, split in {"train": data.train, **data.test}.items()
    }
    _say_what_is_cut(list(splits.values()), longest, positions)
    return Problem(
        train=splits.pop("train"),
        tests=dict(splits),
        phases=_phases(config.data, data.class_names),
        class_names=data.class_names,
    )


def in_order(problem: Problem, config: LearnerConfig) -> Problem:
    """The same samples with the classes in the order of another configuration, which differs in nothing else of data.

    Raises:
        DataError: that order gives phases that cannot be tested.
    """
    return replace(problem, phases=_phases(config.data, problem.class_names))


def _phases(data: DataConfig, class_names: Sequence[str]) -> list[list[int]]:
    return cut(class_order(data, class_names), data.base_classes, data.classes_per_phase)


def _say_what_is_cut(splits: list[PictureSplit], longest: int, positions: int) -> None:
    cut, total = sum(split.num_cut for split in splits), sum(map(len, splits))
    if cut:
        why = "the backbone has no more positions" if longest == positions else "data.max_text_tokens"
        log.warning(
            "%d of %d texts are longer than %d tokens (%s) and lose their end; the longest has %d",
            *(cut, total, longest, why, max(split.longest for split in splits)),
        )
