"""Any folder of pictures with a table beside it: picture, text, class and, where there is one, split."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from learner.config import DataConfig
from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.pictures import PictureFile
from learner.data.table import read_table

__all__ = ["list_folder", "split_name"]

_LAYOUT = (
    "data.path names a table (.csv, .tsv or .jsonl) or a folder with labels.csv in it; each row holds the path of a "
    "picture, relative to the table, its text, its class and, optionally, its split"
)
_UNUSED = frozenset({"val", "valid", "validation", "dev"})


def list_folder(config: DataConfig) -> Listing:
    """The rows of a table. Those of a validation split are left aside.

    Raises:
        DataError: no table, a column is missing, a row has no picture, or its split is unknown.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_LAYOUT}")
    path = Path(config.path).expanduser()
    table = path / "labels.csv" if path.is_dir() else path
    if not table.is_file():
        raise DataError(f"there is no table {table}: {_LAYOUT}")
    columns = config.columns
    rows = read_table(table, columns=(columns.image, columns.text, columns.label))
    has_split = columns.split in rows[0].values
    samples = []
    for row in rows:
        name = row.picture(columns.image, lambda spelling: os.path.exists(table.parent / spelling))
        if not name:
            raise DataError(f"{row.where}: no picture is named in column {columns.image!r}")
        samples += [
            Sample(
                picture=PictureFile(table.parent / name, f"{row.where}: {name}"),
                key=os.path.normpath(name),
                text=text,
                label=row.label(columns.label),
                where=row.where,
                split=split_name(row.get(columns.split), row.where) if has_split else "",
            )
            for text in row.texts(columns.text)
        ]
    aside = Counter(sample.split for sample in samples)["validation"]
    if aside == len(samples):
        raise DataError(f"{table}: all {aside} rows are of a validation split, which is not used")
    return Listing(table.parent.resolve().name, [s for s in samples if s.split != "validation"])


def split_name(text: str, where: str) -> str:
    """``train``, ``test``, ``test-NAME`` or ``validation`` from what a table says.

    Raises:
        DataError: it says something else.
    """
    name = text.lower().replace("_", "-")
    if name in _UNUSED:
        return "validation"
    if name in ("train", "test") or name.startswith("test-"):
        return name
    raise DataError(f"{where}: the split must be train, test, test-NAME or val, not {text!r}")
