"""In which order classes come, and how that is cut into phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learner.data.base import DataError
from learner.data.settings import DataConfig


def class_order(config: DataConfig, class_names: Sequence[str]) -> list[int]:
    """Class ids in the order of ``data.class_order``.

    Raises:
        DataError: a given order does not name each class once.
    """
    if config.class_order == "natural":
        return list(range(len(class_names)))
    if config.class_order == "seeded":
        order: list[int] = np.random.default_rng(config.class_order_seed).permutation(len(class_names)).tolist()
        return order
    return _checked([_class_id(entry, class_names) for entry in given_order(config)], class_names)


def given_order(config: DataConfig) -> list[str | int]:
    """The classes that the setting lists, or the lines of the file that it names; empty where it does neither.

    Raises:
        DataError: the file cannot be read.
    """
    given = config.class_order
    if given in ("natural", "seeded"):
        return []
    if not isinstance(given, str):
        return list(given)
    try:
        lines = Path(given).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.class_order is natural, seeded, a list of classes, or a file with one a line; {given!r} cannot be "
            f"read ({error})"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def cut(order: Sequence[int], base: int, step: int) -> list[list[int]]:
    """A base phase and equal steps (the last may be smaller)."""
    return [list(order[:base])] + [list(order[start : start + step]) for start in range(base, len(order), step)]


def class_phases(num_classes: int, base: int, step: int, seed: int) -> list[list[int]]:
    """Class ids in a shuffled order, cut into a base phase and equal steps (the last may be smaller)."""
    return cut(np.random.default_rng(seed).permutation(num_classes).tolist(), base, step)


def _class_id(entry: str | int, class_names: Sequence[str]) -> int:
    """Of a class that is given by its name or, where none is called so, by its place in the natural order."""
    named = [class_id for class_id, name in enumerate(class_names) if name == entry]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"data.class_order: {len(named)} classes are called {entry!r}; give them by number: {named}")
    number = entry if isinstance(entry, int) else int(entry) if entry.isascii() and entry.isdigit() else -1
    if not 0 <= number < len(class_names):
        raise DataError(f"data.class_order: there is no class {entry!r}; classes are {_some(class_names)}")
    return number


def _checked(order: list[int], class_names: Sequence[str]) -> list[int]:
    twice = [class_names[class_id] for class_id in dict.fromkeys(order) if order.count(class_id) > 1]
    left_out = [name for class_id, name in enumerate(class_names) if class_id not in set(order)]
    if twice:
        raise DataError(f"data.class_order: a class comes once; twice there are {_some(twice)}")
    if left_out:
        raise DataError(f"data.class_order names {len(order)} of {len(class_names)} classes; not {_some(left_out)}")
    return order


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
