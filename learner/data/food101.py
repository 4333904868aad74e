"""UPMC Food-101 (Wang et al., ICMEW 2015): 101 dishes, photographs from the web with the titles of their pages."""

from __future__ import annotations

import logging
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.folder import split_name
from learner.data.pictures import PictureFile
from learner.data.settings import DataConfig
from learner.data.table import one_text, read_object, read_table, texts_of

log = logging.getLogger(__name__)

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
    samples = _of_json(root) if as_json else _of_titles(root)
    shown = {sample.label: sample.label.replace("_", " ") for sample in samples}
    return Listing("UPMC Food-101", samples, shown)


def _of_titles(root: Path) -> list[Sample]:
    samples = []
    for split in ("train", "test"):
        table = root / "texts" / f"{split}_titles.csv"
        if not table.exists():
            raise DataError(f"there is no {table}: {_GET}")
        # As published, the files begin with their first row; copies with a header are about.
        for row in read_table(table, columns=("image", "text", "label"), header=False):
            name, label = row.get("image"), row.get("label")
            if not name or not label:
                raise DataError(f"{row.where}: each row must be image,text,label ({table})")
            samples.append(_sample(root, split, f"{split}/{label}/{name}", row.get("text"), label, row.where))
    return samples


def _of_json(root: Path) -> list[Sample]:
    """As Lee et al. (CVPR 2023, missing-aware prompts) and those who compare with them pass it around.

    ``split.json``: names of pictures by split, whose class is what stands before the last ``_``; ``text.json``: titles
    by name; ``class_idx.json``, where it is there: numbers by class.
    """
    titles, splits = read_object(root / "text.json"), read_object(root / "split.json")
    classes = read_object(root / "class_idx.json") if (root / "class_idx.json").exists() else None
    samples: list[Sample] = []
    untitled: list[str] = []
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
            if name not in titles:
                untitled.append(name)
                continue
            key = f"{'test' if split == 'test' else 'train'}/{label}/{name}"
            for title in texts_of(titles[name], f"text.json: {name!r}"):
                samples.append(_sample(root, split, key, title, label, where))
    if untitled:
        log.warning(
            "%d pictures without a title in text.json are left out, as by others (such as %s)",
            *(len(untitled), untitled[0]),
        )
    return samples


def _sample(root: Path, split: str, key: str, text: str, label: str, where: str) -> Sample:
    picture = PictureFile(root / "images" / key, f"{where}: {key}")
    return Sample(picture=picture, key=key, text=text, label=label, where=where, split=split)
