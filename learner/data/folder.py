"""Pictures of one's own: in class folders, or with a table beside them of picture, text, class and, where there is one,
split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.class_folders import LAYOUT, list_class_folders, split_of
from learner.data.pictures import NoPicture, Picture, PictureFile
from learner.data.settings import Columns, DataConfig
from learner.data.table import Row, read_table

__all__ = ["ONLY_TEXTS", "list_folder", "only_pictures", "split_name"]

_LAYOUT = (
    f"data.path names a folder or a table. In the folder {LAYOUT}, or labels.csv lies there. A table (.csv, .tsv or "
    ".jsonl) has in each row the path of a picture, relative to the table, its class and, if there are, text and split"
)
ONLY_TEXTS = (
    "data.columns.image is empty: the texts alone are learned from, each with one grey patch in place of a picture; "
    "masked exemplars are then smaller with mask.text=true only"
)


def list_folder(config: DataConfig) -> Listing:
    """The pictures of class folders, or the rows of a table. Those of a validation split are left aside.

    Raises:
        DataError: nothing is there, a column is missing, a row has no picture, or its split is unknown.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_LAYOUT}")
    path = Path(config.path).expanduser()
    table = path / "labels.csv" if path.is_dir() else path
    if path.is_dir() and not table.is_file():
        return list_class_folders(path, config.captions)
    if not table.is_file():
        raise DataError(f"there is no folder and no table {path}: {_LAYOUT}")
    return _list_table(table, config.columns)


def _list_table(table: Path, columns: Columns) -> Listing:
    # A column of texts may be missing under its usual name; under another one it was asked for.
    asked = [columns.text] if columns.text != Columns().text else []
    rows = read_table(table, columns=[name for name in (columns.image, *asked, columns.label) if name])
    has_text = _has_column(rows, columns.text)
    if not columns.image and not has_text:
        raise DataError(f"{table}: data.columns.image is empty, and there is no column of texts either")
    has_split = columns.split in rows[0].values
    samples = [
        Sample(
            picture=_picture(row, table, columns.image),
            key=os.path.normpath(_name(row, table, columns.image)) if columns.image else row.where,
            text=text,
            label=row.label(columns.label),
            where=row.where,
            split=split_name(row.get(columns.split), row.where) if has_split else "",
        )
        for row in rows
        for text in (row.texts(columns.text) if has_text else [""])
    ]
    aside = Counter(sample.split for sample in samples)["validation"]
    if aside == len(samples):
        raise DataError(f"{table}: all {aside} rows are of a validation split, which is not used")
    notes = [] if has_text else [only_pictures(columns.text, list(rows[0].values))]
    notes += [] if columns.image else [ONLY_TEXTS]
    notes += [f"{aside} rows of a validation split are left aside"] if aside else []
    used = [sample for sample in samples if sample.split != "validation"]
    return Listing(table.parent.resolve().name, used, notes=tuple(notes))


def only_pictures(column: str, there: Sequence[str]) -> str:
    """What is said where no column holds texts."""
    return (
        f"there is no column {column!r} of texts, only {', '.join(there)}: the pictures alone are learned from "
        "(data.columns.text names another column)"
    )


def _has_column(rows: Sequence[Row], column: str) -> bool:
    """Whether the rows have a column; of JSON lines, all must or none.

    Raises:
        DataError: some have it.
    """
    there = [column in row.values for row in rows]
    if any(there) and not all(there):
        without, known = rows[there.index(False)], rows[there.index(True)]
        raise DataError(f"{without.where} has no column {column!r}, which {known.where} has")
    return all(there)


def _name(row: Row, table: Path, column: str) -> str:
    name = row.picture(column, lambda spelling: os.path.exists(table.parent / spelling))
    if not name:
        raise DataError(f"{row.where}: no picture is named in column {column!r}")
    return name


def _picture(row: Row, table: Path, column: str) -> Picture:
    if not column:
        return NoPicture(row.where)
    name = _name(row, table, column)
    return PictureFile(table.parent / name, f"{row.where}: {name}")


def split_name(text: str, where: str) -> str:
    """``train``, ``test``, ``test-NAME`` or ``validation`` from what a table says.

    Raises:
        DataError: it says something else.
    """
    name = split_of(text)
    if name is None:
        raise DataError(f"{where}: the split must be train, test, test-NAME or val, not {text!r}")
    return name
