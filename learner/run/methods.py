"""The methods that a run compares: what each stores, how it replays that, and how it trains, all as data.

A method is written ``BASE[+PART...]``. The base says what is stored; every part changes some settings of the run:
``masked`` is exemplar masking with the run's own settings, ``masked+text+q50`` masks the caption too and stores at
quality 50, ``full+lossless`` stores whole pictures exactly. Later parts win. Whatever a method stores goes through the
same service under the same budget, and is trained with by the same trainer. The references that store nothing, ``l2p``,
``dualprompt`` and ``ease``, have models of their own and are as published: their learning rates are all that parts
change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from learner.memory.exemplars import Stores
from learner.run.config import LearnerConfig, with_settings

Model = Literal["ssf", "l2p", "dualprompt", "ease"]
"""What is trained. ``ssf``: a backbone tuned by SSF, from the base phase on that all such methods share. The others: a
frozen backbone and what they add to it, from a base phase of their own on (:mod:`learner.baselines.frozen`)."""

Settings = Mapping[str, Mapping[str, Any]]
"""Tables of :class:`~learner.run.config.LearnerConfig` and the fields in them that change."""


@dataclass(frozen=True)
class Base:
    """What a method stores.

    Attributes:
        label: for tables.
        stores: what becomes of the phase's samples.
        words: the same for people.
        all_data: train on the data of all phases so far, not only the new one's: no memory would do that.
        model: what is trained.
        settings: changes to the run's configuration.
        oracle: it knows what no method may know, and is nobody's rival.
    """

    label: str
    stores: Stores
    words: str
    all_data: bool = False
    model: Model = "ssf"
    settings: Settings = field(default_factory=dict)
    oracle: bool = False


@dataclass(frozen=True)
class Part:
    """A change of settings with a name; ``words`` say which; ``oracle`` as :class:`Base` has it."""

    label: str
    words: str
    settings: Settings
    oracle: bool = False


AS_PUBLISHED: Settings = {"train": {"masked_views": 0.0}}
"""Of the references without a memory: masked views are there for the exemplars' sake."""

BASES: dict[str, Base] = {
    "none": Base("no replay", "nothing", "stores nothing: no replay"),
    "full": Base("full images", "full", "stores whole pictures"),
    "masked": Base("masked exemplars", "masked", "stores the patches that attention keeps, and the words"),
    "random": Base(
        "random masks",
        "masked",
        "stores as many patches as attention would keep, drawn at random: the control",
        settings={"mask": {"choice": "random"}},
    ),
    "grid": Base(
        "fixed grid",
        "masked",
        "stores patches of the same places in every picture, evenly spread: masks without a model",
        settings={"mask": {"choice": "grid"}},
    ),
    "object": Base(
        "object's patches (oracle)",
        "masked",
        "stores the patches that the object covers, where the data set knows them: an oracle, no method",
        settings={"mask": {"choice": "object"}},
        oracle=True,
    ),
    "cim": Base(
        "class-activation box", "cim", "stores whole pictures, downsampled outside of their class-activation box"
    ),
    "latent": Base(
        "latent replay",
        "latent",
        "stores states of the last block that later phases leave alone, of the patches that attention keeps, as uint8",
        settings={"train": {"later_layers": 6}, "memory": {"patch_px": 0}},
    ),
    "joint": Base(
        "all data (ceiling)",
        "nothing",
        "stores nothing, but trains on the data of all phases so far: the ceiling",
        all_data=True,
    ),
    "l2p": Base(
        "L2P",
        "nothing",
        "stores nothing: prompts from a pool beside a frozen backbone (Wang et al., CVPR 2022)",
        model="l2p",
        settings=AS_PUBLISHED,
    ),
    "dualprompt": Base(
        "DualPrompt",
        "nothing",
        "stores nothing: shared and own prompts beside a frozen backbone (Wang et al., ECCV 2022)",
        model="dualprompt",
        settings=AS_PUBLISHED,
    ),
    "ease": Base(
        "EASE",
        "nothing",
        "stores nothing: an adapter for each phase beside a frozen backbone (Zhou et al., CVPR 2024)",
        model="ease",
        settings={"train": {**AS_PUBLISHED["train"], "added_lr": 1e-3}},
    ),
}

