"""The data of a run, cut into phases."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.data.base import DataError
from learner.model.tokenised import Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """The data of a run: what to train on and, by name, what to test on, cut into phases.

    Attributes:
        phases: class ids of each; a class belongs to one phase.
        class_names: by class id, where they have names.
        notes: what was made of the data that its owner may not expect, a sentence each.

    Raises:
        DataError: a phase is empty, or there is nothing to train or to test on.
    """

    train: Samples
    tests: Mapping[str, Samples]
    phases: list[list[int]]
    class_names: Sequence[str] = ()
    notes: Sequence[str] = ()

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
