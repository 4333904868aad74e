"""Pictures of one's own: in class folders (``cat/1.jpg``, or ``train/cat/1.jpg`` and ``test/cat/9.jpg``), or with a
table beside them of picture, text, class and, where there is one, split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.caption_table import read_captions
from learner.data.pictures import NoPicture, Picture, PictureFile, picture_in, pictures_below
from learner.data.settings import Columns, DataConfig
from learner.data.table import Row, read_table

LAYOUT = (
    "pictures lie in a folder for each class (cat/1.jpg), or in such folders of each split (train/cat/1.jpg, "
    "test/cat/9.jpg)"
)
_UNUSED = frozenset({"val", "valid", "validation", "dev"})
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


def list_class_folders(root: Path, captions: str = "") -> Listing:
    """Every picture below a folder, its class the folder that it lies in.

    Folders that are called as splits are splits where a ``train`` is among them. Of folders within a class's folder,
    all pictures are of that class. A validation split is left aside.

    Args:
        captions: file with a text for some of the pictures; empty: ``captions.csv`` in the folder, where it is there.

    Raises:
        DataError: there are no pictures, or none lies in a class's folder; or the captions file is of another shape.
    """
    names = pictures_below(root)
    if not names:
        raise DataError(f"there are no pictures in {root}, and no labels.csv: {LAYOUT}")
    tops = {name.split("/")[0] for name in names if "/" in name}
    nested = {name.split("/")[0] for name in names if name.count("/") > 1}
    strange = sorted(top for top in tops if split_of(top) is None)
    by_split = any(split_of(top) == "train" for top in nested)
    if by_split and strange:
        # A class may be called train too, and has its pictures right in its folder.
        if not any(name.count("/") == 1 and split_of(name.split("/")[0]) == "train" for name in names):
            raise DataError(
                f"{root} has folders of splits (train) and {strange[0]!r} beside them: rename it to train, test, "
                "test-NAME or val, or move it"
            )
        by_split = False
    depth = 2 if by_split else 1
    placed = [name for name in names if name.count("/") >= depth]
    outside = [name for name in names if name.count("/") < depth]
    if not placed:
        raise DataError(f"the pictures of {root} are in no class's folder (such as {names[0]}): {LAYOUT}")
    splits = {top: split_of(top) if by_split else "" for top in tops}
    texts, about_texts = _texts(root, captions, names)
    samples = [
        Sample(
            picture=picture_in(root, name),
            key=name,
            text=texts.get(name, ""),
            label=name.split("/")[depth - 1],
            where=name,
            split=splits[name.split("/")[0]] or "",
        )
        for name in placed
    ]
    count = Counter(sample.split for sample in samples)
    used = [sample for sample in samples if sample.split != "validation"]
    notes = [f"classes are the folders that pictures lie in{', below those of the splits' if by_split else ''}"]
    if by_split and not any(split.startswith("test") for split in count):
        # Without this, nothing would be tested on.
        used = [replace(sample, split="") for sample in used]
    if count["validation"]:
        notes.append(f"{count['validation']} pictures of a validation split are left aside")
    if outside:
        notes.append(f"{len(outside)} pictures lie in no class's folder and are left out (such as {outside[0]})")
    return Listing(root.resolve().name, used, notes=(*notes, *about_texts))


def _texts(root: Path, captions: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    file = Path(captions).expanduser() if captions else root / "captions.csv"
    if not file.is_file():
        if captions:
            raise DataError(f"there is no captions file {file} (data.captions)")
        return {}, ["there are no texts: the pictures alone are learned from (a captions.csv may hold some)"]
    texts = read_captions(file, set(names))
    found = sum(name in texts for name in names)
    return texts, [f"{found} of {len(names)} pictures have a text in {file.name}"]


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


def split_of(text: str) -> str | None:
    """``train``, ``test``, ``test-NAME`` or ``validation`` from what people call a split; None: it is none of these."""
    name = text.lower().replace("_", "-")
    if name in _UNUSED:
        return "validation"
    return name if name in ("train", "test") or name.startswith("test-") else None


def split_name(text: str, where: str) -> str:
    """``train``, ``test``, ``test-NAME`` or ``validation`` from what a table says.

    Raises:
        DataError: it says something else.
    """
    name = split_of(text)
    if name is None:
        raise DataError(f"{where}: the split must be train, test, test-NAME or val, not {text!r}")
    return name
