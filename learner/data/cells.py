"""Values of tables and data sets as texts: what stands in a cell may be a number, a list or nothing at all."""

from __future__ import annotations

import ast
import json
import math

from learner.data.base import DataError

__all__ = ["label_of", "one_text", "texts_of"]


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
