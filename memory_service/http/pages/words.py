"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode


def count(number: int) -> str:
    """``1234567`` -> ``1,234,567``."""
    return f"{number:,}"


def several(number: int, word: str) -> str:
    """``1 class``, ``2 classes``."""
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,} {word}{ending}"


def size(num_bytes: float) -> str:
    """Bytes with three or so digits: ``1.5 MB`` are 1,500,000."""
    if num_bytes < 1000:
        return f"{num_bytes:,.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if round(num_bytes, 1) < 1000:
            return f"{num_bytes:,.1f} {unit}"
    return f"{num_bytes / 1000:,.1f} TB"


def number(value: float) -> str:
    """With four digits."""
    return f"{value:.4g}"


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 has them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day(seconds: float) -> str:
    """For people: ``2026-01-31 12:00 UTC``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def query(values: Mapping[str, Any]) -> str:
    """A query string with its ``?``, without what is not given; lists name their key several times."""
    given = {key: value for key, value in values.items() if value not in (None, "", [], ())}
    return f"?{urlencode(given, doseq=True)}" if given else ""


FILTERS: Final[dict[str, Callable[..., str]]] = {
    made.__name__: made for made in (count, several, size, number, moment, day, query)
}
