"""The captions file: a text for each picture of a folder, CSV or JSON lines with ``image`` and ``text``. JSON with an
object of texts by picture, as others write it, is read too.

Captions of thirty thousand pictures take hours to write, so the file grows row by row, and a run that was cut off goes
on where it stopped.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

from learner.data.base import DataError
from learner.data.settings import MissingTexts
from learner.data.table import Row, parse_table, read_object, read_table

COLUMNS = ("image", "text")


def read_captions(path: Path, pictures: Container[str]) -> dict[str, str]:
    """Text by picture; pictures are named by their path below the folder, ``n01443537/art_0.jpg``.

    Args:
        pictures: those that are there; a row's name may be spelled otherwise (:func:`learner.data.pictures.as_there`).

    Raises:
        DataError: the file is of another shape, or gives two texts to one picture.
    """
    if path.suffix == ".json":
        named = read_object(path).items()
        rows = [Row(dict(zip(COLUMNS, pair, strict=True)), f"{path.name}: {pair[0]!r}") for pair in named]
    else:
        rows = read_table(path, columns=COLUMNS)
    return _captions(path, rows, pictures)


def about_missing(missing: Sequence[str], total: int, file: str, choice: MissingTexts, mend: str) -> tuple[str, ...]:
    """What is said of pictures that a file of texts does not name; nothing, where it names all.

    Args:
        missing: those, and ``total``: how many pictures there are.
        mend: what would mend it, if anything.

    Raises:
        DataError: they are neither to be left out nor to be taken without a text.
    """
    if not missing:
        return ()
    said = f"{len(missing)} of {total} pictures have no text in {file} (such as {missing[0]})"
    if choice == "error":
        instead = "data.missing_texts=skip leaves them out, and data.missing_texts=empty takes them without a text"
        raise DataError(f"{said}: {mend}; or {instead}" if mend else f"{said}: {instead}")
    return (f"{said}: they are {'left out' if choice == 'skip' else 'taken without one'} (data.missing_texts)",)


def _captions(path: Path, rows: Iterable[Row], pictures: Container[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    places: dict[str, str] = {}
    for row in rows:
        name = row.picture("image", lambda spelling: _plain(spelling) in pictures)
        if not name:
            raise DataError(f"{row.where}: no picture is named in column 'image' ({path})")
        key = _plain(name)
        if captions.get(key, row.get("text")) != row.get("text"):
            raise DataError(f"{row.where}: {key} has another text than in {places[key]}; one of them must go ({path})")
        captions[key] = row.get("text")
        places.setdefault(key, row.where)
    return captions


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


class CaptionsWriter:
    """Appends captions to a file, each batch on disk before the next. One at a time: the file is locked.

    A row that was cut off when an earlier run ended is taken away first.

    Args:
        path: ``.csv`` or ``.jsonl``; made if it is not there.
        pictures: see :func:`read_captions`.

    Attributes:
        done: the captions that the file holds, by picture.

    Raises:
        DataError: the name has another ending, another process writes to it, or what is there is no captions file.
    """

    def __init__(self, path: Path, pictures: Container[str]) -> None:
        if path.suffix not in (".csv", ".jsonl"):
            raise DataError(f"a captions file ends in .csv or .jsonl, not {path.name!r}")
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another process is writing captions to {path}") from error
            self.done = self._open(path.read_bytes(), pictures)
        except BaseException:
            self._file.close()
            raise

    def _open(self, data: bytes, pictures: Container[str]) -> dict[str, str]:
        """What is there; afterwards the file ends with a whole row."""
        try:
            rows = parse_table(self._path, data, columns=COLUMNS)
        except DataError:
            # Rows are written in quotes, so that half a row is never taken for a whole one.
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) == len(data):
                raise
            rows = parse_table(self._path, whole, columns=COLUMNS)
            self._file.truncate(len(whole))
            data = whole
        if not data and self._path.suffix == ".csv":
            self._write(_csv_line(COLUMNS))
        elif data and not data.endswith(b"\n"):
            self._write(b"\n")
        return _captions(self._path, rows, pictures)

    def append(self, captions: Iterable[tuple[str, str]]) -> None:
        """Write ``(image, text)`` pairs. Line breaks in a text become spaces: a row is one line."""
        rows = [(image, " ".join(text.split())) for image, text in captions]
        if self._path.suffix == ".csv":
            lines = [_csv_line(row) for row in rows]
        else:
            lines = [
                json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False).encode() + b"\n" for row in rows
            ]
        self._write(b"".join(lines))
        self.done.update(rows)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> CaptionsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _csv_line(row: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(row)
    return line.getvalue().encode()