PARTS: dict[str, Part] = {
    # What is stored.
    "lossless": Part("lossless", "pictures are stored without loss", {"memory": {"codec": {"id": "em_webp_lossless"}}}),
    "text": Part(
        "text mask", "words that the dropped patches do not attend to are dropped too", {"mask": {"text": True}}
    ),
    "mean4": Part(
        "mean of 4 layers",
        "masks from the mean attention of the last four layers",
        {"mask": {"layers": "mean", "last_layers": 4}},
    ),
    "mean-heads": Part(
        "mean of heads",
        "masks from the mean of the heads, not from the one that looks hardest",
        {"mask": {"heads": "mean"}},
    ),
    "sinks": Part(
        "with sinks",
        "patches that gather attention whatever they show are not left out",
        {"mask": {"drop_sinks": False}},
    ),
    "avif": Part("AVIF", "the codec is AVIF", {"memory": {"codec": {"id": "em_avif"}}}),
    "jpeg": Part("JPEG", "the codec is JPEG", {"memory": {"codec": {"id": "em_jpeg"}}}),
    "pixel": Part(
        "one pixel a cell",
        "patches with fewer pixels keep one of each cell, not its mean (GPS)",
        {"memory": {"resample": "pixel"}},
    ),
    "mrdc": Part(
        "quality by MRDC",
        "in each phase a quality by MRDC's rule, from 10, 25, 50, 75 and 90",
        {"memory": {"quality_rule": "mrdc"}},
    ),
    # Which of it is kept.
    "cosine": Part(
        "cosine ranking", "kept first: what is nearest to its class's mean", {"memory": {"selection": "cosine"}}
    ),
    "herding": Part(
        "herding",
        "kept first: what brings the kept ones' mean nearest to the class's",
        {"memory": {"selection": "herding"}},
    ),
    "herding-mean": Part(
        "herding to the mean",
        "as herding, to the mean of unit features as it is, not scaled to unit length",
        {"memory": {"selection": "herding-mean"}},
    ),
    "herding-test": Part(
        "herding to the test (oracle)",
        "as herding-mean, to the samples that the class is tested on: an oracle, no method",
        {"memory": {"selection": "herding-test"}},
        oracle=True,
    ),
    "typical": Part(
        "typical first",
        "kept first: the most typical of parts of the class (TEAL)",
        {"memory": {"selection": "typical"}},
    ),
    "any-order": Part("random order", "kept first: any", {"memory": {"selection": "random"}}),
    # How it is replayed.
    "no-views": Part("no masked views", "new samples are never shown masked", {"train": {"masked_views": 0.0}}),
    "no-fill": Part("no fill", "dropped places are never filled", {"train": {"fill": 0.0}}),
    "no-drop": Part(
        "no drop", "no patches and words are dropped at random", {"train": {"patch_drop": 0.0, "word_drop": 0.0}}
    ),
    "no-repair": Part("no re-pairing", "exemplars keep their own texts", {"train": {"repair_text": 0.0}}),
    "colour": Part("colour", "brightness, contrast and saturation move", {"train": {"colour": 0.3}}),
    "uniform": Part("uniform draws", "replay draws any exemplar alike", {"train": {"draw": "uniform"}}),
    "forgotten": Part(
        "forgotten more often",
        "replay draws an exemplar the more often, the worse the model knows it",
        {"train": {"draw": "forgotten"}},
    ),
    # What is tested.
    "no-refit": Part(
        "trained head",
        "training's own head is tested, not one fitted to the exemplars",
        {"train": {"refit": False, "translate": False}},
    ),
    "no-translate": Part(
        "exemplars as they are",
        "that head is fitted to exemplars as they are, not to their whole pictures",
        {"train": {"translate": False}},
    ),
}


NUMBERED: dict[str, Callable[[int], Part]] = {
    "qNN": lambda number: Part(
        f"q{number}", "quality NN of the run's codec", {"memory": {"codec": {"quality": number}}}
    ),
    "keepNN": lambda number: Part(
        f"{number / 100:.0%} kept",
        "NN percent of the patches are kept",
        {"mask": {"image_threshold": "quantile", "image_amount": number / 100}},
    ),
    "pxNN": lambda number: Part(
        f"patches of {number} px",
        "patches are stored with NN pixels on a side, and enlarged for replay",
        {"memory": {"patch_px": number}},
    ),
    "replayNN": lambda number: Part(
        f"{number / 100:.0%} replay",
        "so many exemplars a step as NN percent of the new samples",
        {"train": {"replay": number / 100}},
    ),
    "lastNN": lambda number: Part(
        f"{number} layers tuned",
        "phases after the first tune the last NN layers alone",
        {"train": {"later_layers": number}},
    ),
    "headNN": lambda number: Part(
        f"head at {number / 1000:g}",
        "learning rate of the head, in thousandths",
        {"train": {"head_lr": number / 1000}},
    ),
    "addedNN": lambda number: Part(
        f"added at {number / 1000:g}",
        "learning rate of what l2p, dualprompt and ease add, in thousandths",
        {"train": {"added_lr": number / 1000}},
    ),
}
"""Parts with a number in their names, by what is written for them: NN has one to three digits."""

