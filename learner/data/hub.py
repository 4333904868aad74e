"""A data set of Hugging Face's ``datasets``: by its name on the hub, or a local folder of Parquet, CSV or pictures."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.folder import ONLY_TEXTS, only_pictures
from learner.data.pictures import NoPicture, PictureError
from learner.data.settings import Columns, DataConfig
from learner.data.table import label_of, texts_of

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
            "data.name=hub needs the package `datasets`: pip install datasets (it is the extra `hub`: in a checkout "
            "of Exemplar Memory, pip install -e '.[hub]')"
        ) from error
    try:
        loaded = datasets.load_dataset(config.path, config.hub.subset or None)
    # Whatever the library, the network or a data set's own files raise.
    except Exception as error:
        # What it says where metadata.csv lies in the folder of one split only.
        hint = "; a metadata.csv must lie in the folder of each split" if "corresponds to no data" in str(error) else ""
        raise DataError(
            f"`datasets` cannot load {config.path!r} ({type(error).__name__}: {error}). {_HOW}; for one without a "
            f"network, download it first where there is one{hint}"
        ) from error
    splits = {"train": config.hub.train_split, "test": config.hub.test_split}
    if not config.hub.test_split:
        del splits["test"]
    samples: list[Sample] = []
    notes = [] if config.columns.image else [ONLY_TEXTS]
    there = {column for name in splits.values() if name in loaded for column in loaded[name].column_names}
    if config.columns.text not in there:
        notes.append(only_pictures(config.columns.text, sorted(there)))
    for split, name in splits.items():
        if name not in loaded:
            raise DataError(
                f"{config.path} has no split {name!r}; it has {', '.join(loaded)}. Set data.hub.{split}_split"
                + (" (empty: a share of each class is tested on)" if split == "test" else "")
            )
        samples += _samples(loaded[name], name, split if len(splits) > 1 else "", config)
    return Listing(config.path, samples, notes=tuple(notes))


def _samples(rows: Any, name: str, split: str, config: DataConfig) -> list[Sample]:
    columns, where = config.columns, f"{config.path}/{name}"
    if columns.image:
        _require(rows, "image", columns.image, where)
    # A column of texts may be missing under its usual name; under another one it was asked for.
    if columns.text != Columns().text or not columns.image or columns.text in rows.column_names:
        _require(rows, "text", columns.text, where)
    pictures = _pictures(rows, columns.image, where) if columns.image else None
    labels = _labels(rows, pictures, columns, where)
    texts = rows[columns.text] if columns.text in rows.column_names else [""] * len(rows)
    return [
        Sample(
            picture=NoPicture(f"{where} row {row}")
            if pictures is None
            else HubPicture(pictures, columns.image, row, f"{where} row {row}", str(rows._fingerprint)),
            key=f"{name}/{row}",
            text=text,
            label=label,
            where=f"{where} row {row}",
            split=split,
        )
        for row, (value, label) in enumerate(zip(texts, labels, strict=True))
        for text in texts_of(value, f"{where} row {row}: column {columns.text!r}")
    ]


def _require(rows: Any, kind: str, column: str, where: str) -> None:
    if column not in rows.column_names:
        raise DataError(
            f"{where} has no column {column!r}; it has {', '.join(rows.column_names)}. Set data.columns.{kind}"
        )
    if f"{column}.1" in rows.column_names:  # what pandas calls a second one of the same name
        raise DataError(f"{where} has more than one column {column!r}: which one counts?")


def _pictures(rows: Any, column: str, where: str) -> Any:
    """The rows of one column, whose pictures are not decoded."""
    import datasets

    try:
        if rows.features[column] == datasets.Value("string"):
            raise TypeError("texts, which may name files but hold no pictures")
        return rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except Exception as error:
        raise DataError(
            f"column {column!r} of {where} holds no pictures but {rows.features[column]}. Set data.columns.image"
        ) from error


def _labels(rows: Any, pictures: Any, columns: Columns, where: str) -> list[str]:
    """The class of each row. `datasets` forgets the names of folders where a metadata file lies beside them."""
    import datasets

    folders = _class_folders(rows, pictures, columns.image)
    if columns.label == "label" and folders and "label" not in rows.column_names:
        return folders
    _require(rows, "label", columns.label, where)
    feature = rows.features[columns.label]
    feature = getattr(feature, "feature", feature)  # of a list
    # A class may be stored as its number; its name is what people know, and the same in all splits. The number is not,
    # where datasets' class_encode_column made it (findings/datasets_class_numbers_by_split.sh).
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    labels = []
    # No format is set, so these are Python's numbers. With one of numpy or torch, datasets 5.2.0 gives -1 for 2^64 - 1,
    # which would be no label (findings/datasets_format_by_slice.sh).
    for row, value in enumerate(rows[columns.label]):
        label = label_of(value, f"{where} row {row}: column {columns.label!r}")
        if not label or value in (-1, [-1]):
            raise DataError(f"{where} row {row}: no class is given in column {columns.label!r}")
        labels.append(names[int(label)] if names else label)
    known = set(folders)
    for row, (folder, label) in enumerate(zip(folders, labels, strict=False)):
        if label != folder and label in known:
            raise DataError(
                f"{where} row {row}: the class is {label!r} in column {columns.label!r}, but the picture lies in "
                f"folder {folder!r}; one of them is wrong"
            )
    return labels


def _class_folders(rows: Any, pictures: Any, column: str) -> list[str]:
    """The folder of each picture, where they lie in several of the same depth; else nothing."""
    if pictures is None or rows.info.builder_name != "imagefolder":
        return []
    paths = [PurePath(value["path"].partition("::")[0]) if value else None for value in pictures[column]]
    if None in paths or len({len(path.parts) for path in paths if path}) != 1:
        return []
    folders = [path.parent.name for path in paths if path]
    return folders if len(set(folders)) > 1 else []
