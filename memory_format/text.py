"""Text and JSON as all parts take them: what UTF-8 can carry and any database can hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Final

from memory_format.errors import FormatError

TEXT_PATTERN: Final = r"^[^\x00]*$"
"""Of texts that can be kept, for JSON Schema, which knows no half of a surrogate pair."""

MAX_NESTING: Final = 64
"""Levels of lists and objects in JSON. What is deeper has no use here, and costs whoever reads it a stack."""

_UNFIT = re.compile("[\x00\ud800-\udfff]")


def check_text(name: str, text: str, *, max_length: int) -> str:
    """The text, if it can be kept.

    UTF-8 cannot say half of a surrogate pair, and PostgreSQL holds no NUL.

    Raises:
        FormatError: it has either, or more than ``max_length`` characters.
    """
    if len(text) > max_length:
        raise FormatError(f"{name} has at most {max_length} characters, got {len(text)}", code="invalid_request")
    unfit = _UNFIT.search(text)
    if unfit:
        what = f"{name} has U+{ord(unfit[0]):04X} at {unfit.start()}, which cannot be kept: leave it out"
        raise FormatError(what, code="invalid_request")
    return text


def read_json(data: bytes) -> Any:
    """Parse JSON as strictly as RFC 8259 and RFC 7493 ask: UTF-8, no NaN, each name of an object once, no half of a
    surrogate pair; and no deeper than :data:`MAX_NESTING`.

    A number that no float holds reads as infinite; ranges refuse it.

    Raises:
        ValueError: it is something else; the message says what.
    """
    try:
        text = data.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_NESTING} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    except ValueError as error:
        # Python's words for too many digits speak of its own settings.
        said = error if isinstance(error, _NotStrictError) else ValueError("a number in it has too many digits")
        raise said from None
    # Looked at only where the text says that it can be so: 100,000 numbers take as long to walk as to parse.
    if text.count("[") + text.count("{") > MAX_NESTING and nesting(value) > MAX_NESTING:
        raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")
    # Only an escape can name what UTF-8 cannot carry.
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it has half of a surrogate pair") from None
    return value


def nesting(value: Any) -> int:
    """Levels of lists and objects in parsed JSON."""
    levels, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        levels += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return levels


class _NotStrictError(ValueError):
    """JSON as Python takes it, and others do not."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _NotStrictError(f"an object has the name {twice[:100]!a} twice")
    return found


def refuse_constant(name: str) -> None:
    raise _NotStrictError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once, parse_constant=refuse_constant)
