"""UPMC Food-101 (Wang et al., ICMEW 2015): 101 dishes, photographs from the web with the titles of their pages."""

from __future__ import annotations

from pathlib import Path

from learner.config import DataConfig
from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.pictures import PictureFile
from learner.data.table import read_table

__all__ = ["list_food101"]

_GET = (
    "get UPMC Food-101 from https://visiir.isir.upmc.fr/explore (a copy: kaggle.com/datasets/gianmarco96/upmcfood101) "
    "and set data.path to its folder, which holds images/train/<class>/*.jpg, images/test/<class>/*.jpg, "
    "texts/train_titles.csv and texts/test_titles.csv"
)


def list_food101(config: DataConfig) -> Listing:
    """The rows of both title files, with the split that the data set comes with.

    Raises:
        DataError: the layout is another one.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_GET}")
    root = Path(config.path).expanduser()
    samples = []
    for split in ("train", "test"):
        table, images = root / "texts" / f"{split}_titles.csv", root / "images" / split
        for path in (table, images):
            if not path.exists():
                raise DataError(f"there is no {path}: {_GET}")
        # As published, the files begin with their first row; copies with a header are about.
        for row in read_table(table, columns=("image", "text", "label"), header=False):
            name, label = row.get("image"), row.get("label")
            if not name or not label:
                raise DataError(f"{row.where}: each row must be image,text,label ({table})")
            samples.append(
                Sample(
                    picture=PictureFile(images / label / name, f"{row.where}: {split}/{label}/{name}"),
                    key=f"{split}/{label}/{name}",
                    text=row.get("text"),
                    label=label,
                    where=row.where,
                    split=split,
                )
            )
    shown = {sample.label: sample.label.replace("_", " ") for sample in samples}
    return Listing("UPMC Food-101", samples, shown)
