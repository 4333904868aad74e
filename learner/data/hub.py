"""A data set of Hugging Face's ``datasets``: by its name on the hub, or a local folder of Parquet, CSV or pictures."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from learner.config import DataConfig
from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.cells import label_of, texts_of
from learner.data.pictures import PictureError

__all__ = ["list_hub"]

_HOW = "data.path names a data set of huggingface.co (such as user/birds) or a local folder that `load_dataset` reads"


@dataclass(frozen=True, eq=False)
class HubPicture:
    """A picture in one row of a data set whose pictures are not decoded."""

    rows: Any
    column: str
    row: int
    name: str
    fingerprint: str

    def open(self) -> Path | BytesIO:
        value = self.rows[self.row][self.column]
        if value is None:
            raise PictureError("the row has no picture")
        return Path(value["path"]) if value["bytes"] is None else BytesIO(value["bytes"])

    def stamp(self) -> str:
        return f"{self.fingerprint} {self.row}"


def list_hub(config: DataConfig) -> Listing:
    """The rows of the train and of the test split.

    Raises:
        DataError: ``datasets`` is not installed, there is no such data set, or it lacks a split or a column.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_HOW}")
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "data.name=hub needs the package `datasets`: pip install 'exemplar-memory[hub]' (or pip install datasets)"
        ) from error
    try:
        loaded = datasets.load_dataset(config.path, config.hub.subset or None)
    # Whatever the library, the network or a data set's own files raise.
    except Exception as error:
        raise DataError(
            f"`datasets` cannot load {config.path!r} ({type(error).__name__}: {error}). {_HOW}; for one without a "
            "network, download it first where there is one"
        ) from error
    splits = {"train": config.hub.train_split, "test": config.hub.test_split}
    if not config.hub.test_split:
        del splits["test"]
    samples: list[Sample] = []
    for split, name in splits.items():
        if name not in loaded:
            raise DataError(
                f"{config.path} has no split {name!r}; it has {', '.join(loaded)}. Set data.hub.{split}_split"
                + (" (empty: a share of each class is tested on)" if split == "test" else "")
            )
        samples += _samples(loaded[name], name, split if len(splits) > 1 else "", config)
    return Listing(config.path, samples)


def _samples(rows: Any, name: str, split: str, config: DataConfig) -> list[Sample]:
    import datasets

    columns = config.columns
    for kind in ("image", "text", "label"):
        column = getattr(columns, kind)
        if column not in rows.column_names:
            raise DataError(
                f"{config.path}/{name} has no column {column!r}; it has {', '.join(rows.column_names)}. "
                f"Set data.columns.{kind}"
            )
        if f"{column}.1" in rows.column_names:  # what pandas calls a second one of the same name
            raise DataError(f"{config.path}/{name} has more than one column {column!r}: which one counts?")
    try:
        if rows.features[columns.image] == datasets.Value("string"):
            raise TypeError("texts, which may name files but hold no pictures")
        pictures = rows.select_columns([columns.image]).cast_column(columns.image, datasets.Image(decode=False))
    except Exception as error:
        raise DataError(
            f"column {columns.image!r} of {config.path}/{name} holds no pictures but {rows.features[columns.image]}. "
            "Set data.columns.image"
        ) from error
    label = rows.features[columns.label]
    label = getattr(label, "feature", label)  # of a list
    # A class may be stored as its number; its name is what people know.
    names = label.names if isinstance(label, datasets.ClassLabel) else None
    samples: list[Sample] = []
    for row, (text, value) in enumerate(zip(rows[columns.text], rows[columns.label], strict=True)):
        where = f"{config.path}/{name} row {row}"
        given = label_of(value, f"{where}: column {columns.label!r}")
        if not given or value in (-1, [-1]):
            raise DataError(f"{where}: no class is given in column {columns.label!r}")
        samples += [
            Sample(
                picture=HubPicture(pictures, columns.image, row, where, str(rows._fingerprint)),
                key=f"{name}/{row}",
                text=each,
                label=names[int(given)] if names else given,
                where=where,
                split=split,
            )
            for each in texts_of(text, f"{where}: column {columns.text!r}")
        ]
    return samples
