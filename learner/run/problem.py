"""The data of a run, cut into phases, and the order in which their classes come."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learner.data.base import DataError, some
from learner.data.settings import DataConfig
from learner.model.tokenised import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """The data of a run: what to train on and, by name, what to test on, cut into phases.

    Attributes:
        phases: class ids of each; a class belongs to one phase.
        class_names: by class id, where they have names.
        vocabulary: fingerprint of that of the token ids; None: they are made up.
        words: those of the vocabulary, that of token id 0 first; none where they are not known.
        notes: what was made of the data that its owner may not expect, a sentence each.

    Raises:
        DataError: a phase is empty, or there is nothing to train or to test on.
    """

    train: Samples
    tests: Mapping[str, Samples]
    phases: list[list[int]]
    class_names: Sequence[str] = ()
    notes: Sequence[str] = ()
    vocabulary: str | None = None
    words: Sequence[str] = ()

    def __post_init__(self) -> None:
        seen: set[int] = set()
        trained = set(self.train.class_ids.tolist())
        tested = {name: set(split.class_ids.tolist()) for name, split in self.tests.items()}
        for number, classes in enumerate(self.phases, start=1):
            if not classes:
                raise DataError(f"phase {number} is empty: every phase needs a class")
            for class_id in classes:
                if class_id in seen:
                    raise DataError(f"class {self._named(class_id)} is in two phases")
                if class_id not in trained:
                    raise DataError(f"class {self._named(class_id)} of phase {number} has no sample to train on")
            seen.update(classes)
            if not any(classes_tested & set(classes) for classes_tested in tested.values()):
                named = ", ".join(map(self._named, classes))
                raise DataError(
                    f"no class of phase {number} ({named}) has a sample to test on: add some, or make phases larger"
                )
            for name, classes_tested in tested.items():
                if not classes_tested & seen:
                    raise DataError(
                        f"split {name!r} tests none of the classes of phase 1: enlarge data.base_classes, or choose "
                        f"another data.class_order_seed"
                    )
        untested = sorted(seen.difference(*tested.values()))
        if untested:
            log.warning(
                "nothing to test on of %s: accuracy is that of the others", ", ".join(map(self._named, untested))
            )

    @property
    def fingerprint(self) -> str:
        """Changes when samples or classes are added or taken away: what was trained before is then of other data."""
        digest = hashlib.sha256(repr((self.phases, list(self.class_names))).encode())
        for name, split in sorted({"train": self.train, **self.tests}.items()):
            digest.update(name.encode() + split.class_ids.tobytes())
        return digest.hexdigest()[:16]

    @property
    def named_phases(self) -> list[list[str]]:
        """The classes of each phase, by name where they have one."""
        return [[self.name_of(class_id) for class_id in classes] for classes in self.phases]

    def name_of(self, class_id: int) -> str:
        """The class's name, or its id where it has none."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def _named(self, class_id: int) -> str:
        return repr(self.class_names[class_id]) if 0 <= class_id < len(self.class_names) else str(class_id)

    def seen(self, phase: int) -> list[int]:
        """Class ids of all phases up to this one."""
        return [class_id for classes in self.phases[: phase + 1] for class_id in classes]


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


def chosen(config: DataConfig, order: list[int], class_names: Sequence[str]) -> list[int]:
    """The classes of ``data.classes``, in the order that all have.

    Raises:
        DataError: there is none of that name, or one comes twice.
    """
    if not config.classes:
        return order
    wanted = [_class_id(entry, class_names, "classes") for entry in config.classes]
    if len(set(wanted)) != len(wanted):
        raise DataError("data.classes: a class comes once")
    return [class_id for class_id in order if class_id in wanted]


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


def _class_id(entry: str | int, class_names: Sequence[str], setting: str = "class_order") -> int:
    """Of a class that is given by its name or, where none is called so, by its place in the natural order."""
    named = [class_id for class_id, name in enumerate(class_names) if name == entry]
    if len(named) == 1:
        return named[0]
    if named:
        raise DataError(f"data.{setting}: {len(named)} classes are called {entry!r}; give them by number: {named}")
    number = entry if isinstance(entry, int) else int(entry) if entry.isascii() and entry.isdigit() else -1
    if not 0 <= number < len(class_names):
        raise DataError(f"data.{setting}: there is no class {entry!r}; classes are {some(map(repr, class_names))}")
    return number


def _checked(order: list[int], class_names: Sequence[str]) -> list[int]:
    twice = [class_names[class_id] for class_id in dict.fromkeys(order) if order.count(class_id) > 1]
    left_out = [name for class_id, name in enumerate(class_names) if class_id not in set(order)]
    if twice:
        raise DataError(f"data.class_order: a class comes once; twice there are {some(map(repr, twice))}")
    if left_out:
        raise DataError(
            f"data.class_order names {len(order)} of {len(class_names)} classes; not {some(map(repr, left_out))}"
        )
    return order
