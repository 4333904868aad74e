"""Tables that people keep beside their pictures: CSV, TSV and JSON lines, with errors that name file and line."""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from learner.data.base import DataError
from learner.data.pictures import as_there

_LONGEST_FIELD = 16 * 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One row: its values by column (of JSON lines: any), and where it is (``labels.csv line 7``)."""

    values: Mapping[str, object]
    where: str

    def get(self, column: str) -> str:
        """:func:`one_text` of a column."""
        return one_text(self.values.get(column), f"{self.where}: column {column!r}")

    def picture(self, column: str, there: Callable[[str], bool]) -> str:
        """The name of a picture as :func:`learner.data.pictures.as_there` spells it; empty if none is named.

        Raises:
            DataError: there are several.
        """
        name, written = self.get(column), self.values.get(column)
        return as_there(written if isinstance(written, str) else name, there) if name else ""

    def label(self, column: str) -> str:
        """:func:`label_of` a column."""
        return label_of(self.values.get(column), f"{self.where}: column {column!r}")

    def texts(self, column: str) -> list[str]:
        """:func:`texts_of` a column."""
        return texts_of(self.values.get(column), f"{self.where}: column {column!r}")


def read_table(path: Path, *, columns: Sequence[str], header: bool = True) -> list[Row]:
    """All rows of ``.csv``, ``.tsv`` or ``.jsonl``.

    Args:
        columns: those that must be there; a file may have more.
        header: False where the file may begin with its first row at once: its columns are then ``columns``, in that
            order, unless the first line names them.

    Raises:
        DataError: it is not there, not UTF-8, lacks a column or has a line of another shape.
    """
    rows = parse_table(path, _bytes(path), columns=columns, header=header)
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def read_object(path: Path) -> dict[str, object]:
    """The object that a JSON file holds.

    Raises:
        DataError: it is not there, not UTF-8, or holds something else.
    """
    text = _decoded(path, _bytes(path))
    found = _parsed(path, text, path.name)
    if not isinstance(found, dict):
        raise DataError(f"{path.name} must hold an object ({path})")
    return found


def parse_table(path: Path, data: bytes, *, columns: Sequence[str], header: bool = True) -> list[Row]:
    """:func:`read_table` of bytes at hand; ``path`` says what they are, and is named in errors."""
    text = _decoded(path, data)
    if path.suffix == ".jsonl":
        return list(_json_rows(path, text, columns))
    if path.suffix in (".csv", ".tsv"):
        return list(_csv_rows(path, text, columns, header))
    raise DataError(f"{path} is no table: .csv, .tsv and .jsonl are read")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no table {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(
                f"{path.name} is not UTF-8 but UTF-16; `iconv -f utf-16 -t utf-8 {path.name} > converted{path.suffix}` "
                f"mends it ({path})"
            ) from error
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} line {line} is not UTF-8 (byte {error.object[error.start]:#04x} in {path}); if it is "
            f"Latin-1, `iconv -f latin1 -t utf-8 {path.name} > converted{path.suffix}` mends it"
        ) from error


def _csv_rows(path: Path, text: str, columns: Sequence[str], header: bool) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    names: list[str] | None = None if header else list(columns)
    line = 1
    try:
        for fields in reader:
            where, line = f"{path.name} line {line}", reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            stripped = [field.strip() for field in fields]
            if names is None:
                names = stripped
                _require(path, names, columns)
                continue
            if where == f"{path.name} line 1" and set(columns) <= set(stripped):
                names = stripped  # the header that need not be there is there
                _require(path, names, columns)
                continue
            if len(fields) != len(names):
                raise DataError(
                    f"{where} has {len(fields)} fields where the columns are {', '.join(names)}: a text with commas, "
                    f"quotes or line breaks must be in double quotes, and a quote in it doubled ({path})"
                )
            yield Row(dict(zip(names, fields, strict=True)), where)
    except csv.Error as error:
        # Where the row begins, since that is where a quote was opened that is closed much later or never.
        read_on = f" read on to line {reader.line_num}:" if reader.line_num > line else ""
        raise DataError(
            f"{path.name} line {line} is not CSV:{read_on} {error}; a text with commas, quotes or line breaks must be "
            f"in double quotes, and a quote in it doubled ({path})"
        ) from error


def _json_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        entry = _parsed(path, line, where)
        if not isinstance(entry, dict):
            raise DataError(f'{where} must be an object such as {{"{columns[0]}": ...}} ({path})')
        _require(path, list(entry), columns, line=number)
        yield Row(entry, where)


def _parsed(path: Path, text: str, where: str) -> object:
    try:
        found: object = json.loads(text, object_pairs_hook=partial(_object, where))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}) ({path})") from error
    return found


def _object(where: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    _refuse_twins([name for name, _ in pairs], where)
    return dict(pairs)


def _require(path: Path, names: Sequence[str], columns: Sequence[str], line: int = 1) -> None:
    where = f"{path.name} line {line}"
    missing = [column for column in columns if column not in names]
    if missing:
        semicolons = len(names) == 1 and ";" in names[0]
        hint = "; it is separated by semicolons, save it with commas" if semicolons else ""
        raise DataError(
            f"{where} has no column {', '.join(map(repr, missing))}; it has {', '.join(names)}{hint} ({path})"
        )
    _refuse_twins(names, where)


def _refuse_twins(names: Sequence[str], where: str) -> None:
    # Spreadsheets leave columns without a name at the end.
    twins = [name for name, count in Counter(names).items() if count > 1 and name]
    if twins:
        raise DataError(f"{where} has more than one column {', '.join(map(repr, twins))}: which one counts?")


def one_text(value: object, where: str) -> str:
    """The one text of a cell, without the space around it; empty where there is none.

    Raises:
        DataError: there are several, or what is there is no text. ``where`` says which cell.
    """
    return _only(_items(value, where), where)


def label_of(value: object, where: str) -> str:
    """:func:`one_text`, where a text may spell out a list.

    Raises:
        DataError: as there.
    """
    return _only(_items(_spelled_out(value, where), where), where)


def texts_of(value: object, where: str) -> list[str]:
    """Every text of a cell, one of them empty where there is none: several captions of one picture are a list.

    Raises:
        DataError: what is there is no text and no list of texts. ``where`` says which cell.
    """
    return [text for text in _items(_spelled_out(value, where), where) if text] or [""]


def _only(found: list[str], where: str) -> str:
    if len(found) > 1:
        raise DataError(f"{where} holds a list of {len(found)} values, {_shown(found)}; one is needed")
    return found[0] if found else ""


def _items(value: object, where: str) -> list[str]:
    return [_text(item, where) for item in value] if isinstance(value, list | tuple) else [_text(value, where)]


def _spelled_out(value: object, where: str) -> object:
    """The list that a text is as JSON or, as pandas writes lists into CSV, as Python prints it; else the value."""
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if not (isinstance(found, list) and found and all(isinstance(item, str | int) for item in found)):
            return value
        # Python joins strings without a comma between them, which is how numpy prints several.
        if read is ast.literal_eval and repr(found) != text:
            raise DataError(
                f"{where} seems to hold a list, {text[:60]}; write it as JSON, with commas and double quotes"
            )
        return found
    return value


def _text(value: object, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where} is no Unicode text: {value!a} holds half of a surrogate pair") from error
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of numbers where one is missing
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise DataError(f"{where} holds {_kind(value)}, {_shown(value)}; a text is needed")


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list within a list" if isinstance(value, list) else type(value).__name__


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
