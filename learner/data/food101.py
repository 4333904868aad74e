"""UPMC Food-101 (Wang et al., ICMEW 2015): 101 dishes, photographs from the web with the titles of their pages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.caption_table import about_missing
from learner.data.folder import split_name
from learner.data.pictures import PictureFile, as_there, pictures_below
from learner.data.settings import DataConfig
from learner.data.table import one_text, read_object, read_table, texts_of

_GET = (
    "get UPMC Food-101 from https://visiir.isir.upmc.fr/explore (a copy: kaggle.com/datasets/gianmarco96/upmcfood101) "
    "and set data.path to its folder, which holds images/train/<class>/*.jpg, images/test/<class>/*.jpg, "
    "texts/train_titles.csv and texts/test_titles.csv (or text.json and split.json instead of the two)"
)


def list_food101(config: DataConfig) -> Listing:
    """The rows of both title files, with the split that the data set comes with.

    Raises:
        DataError: the layout is another one.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_GET}")
    root = Path(config.path).expanduser()
    for split in ("train", "test"):
        if not (root / "images" / split).exists():
            raise DataError(f"there is no {root / 'images' / split}: {_GET}")
    titles = [root / "texts" / f"{split}_titles.csv" for split in ("train", "test")]
    as_json = not any(path.exists() for path in titles) and (root / "split.json").exists()
    samples, notes = _of_json(root, config) if as_json else (_of_titles(root), ())
    shown = {sample.label: sample.label.replace("_", " ") for sample in samples}
    return Listing("UPMC Food-101", samples, shown, (*notes, *_about_unnamed(root, samples, as_json)))


def _of_titles(root: Path) -> list[Sample]:
    samples = []
    for split in ("train", "test"):
        table = root / "texts" / f"{split}_titles.csv"
        if not table.exists():
            raise DataError(f"there is no {table}: {_GET}")
        # As published, the files begin with their first row; copies with a header are about.
        for row in read_table(table, columns=("image", "text", "label"), header=False):
            label = row.get("label")
            name = row.picture("image", _there(root / "images" / split / label))
            if not name or not label:
                raise DataError(f"{row.where}: each row must be image,text,label ({table})")
            samples.append(_sample(root, split, f"{split}/{label}/{name}", row.get("text"), label, row.where))
    return samples


def _there(folder: Path) -> Callable[[str], bool]:
    return lambda name: os.path.exists(folder / name)  # False for a name that no file can have, too


def _of_json(root: Path, config: DataConfig) -> tuple[list[Sample], tuple[str, ...]]:
    """As Lee et al. (CVPR 2023, missing-aware prompts) and those who compare with them pass it around; and what is said
    of pictures without a title.

    ``split.json``: names of pictures by split, whose class is what stands before the last ``_``; ``text.json``: titles
    by name; ``class_idx.json``, where it is there: numbers by class.
    """
    titles, splits = read_object(root / "text.json"), read_object(root / "split.json")
    classes = read_object(root / "class_idx.json") if (root / "class_idx.json").exists() else None
    samples: list[Sample] = []
    untitled: list[str] = []
    used = 0
    for group, names in splits.items():
        split = split_name(group, "split.json")
        if not isinstance(names, list):
            raise DataError(f"split.json: {group!r} must be a list of pictures' names")
        for number, given in enumerate(names, start=1):
            where = f"split.json, number {number} of {group!r}"
            name = one_text(given, where)
            label = name.rpartition("_")[0]
            if not label or (classes is not None and label not in classes):
                raise DataError(f"{where}: {name!r} must be CLASS_NUMBER.jpg, of a class in class_idx.json")
            if split == "validation":
                continue
            used += 1
            if name not in titles:
                untitled.append(name)
                if config.missing_texts == "skip":
                    continue
            folder = f"{'test' if split == 'test' else 'train'}/{label}"
            key = f"{folder}/{as_there(name, _there(root / 'images' / folder))}"
            for title in texts_of(titles.get(name), f"text.json: {name!r}"):
                samples.append(_sample(root, split, key, title, label, where))
    return samples, about_missing(untitled, used, "text.json", config.missing_texts, mend="")


def _about_unnamed(root: Path, samples: Sequence[Sample], as_json: bool) -> list[str]:
    """Pictures that are there, and in no list. Of ``split.json`` those to validate on lie among them."""
    named = {sample.key for sample in samples}
    unnamed = [] if as_json else [name for name in pictures_below(root / "images") if name not in named]
    if not unnamed:
        return []
    return [f"{len(unnamed)} pictures are in no title file and are left out (such as {unnamed[0]})"]


def _sample(root: Path, split: str, key: str, text: str, label: str, where: str) -> Sample:
    picture = PictureFile(root / "images" / key, f"{where}: {key}")
    return Sample(picture=picture, key=key, text=text, label=label, where=where, split=split)
