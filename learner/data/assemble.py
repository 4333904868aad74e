"""From a list of samples to a data set: checked, split, cut to size, and classes numbered."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from learner.data.base import DataError, MultimodalData, Split, generator, some
from learner.data.pictures import LazyPictures, Picture, unreadable
from learner.data.settings import DataConfig

log = logging.getLogger(__name__)

BadPictures = Literal["error", "skip", "list"]


@dataclass(frozen=True)
class Sample:
    """A picture, its text and its class, as a data set lists them.

    Attributes:
        key: tells pictures apart: the same key is the same picture.
        where: file and line, for errors.
        split: ``train``, the name of a split to test on, or empty where the data set has no split of its own.
    """

    picture: Picture
    key: str
    text: str
    label: str
    where: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """What a data set holds, before anything is decoded.

    Attributes:
        name: of the data set.
        class_names: what to call a label where the label itself says nothing (``n01443537`` -> ``goldfish``).
        notes: see :class:`~learner.data.base.MultimodalData`.
    """

    name: str
    samples: Sequence[Sample]
    class_names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def assemble(
    listing: Listing, config: DataConfig, *, patch_px: int, bad_pictures: BadPictures, directory: Path | str | None
) -> MultimodalData:
    """The data set that a listing stands for. Pictures stay in their files until they are needed.

    Args:
        config: how much of it, and how it is split.
        patch_px: see :class:`~learner.data.pictures.LazyPictures`.
        bad_pictures: what to do with missing and damaged ones: say so and stop, or leave them out and say so in the
            log (``skip``) or in what is returned only (``list``).
        directory: where is kept which pictures were looked at, see :func:`learner.data.fetch.data_dir`.

    Raises:
        DataError: the listing contradicts itself, a class has nothing to train on, or a picture is bad.
    """
    distinct = _distinct(listing.samples)
    samples = _split(distinct, config)
    notes = (*listing.notes, *_about_the_split(distinct, config), *_about_texts(samples, listing.name))
    labels = _labels(samples, config.num_classes, listing.name)
    chosen = _drawn(samples, labels, config)
    bad = _bad_pictures(chosen, bad_pictures, listing.name, directory)
    chosen = [sample for sample in chosen if sample.key not in bad]
    place = {label: class_id for class_id, label in enumerate(labels)}
    splits: dict[str, list[Sample]] = {"train": []}
    for sample in chosen:
        splits.setdefault(sample.split, []).append(sample)
    trained = {sample.label for sample in splits["train"]}
    bare = [label for label in labels if label not in trained]
    if bare:
        raise DataError(
            f"{listing.name}: no sample to train on of {some(map(repr, bare))}; every class needs one at least"
            + (f". {len(bad)} pictures cannot be used: {some(bad.values(), separator='; ')}" if bad else "")
        )

    def make(part: Sequence[Sample]) -> Split:
        return Split(
            images=LazyPictures([s.picture for s in part], short_side=config.image_size, patch_px=patch_px),
            texts=[s.text for s in part],
            class_ids=np.array([place[s.label] for s in part], dtype=np.int64),
            sources=[s.key for s in part],
        )

    shown = {_composed(label): name for label, name in listing.class_names.items()}
    names = [shown.get(label, label) for label in labels]
    tests = {name: make(part) for name, part in sorted(splits.items()) if name != "train"}
    return MultimodalData(listing.name, names, make(splits["train"]), tests, notes, tuple(bad.values()))


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """Without repeated rows; rows that contradict each other are an error.

    A picture may have several texts, but only one class, and it must not be both trained and tested on.
    """
    first: dict[str, Sample] = {}
    seen: set[tuple[str, str, str, str]] = set()
    kept: list[Sample] = []
    repeated: list[Sample] = []
    for given in samples:
        # Accents may be written in two ways that look the same.
        sample = replace(given, label=_composed(given.label))
        if not sample.label:
            raise DataError(f"{sample.where}: no class is given")
        earlier = first.setdefault(sample.key, sample)
        if earlier.label != sample.label:
            raise DataError(
                f"{sample.where}: {sample.key} is of class {sample.label!r}, but {earlier.where} says "
                f"{earlier.label!r}; a picture has one class"
            )
        if earlier.split != sample.split:
            raise DataError(
                f"{sample.where}: {sample.key} is in {sample.split!r}, but {earlier.where} puts it in "
                f"{earlier.split!r}; a picture belongs to one split"
            )
        row = (sample.key, sample.text, sample.label, sample.split)
        (repeated if row in seen else kept).append(sample)
        seen.add(row)
    if repeated:
        log.warning("%d repeated rows are left out (the first: %s)", len(repeated), repeated[0].where)
    return kept


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _split(samples: list[Sample], config: DataConfig) -> list[Sample]:
    """Samples without a split get one: a share of each class's pictures, at random, but never all, is tested on."""
    by_label: dict[str, list[str]] = {}
    for sample in samples:
        if not sample.split:
            by_label.setdefault(sample.label, []).append(sample.key)
    tested: set[str] = set()
    for label, keys in by_label.items():
        pictures = sorted(set(keys))
        count = min(len(pictures) - 1, max(1, round(config.test_share * len(pictures))))
        tested.update(
            pictures[i] for i in generator(config.split_seed, "split", label).permutation(len(pictures))[:count]
        )
    return [s if s.split else replace(s, split="test" if s.key in tested else "train") for s in samples]


