"""What methods are made of, all as data: the bases, which say what is stored, and the parts, which change settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from learner.memory.exemplars import Stores

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
    """

    label: str
    stores: Stores
    words: str
    all_data: bool = False
    model: Model = "ssf"
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A change of settings with a name; ``words`` say which."""

    label: str
    words: str
    settings: Settings


AS_PUBLISHED: Settings = {
    # What is there for the exemplars' sake: there are none.
    "train": {"masked_views": 0.0},
    # Techniques that are not the reference's own.
    "ablations": {"two_views": False, "stored_logits": 0.0, "distill": 0.0, "balance": 0.0},
}
"""Of the references without a memory."""

BASES: dict[str, Base] = {
    "none": Base("no replay", "nothing", "stores nothing: no replay"),
    "full": Base("full images", "full", "stores whole pictures"),
    "masked": Base("masked exemplars", "masked", "stores the patches that attention keeps, and the words"),
    "random": Base(
        "random masks",
        "masked",
        "stores as many patches as attention would keep, drawn at random: the control",
        settings={"mask": {"random": True}},
    ),
    "cim": Base(
        "class-activation box", "cim", "stores whole pictures, downsampled outside of their class-activation box"
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
        settings={**AS_PUBLISHED, "train": {**AS_PUBLISHED["train"], "added_lr": 1e-3}},
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
    "rollout": Part("rollout", "masks from attention rollout through all layers", {"mask": {"layers": "rollout"}}),
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
    # Which of it is kept.
    "cosine": Part(
        "cosine ranking", "kept first: what is nearest to its class's mean", {"memory": {"selection": "cosine"}}
    ),
    "herding": Part(
        "herding",
        "kept first: what brings the kept ones' mean nearest to the class's",
        {"memory": {"selection": "herding"}},
    ),
    "coverage": Part(
        "coverage", "kept first: what leaves every sample one that is like it", {"memory": {"selection": "coverage"}}
    ),
    "any-order": Part("random order", "kept first: any", {"memory": {"selection": "random"}}),
    "rerank": Part(
        "re-ranked", "each phase's model puts old exemplars into a new order", {"ablations": {"rerank": True}}
    ),
    # How it is replayed.
    "no-views": Part("no masked views", "new samples are never shown masked", {"train": {"masked_views": 0.0}}),
    "no-fill": Part("no fill", "dropped places are never filled", {"train": {"fill": 0.0}}),
    "no-drop": Part(
        "no drop", "no patches and words are dropped at random", {"train": {"patch_drop": 0.0, "word_drop": 0.0}}
    ),
    "no-repair": Part("no re-pairing", "exemplars keep their own texts", {"train": {"repair_text": 0.0}}),
    "fill-background": Part(
        "background fill",
        "dropped places are filled from new pictures' backgrounds",
        {"ablations": {"fill_from": "background"}},
    ),
    "fill-mean": Part(
        "mean fill", "dropped places are filled with the exemplar's mean colour", {"ablations": {"fill_from": "mean"}}
    ),
    "flip": Part("flips", "half of all samples are mirrored", {"ablations": {"flip": 0.5}}),
    "colour": Part("colour", "brightness, contrast and saturation move", {"train": {"colour": 0.3}}),
    # How the model is trained.
    "kd": Part(
        "distillation",
        "old classes' logits stay where the model before had them (distillation)",
        {"ablations": {"distill": 1.0}},
    ),
    "der": Part(
        "stored logits",
        "exemplars' logits stay where they were when stored, in some bytes of each exemplar",
        {"ablations": {"stored_logits": 0.1}},
    ),
    "balance": Part(
        "balanced loss", "the loss takes out each class's share in a step", {"ablations": {"balance": 1.0}}
    ),
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
    "two-views": Part(
        "two views at the test",
        "the test adds the scores of each sample's masked view",
        {"ablations": {"two_views": True}},
    ),
}


@dataclass(frozen=True)
class NumberedPart:
    """A part with a number of one to three digits in its name.

    Attributes:
        words: what it changes, for people.
        label: for tables; of the digits.
        settings: what changes; of the number.
    """

    words: str
    label: Callable[[str], str]
    settings: Callable[[int], Settings]


NUMBERED: dict[str, NumberedPart] = {
    "qNN": NumberedPart(
        "quality NN of the run's codec",
        lambda digits: f"q{digits}",
        lambda number: {"memory": {"codec": {"quality": number}}},
    ),
    "keepNN": NumberedPart(
        "NN percent of the patches are kept",
        lambda digits: f"{int(digits) / 100:.0%} kept",
        lambda number: {"mask": {"image_threshold": "quantile", "image_amount": number / 100}},
    ),
    "headNN": NumberedPart(
        "learning rate of the head, in thousandths",
        lambda digits: f"head at {int(digits) / 1000:g}",
        lambda number: {"train": {"head_lr": number / 1000}},
    ),
    "addedNN": NumberedPart(
        "learning rate of what l2p, dualprompt and ease add, in thousandths",
        lambda digits: f"added at {int(digits) / 1000:g}",
        lambda number: {"train": {"added_lr": number / 1000}},
    ),
}
"""By what is written for them, NN the number."""

RATES = ("headNN", "addedNN")
"""The parts that a reference without a memory takes."""


def number_in(part: str, kind: str) -> str:
    """The digits of a numbered part of a kind, ``30`` of ``q30`` and ``qNN``; empty: it is of another kind."""
    found = re.fullmatch(kind.replace("NN", r"(\d{1,3})"), part)
    return found[1] if found else ""


def find_part(name: str) -> Part | None:
    """The part of a name; None: there is none."""
    if name in PARTS:
        return PARTS[name]
    for kind, part in NUMBERED.items():
        if digits := number_in(name, kind):
            return Part(part.label(digits), part.words, part.settings(int(digits)))
    return None