RATES = ("headNN", "addedNN")
"""The parts that a reference without a memory takes."""

DEFAULT = ("none", "full", "masked")
"""What the demo compares."""
_LONGEST_SLUG = 40


@dataclass(frozen=True)
class Method:
    """One way to spend a budget. Get it from :func:`parse_method`.

    Attributes:
        name: as it was written.
        label: for tables.
        stores, all_data, model: as in :class:`Base`.
        settings: all changes, in order.
        oracle: its base or one of its parts is one.
    """

    name: str
    label: str
    stores: Stores
    all_data: bool
    model: Model
    settings: tuple[Settings, ...]
    oracle: bool

    @property
    def shares_base(self) -> bool:
        """It starts from the base phase that other methods start from too."""
        return self.model == "ssf"

    @property
    def slug(self) -> str:
        """The name as buffers, learner ids and folders can bear it: long ones are cut, and end in a hash."""
        name = self.name.replace("+", ".")
        if len(name) <= _LONGEST_SLUG:
            return name
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return f"{name[: _LONGEST_SLUG - 9]}-{digest}"

    def configure(self, config: LearnerConfig) -> LearnerConfig:
        """The run's configuration as this method has it.

        Raises:
            ValueError: the parts do not go with the configuration.
        """
        for settings in self.settings:
            config = with_settings(config, settings)
        if self.stores == "latent" and (config.memory.join or not config.train.later_layers):
            raise ValueError(f"{self.name} needs train.later_layers, whose states it stores, and a buffer of its own")
        if self.stores == "latent" and config.train.decode_on_device:
            raise ValueError(f"{self.name} stores no pictures that could be decoded: leave train.decode_on_device out")
        if self.stores == "latent" and config.memory.patch_px:
            raise ValueError(f"{self.name} stores no pixels that memory.patch_px could make fewer")
        return config


def parse_method(text: str) -> Method:
    """A method from ``BASE[+PART...]``.

    Beside :data:`PARTS`, ``q30`` is a quality of the run's codec, ``keep40`` a share of patches, in percent, that masks
    keep, and ``px8`` the side of patches as they are stored. ``head3`` and ``added3`` are learning
    rates, in thousandths: of the head, and of what a reference adds to its backbone.

    Raises:
        ValueError: there is no such base or part, or the base does not take it.
    """
    name, *parts = text.split("+")
    if name not in BASES:
        raise ValueError(f"methods are {', '.join(BASES)}, each with parts after a +; got {text!r}")
    base = BASES[name]
    for part in parts:
        if base.model != "ssf" and not any(number_in(part, kind) for kind in RATES):
            raise ValueError(f"{name} is a reference as published: parts of it are addedNN and headNN; got {text!r}")
        if base.model == "ssf" and number_in(part, "addedNN"):
            raise ValueError(f"addedNN is the rate of what l2p, dualprompt and ease add to a backbone; got {text!r}")
    chosen = [_part(part, text) for part in parts]
    return Method(
        name=text,
        label=", ".join([base.label, *(part.label for part in chosen)]),
        stores=base.stores,
        all_data=base.all_data,
        model=base.model,
        settings=(base.settings, *(part.settings for part in chosen)),
        oracle=base.oracle or any(part.oracle for part in chosen),
    )


def number_in(part: str, kind: str) -> str:
    """The digits of a numbered part of a kind, ``30`` of ``q30`` and ``qNN``; empty: it is of another kind."""
    found = re.fullmatch(kind.replace("NN", r"(\d{1,3})"), part)
    return found[1] if found else ""


def _part(name: str, text: str) -> Part:
    if name in PARTS:
        return PARTS[name]
    for kind, numbered in NUMBERED.items():
        if digits := number_in(name, kind):
            return numbered(int(digits))
    raise ValueError(f"parts are {', '.join(PARTS)}, {', '.join(NUMBERED)}; got {name!r} in {text!r}")
