"""Tables that people keep beside their pictures: CSV, TSV and JSON lines, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.data.base import DataError

__all__ = ["Row", "parse_table", "read_table"]

_LONGEST_FIELD = 16 * 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One row: its values by column, and where it is (``labels.csv line 7``)."""

    values: dict[str, str]
    where: str

    def get(self, column: str) -> str:
        """A value without the space around it; empty where the row has none."""
        return self.values.get(column, "").strip()


def read_table(path: Path, *, columns: Sequence[str], header: bool = True) -> list[Row]:
    """All rows of ``.csv``, ``.tsv`` or ``.jsonl``.

    Args:
        columns: those that must be there; a file may have more.
        header: False where the file may begin with its first row at once: its columns are then ``columns``, in that
            order, unless the first line names them.

    Raises:
        DataError: it is not there, not UTF-8, lacks a column or has a line of another shape.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no table {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    rows = parse_table(path, data, columns=columns, header=header)
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def parse_table(path: Path, data: bytes, *, columns: Sequence[str], header: bool = True) -> list[Row]:
    """:func:`read_table` of bytes at hand; ``path`` says what they are, and is named in errors."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name} line {line} is not UTF-8 (byte {error.object[error.start]:#04x} in {path}); if it is "
            f"Latin-1, `iconv -f latin1 -t utf-8 {path.name} > converted{path.suffix}` mends it"
        ) from error
    if path.suffix == ".jsonl":
        return list(_json_rows(path, text, columns))
    if path.suffix in (".csv", ".tsv"):
        return list(_csv_rows(path, text, columns, header))
    raise DataError(f"{path} is no table: .csv, .tsv and .jsonl are read")


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
                continue
            if len(fields) != len(names):
                raise DataError(
                    f"{where} has {len(fields)} fields where the columns are {', '.join(names)}: a text with commas, "
                    f"quotes or line breaks must be in double quotes, and a quote in it doubled ({path})"
                )
            yield Row(dict(zip(names, fields, strict=True)), where)
    except csv.Error as error:
        raise DataError(f"{path.name} line {reader.line_num} is not CSV ({error}) ({path})") from error


def _json_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[Row]:
    # Not splitlines(): JSON strings may hold other line separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where} is not JSON ({error}) ({path})") from error
        if not isinstance(entry, dict):
            raise DataError(f'{where} must be an object such as {{"{columns[0]}": ...}} ({path})')
        _require(path, list(entry), columns, line=number)
        yield Row({name: "" if value is None else str(value) for name, value in entry.items()}, where)


def _require(path: Path, names: Sequence[str], columns: Sequence[str], line: int = 1) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(
            f"{path.name} line {line} has no column {', '.join(map(repr, missing))}; it has {', '.join(names)} ({path})"
        )
