"""``learner check-data``: what a run would find in its data, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner.data.base import DataError, Split, some
from learner.data.pictures import LazyPictures, NoPicture, Picture
from learner.memory.settings import MemoryConfig
from learner.model.backbones.choose import backbone_facts
from learner.run.config import LearnerConfig
from learner.run.cost import estimate, load_of
from learner.run.loading import Budget, Loaded, cut_into_phases, load_samples, suggest_budget, suited_phases
from learner.run.problem import Problem
from learner.run.summary import budget_words
from memory_format.machine import processors

_MOST_CLASSES = 40
_MOST_BAD = 20
_FEW = 5
"""Samples of a class: fewer teach and test little."""


def check_data(config: LearnerConfig, directory: Path | None, console: Console) -> int:
    """Print what is there; the exit status is 1 where a run would end for it.

    Raises:
        DataError: the data cannot be read at all; the message says why.
        FetchError: a package that data or tokenizer come from cannot be fetched.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    loaded = load_samples(config, directory, "list")
    data = loaded.data
    splits = {"train": data.train, **data.test}
    say(f"{data.name}: {data.num_classes} classes; " + ", ".join(f"{len(s):,} in {name}" for name, s in splits.items()))
    for note in data.notes:
        say(f"note: {note}")
    console.print(_classes(data.class_names, splits))
    for line in (_sizes(splits, config.data.image_size), _texts(loaded, splits), *_thin(data.class_names, splits)):
        say(line)
    for line in _bad(data.bad, config.data.bad_pictures):
        say(line)
    stops = bool(data.bad) and config.data.bad_pictures == "error"
    whole = replace(config, data=suited_phases(config.data, data.num_classes))
    suggested = suggest_budget(loaded.splits["train"], config.memory)
    try:
        problem = cut_into_phases(whole, loaded)
    except DataError as error:
        stops = True
        say(f"wrong: {error}")
    else:
        say(f"phases: {' + '.join(str(len(classes)) for classes in problem.phases)} classes")
        say(_cost(whole, problem, loaded, suggested))
    say(_budget(config.memory, suggested))
    say("learner run would end before it trains" if stops else "learner run takes this as it is")
    return 1 if stops else 0


def _classes(names: Sequence[str], splits: Mapping[str, Split]) -> Table:
    counts = {name: np.bincount(split.class_ids, minlength=len(names)) for name, split in splits.items()}
    table = Table(box=SIMPLE)
    table.add_column("class", overflow="fold")
    for name in counts:
        table.add_column(name, justify="right")
    for class_id, name in enumerate(names[:_MOST_CLASSES]):
        table.add_row(Text(name), *(str(count[class_id]) for count in counts.values()))
    if len(names) > _MOST_CLASSES:
        rest = (f"{count[_MOST_CLASSES:].sum():,}" for count in counts.values())
        table.add_row(f"and {len(names) - _MOST_CLASSES} more", *rest)
    return table


def _thin(names: Sequence[str], splits: Mapping[str, Split]) -> list[str]:
    trained = np.bincount(splits["train"].class_ids, minlength=len(names))
    tested = sum(
        np.bincount(split.class_ids, minlength=len(names)) for name, split in splits.items() if name != "train"
    )
    said = []
    for words, which in (
        (f"fewer than {_FEW} samples to train on", trained < _FEW),
        ("nothing to test on", np.asarray(tested) == 0),
    ):
        if which.any():
            said.append(f"note: {words}: {some(repr(names[i]) for i in np.flatnonzero(which).tolist())}")
    return said


def _sizes(splits: Mapping[str, Split], short_side: int) -> str:
    sides = _sides(splits)
    if not len(sides):
        return "pictures: none"
    small = int((sides.min(1) < short_side).sum())
    low, middle, high = (np.asarray(f(sides, axis=0), int) for f in (np.min, np.median, np.max))
    return (
        f"pictures: {len(sides):,}, from {low[0]} x {low[1]} to {high[0]} x {high[1]} px, half of them up to "
        f"{middle[0]} x {middle[1]}; a run makes the short side {short_side} px (data.image_size)"
        + (f", {small} are smaller and are enlarged" if small else "")
    )


def _sides(splits: Mapping[str, Split]) -> NDArray[np.int64]:
    """Width and height ``(N, 2)`` of each picture that there is, as stored."""
    found: dict[int, Picture] = {}
    sides: list[tuple[int, int]] = []
    for split in splits.values():
        if isinstance(split.images, LazyPictures):
            found |= {id(picture): picture for picture in split.images.pictures if not isinstance(picture, NoPicture)}
        else:
            sides += [(split.images.shape[2], split.images.shape[1])] * len(split)
    with ThreadPoolExecutor(min(16, processors())) as pool:
        sides += pool.map(_side, found.values())
    return np.array(sides, dtype=np.int64)


def _side(picture: Picture) -> tuple[int, int]:
    with Image.open(picture.open()) as image:
        return image.size


def _texts(loaded: Loaded, splits: Mapping[str, Split]) -> str:
    texts = [text for split in splits.values() for text in split.texts]
    given = sum(map(bool, texts))
    if not given:
        return "texts: none"
    lengths = [len(ids) for split in loaded.splits.values() for ids in split.token_ids]
    cut = sum(split.num_cut for split in loaded.splits.values())
    longest = max(split.longest for split in loaded.splits.values())
    said = f"texts: {given:,} of {len(texts):,} samples have one; half of them up to {int(np.median(lengths))} tokens"
    return said + (
        f", {cut} are longer than {loaded.longest_text} ({loaded.why_cut}) and lose their end; the longest has "
        f"{longest}"
        if cut
        else f", the longest {longest}"
    )


def _bad(bad: Sequence[str], setting: str) -> list[str]:
    if not bad:
        return ["missing or damaged: none"]
    more = [f"  and {len(bad) - _MOST_BAD} more"] if len(bad) > _MOST_BAD else []
    lines = [f"missing or damaged: {len(bad)}", *(f"  {reason}" for reason in bad[:_MOST_BAD]), *more]
    if setting == "error":
        return [*lines, "  mend them, or leave them out with --set data.bad_pictures=skip"]
    return [*lines, "  they are left out (data.bad_pictures=skip)"]


def _budget(memory: MemoryConfig, suggested: Budget) -> str:
    held = f"{suggested} (--set memory.budget_bytes={suggested.budget_bytes})"
    if not memory.budget_bytes:
        return f"budget: {held}"
    return f"budget: {budget_words(memory)} as it is set; suggested: {held}"


def _cost(config: LearnerConfig, problem: Problem, loaded: Loaded, suggested: Budget) -> str:
    budget = config.memory.largest_bytes(suggested.num_classes) or suggested.budget_bytes
    exemplars = budget // suggested.full_sample_bytes
    words = float(np.mean([len(ids) for ids in loaded.splits["train"].token_ids]))
    load = load_of(problem, config, words=words, exemplars=exemplars)
    cost = estimate(config, load, backbone_facts(config.backbone).encoder)
    return f"cost of a method that stores whole pictures, counted and not measured: {cost}"
