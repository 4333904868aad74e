"""The colours of methods, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One colour as the page has it: ``#rrggbb`` on a light and on a dark ground, at least 3 to 1 against either."""

    light: str
    dark: str


OF_METHODS: Mapping[str, Colour] = {
    "none": Colour("#6b7280", "#9aa3ad"),
    "full": Colour("#b4531f", "#f0935b"),
    "masked": Colour("#1f5fd1", "#6aa5ff"),
}
"""Of the demo's methods; others take :data:`OTHERS` in turn."""
OTHERS: tuple[Colour, ...] = (
    Colour("#1a7f47", "#4cc57f"),
    Colour("#7a3fd1", "#b995ff"),
    Colour("#8a6100", "#d9a62e"),
    Colour("#b02a5b", "#f07ba3"),
    Colour("#08797d", "#3fc1c5"),
    Colour("#7a5c3e", "#c9a37e"),
)


def colours(methods: Iterable[str]) -> dict[str, Colour]:
    """The colour of each method, by its name."""
    given, others = {}, 0
    for method in methods:
        if method in OF_METHODS:
            given[method] = OF_METHODS[method]
        else:
            given[method] = OTHERS[others % len(OTHERS)]
            others += 1
    return given
