"""What every data set hands to the learner: pictures with texts and classes, to train and to test on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learner.data.pictures import LazyPictures

SHOWN = 5
"""Of a list of names or reasons in an error."""


class DataError(ValueError):
    """A data set cannot be used as it is: the message says which file and line, and what would be right."""


@dataclass(frozen=True)
class Split:
    """Samples that belong together: N pictures, N texts, N classes.

    Attributes:
        images: (N, S, S, 3) uint8 RGB, or pictures of many sizes that are decoded when they are indexed.
        texts: N captions.
        class_ids: (N,) int64, positions in :attr:`MultimodalData.class_names`.
        object_masks: (N, S, S) bool, True where the object covers the background; for analysis only (no
            learner may train on it), ``None`` where a data set does not know.
        sources: N names that tell where a sample comes from (``"1f415/noto"``), or empty where nothing is
            known.

    Raises:
        ValueError: the arrays do not fit each other.
    """

    images: NDArray[np.uint8] | LazyPictures
    texts: list[str]
    class_ids: NDArray[np.int64]
    object_masks: NDArray[np.bool_] | None = None
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape: tuple[int, ...] = (len(self.images),)
        if isinstance(self.images, np.ndarray):
            shape = self.images.shape
            if self.images.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
                raise ValueError(f"images must be (N, S, S, 3) uint8, not {shape} {self.images.dtype}")
        if self.class_ids.dtype != np.int64 or self.class_ids.shape != shape[:1]:
            raise ValueError(
                f"class_ids must be ({shape[0]},) int64, not {self.class_ids.shape} {self.class_ids.dtype}"
            )
        if len(self.texts) != shape[0]:
            raise ValueError(f"{shape[0]} images but {len(self.texts)} texts")
        if self.sources and len(self.sources) != shape[0]:
            raise ValueError(f"{shape[0]} images but {len(self.sources)} sources")
        masks = self.object_masks
        if masks is not None and (masks.dtype != np.bool_ or masks.shape != shape[:3]):
            raise ValueError(f"object_masks must be {shape[:3]} bool, not {masks.shape} {masks.dtype}")
        if shape[0] and self.class_ids.min() < 0:
            raise ValueError("class_ids must not be negative")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64]) -> Split:
        """The samples at ``indices`` (M,), in that order, as copies."""
        return Split(
            images=self.images[indices] if isinstance(self.images, np.ndarray) else self.images.take(indices),
            texts=[self.texts[i] for i in indices],
            class_ids=self.class_ids[indices],
            object_masks=None if self.object_masks is None else self.object_masks[indices],
            sources=[self.sources[i] for i in indices] if self.sources else [],
        )

    def subset(self, classes: Iterable[int]) -> Split:
        """The samples of ``classes``, in their order here; class ids stay what they are."""
        return self.take(np.flatnonzero(np.isin(self.class_ids, list(classes))).astype(np.int64))


@dataclass(frozen=True)
class MultimodalData:
    """A data set: its classes, what to train on and, by name, what to test on.

    Attributes:
        notes: what was made of it that its owner may not expect, a sentence each.
        bad: pictures that are missing or damaged and were left out, with the reason of each.

    Raises:
        ValueError: a sample's class has no name, or arrays of pictures differ in size between splits.
    """

    name: str
    class_names: list[str]
    train: Split
    test: dict[str, Split]
    notes: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split_name, split in {"train": self.train, **self.test}.items():
            if len(split) and int(split.class_ids.max()) >= len(self.class_names):
                raise ValueError(
                    f"{self.name}/{split_name}: class id {int(split.class_ids.max())} has no name "
                    f"({len(self.class_names)} classes)"
                )
            train, images = self.train.images, split.images
            if isinstance(images, np.ndarray) and isinstance(train, np.ndarray) and images.shape[1:] != train.shape[1:]:
                raise ValueError(
                    f"{self.name}/{split_name}: pictures are {images.shape[1:]}, those of the training "
                    f"split {train.shape[1:]}"
                )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def some(items: Iterable[str], separator: str = ", ") -> str:
    """The first few, and how many more there are."""
    listed = list(items)
    more = f"{separator.strip(', ')} and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return separator.join(listed[:SHOWN]) + more


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that nothing drawn for one sample or class shifts another's."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
