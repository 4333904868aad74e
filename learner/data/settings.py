"""Settings: which data, how much of it, and how it is cut into phases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from learner.ranges import LARGEST, within
from memory_format.canvas import MAX_SIDE_PX

DataName = Literal["emoji", "imagenet-r", "food101", "folder", "hub"]
SceneChoice = Literal["any", "misleading"]
TextLength = Literal["short", "long"]
MissingTexts = Literal["error", "skip", "empty"]


@dataclass(frozen=True)
class Columns:
    """Which column holds what, in the table of ``folder`` and in a data set of ``hub``.

    Attributes:
        image: path of the picture, relative to the table; empty = the data is texts only.
        text: the picture's text, or a list of texts. Where there is no such column, the data is pictures only.
        label: the class.
        split: ``train``, ``test``, ``test-NAME`` or ``val``. Where there is no such column, the split is drawn.
    """

    image: str = "image"
    text: str = "text"
    label: str = "label"
    split: str = "split"


@dataclass(frozen=True)
class HubConfig:
    """Which part of a Hugging Face data set.

    Attributes:
        subset: which configuration, of data sets that have several.
        train_split: name of the split to train on.
        test_split: name of the split to test on; empty = a share of each class of ``train_split``.
    """

    subset: str = ""
    train_split: str = "train"
    test_split: str = "test"


@dataclass(frozen=True)
class DataConfig:
    """Which data, how much of it, and how it is cut into phases.

    Attributes:
        name: ``emoji``: MM-Emoji-R; ``imagenet-r``: MM-ImageNet-R; ``food101``: UPMC Food-101; ``folder``: pictures in
            class folders, or a table of pictures, texts and classes; ``hub``: a data set of Hugging Face's
            ``datasets``. See docs/learner.md.
        path: the data set's folder, ``folder``'s table, or ``hub``'s name or folder.
        captions: the captions file of ``imagenet-r`` and of class folders: CSV, JSON lines, or a JSON object of texts
            by picture; empty = ``captions.csv`` in their folder.
        missing_texts: pictures that are not in the captions of ``imagenet-r`` or the ``text.json`` of ``food101`` end
            the run before it starts (``error``), are left out (``skip``), or are taken without a text (``empty``).
        columns: names of columns, where they are others.
        hub: which part of a data set of ``hub``.
        num_classes: so many classes, those with the most samples; 0 = all.
        train_per_class: so many samples of a class to train on, at most; 0 = all.
        test_per_class: so many samples of a class in each split to test on, at most; 0 = all.
        interim_tests_per_class: the same in each phase before the last; 0 = all. What counts most is known best then,
            and no hour is spent on curves.
        test_share: share of each class that is tested on, where the data has no split of its own.
        split_seed: seed of that split, and of the samples of a subset.
        bad_pictures: missing and damaged pictures end the run before it starts (``error``), or are left out (``skip``).
        image_size: short side of the pictures in pixels.
        scenes: of ``emoji``: ``any``, or ``misleading``: half of a class's training samples stand in front of the same
            scene, which is never behind it in the tests.
        texts: of ``emoji``: ``short``, or ``long``: what WordNet says of the scene is in them too, as it is in the
            captions of models that describe all of a picture.
        classes: names of the classes to learn, of those that there are; empty = all. The tests ask about these, and
            where a buffer is shared about what others bring of the rest.
        base_classes: classes of phase 0; 0 = a third of them.
        classes_per_phase: classes of every later phase; 0 = so many that there are four later phases.
        max_text_tokens: word pieces of a text, at most; longer texts lose their end.
        class_order: in which order classes come: ``seeded``, shuffled; ``natural``, as the data set has them, for
            pictures in files by their labels; a list of classes, by name or by number in the natural order; or a file
            that has one a line.
        class_order_seed: seed of the ``seeded`` order.
    """

    name: DataName = "emoji"
    path: str = ""
    captions: str = ""
    missing_texts: MissingTexts = "error"
    columns: Columns = field(default_factory=Columns)
    hub: HubConfig = field(default_factory=HubConfig)
    num_classes: int = 18
    train_per_class: int = 32
    test_per_class: int = 10
    interim_tests_per_class: int = 0
    test_share: float = 0.2
    split_seed: int = 0
    bad_pictures: Literal["error", "skip"] = "error"
    image_size: int = 112
    scenes: SceneChoice = "any"
    texts: TextLength = "short"
    classes: tuple[str, ...] = ()
    base_classes: int = 6
    classes_per_phase: int = 3
    max_text_tokens: int = 40
    # Names and numbers, which is said in words below.
    class_order: str | tuple[Any, ...] = "seeded"
    class_order_seed: int = 0

    def __post_init__(self) -> None:
        within(self, 0, LARGEST, "base_classes", "classes_per_phase")
        within(self, 0, LARGEST, "num_classes", "train_per_class", "test_per_class", "interim_tests_per_class")
        within(self, 0, LARGEST, "split_seed", "class_order_seed")
        within(self, 1, MAX_SIDE_PX, "image_size")
        if not self.class_order or not all(type(entry) in (str, int) for entry in self.class_order):
            raise ValueError(
                "class_order is natural, seeded, a list of names or numbers of classes, or a file with one a line; "
                f"got {self.class_order!r}"
            )
        if 0 < self.num_classes < self.base_classes:
            raise ValueError(f"base_classes must lie in 1..num_classes, got {self.base_classes} of {self.num_classes}")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must lie between 0 and 1, got {self.test_share}")
        within(self, 2, 2**16, "max_text_tokens")  # [CLS] and [SEP] at least

    @property
    def title(self) -> str:
        """What people call the data set."""
        titles = {"emoji": "MM-Emoji-R", "imagenet-r": "MM-ImageNet-R", "food101": "UPMC Food-101"}
        return titles.get(self.name, self.path)