def _about_the_split(samples: Sequence[Sample], config: DataConfig) -> tuple[str, ...]:
    if all(sample.split for sample in samples):
        return ()
    return (
        f"the data has no split: {config.test_share:.0%} of each class is tested on, drawn by "
        f"data.split_seed={config.split_seed}, and not trained on",
    )


def _about_texts(samples: Sequence[Sample], name: str) -> list[str]:
    """What is said of splits without texts beside others with texts.

    Raises:
        DataError: there are none to train on, and some to test on.
    """
    with_text = {sample.split for sample in samples if sample.text}
    without = sorted({sample.split for sample in samples} - with_text)
    if not with_text:
        return []
    if not without:
        lacking = [sample for sample in samples if not sample.text]
        said = f"{len(lacking)} of {len(samples)} samples have no text, and are known by their pictures alone"
        return [f"{said} (such as {lacking[0].where})"] if lacking else []
    if "train" in without:
        raise DataError(
            f"{name}: no sample to train on has a text, but samples of {', '.join(sorted(with_text))} have: is the "
            "file of texts (metadata.csv, captions.csv) missing for train? To learn from pictures alone, take it away"
        )
    return [f"no sample of {', '.join(without)} has a text, but those to train on have"]


def _labels(samples: Sequence[Sample], num_classes: int, name: str) -> list[str]:
    """The labels in alphabetical order, of all classes or of those with the most samples."""
    count = Counter(sample.label for sample in samples)
    if not count:
        raise DataError(f"{name} has no samples")
    if num_classes > len(count):
        raise DataError(f"{name} has {len(count)} classes, so num_classes cannot be {num_classes} (0 takes all)")
    order = sorted(count, key=lambda label: (-count[label], label))
    return sorted(order[:num_classes] if num_classes else order)


def _drawn(samples: Sequence[Sample], labels: Sequence[str], config: DataConfig) -> list[Sample]:
    """By split and class, each in the listing's order, at most so many of each."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.split, sample.label), []).append(sample)
    drawn = []
    for split in sorted({split for split, _ in groups}):
        limit = config.train_per_class if split == "train" else config.test_per_class
        for label in labels:
            group = groups.get((split, label), [])
            if limit and len(group) > limit:
                chosen = generator(config.split_seed, "draw", split, label).permutation(len(group))[:limit]
                group = [group[i] for i in sorted(chosen)]
            drawn += group
    return drawn


def _bad_pictures(
    samples: list[Sample], bad_pictures: BadPictures, name: str, directory: Path | str | None
) -> dict[str, str]:
    """By key, what is wrong with each picture that cannot be read, with its name."""
    pictures: dict[str, Picture] = {}
    for sample in samples:
        pictures.setdefault(sample.key, sample.picture)
    bad = {key: f"{pictures[key].name}: {reason}" for key, reason in unreadable(pictures, name, directory).items()}
    if bad and bad_pictures != "list":
        shown = some(bad.values(), separator="; ")
        message = f"{len(bad)} of {len(pictures)} pictures cannot be used: {shown}"
        if bad_pictures == "error":
            raise DataError(f"{message}. Mend them, or leave them out with --set data.bad_pictures=skip")
        log.warning("%s. They are left out", message)
    return bad
