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
from dataclasses import dataclass

from learner.memory.exemplars import Stores
from learner.run.config import LearnerConfig
from learner.run.method_parts import BASES, PARTS, RATES, Model, Part, Settings, find_part, number_in
from learner.run.overrides import with_settings

_LONGEST_SLUG = 40

DEFAULT = ("none", "full", "masked")
"""What the demo compares."""


@dataclass(frozen=True)
class Method:
    """One way to spend a budget. Get it from :func:`parse_method`.

    Attributes:
        name: as it was written.
        label: for tables.
        stores, all_data, model: as in :class:`~learner.run.method_parts.Base`.
        settings: all changes, in order.
    """

    name: str
    label: str
    stores: Stores
    all_data: bool
    model: Model
    settings: tuple[Settings, ...]

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
        return config


def parse_method(text: str) -> Method:
    """A method from ``BASE[+PART...]``.

    Beside :data:`~learner.run.method_parts.PARTS`, ``q30`` is a quality of the run's codec, ``keep40`` a share of
    patches, in percent, that masks keep. ``head3`` and ``added3`` are learning rates, in thousandths: of the head, and
    of what a reference adds to its backbone.

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
    )


def _part(name: str, text: str) -> Part:
    found = find_part(name)
    if found is None:
        raise ValueError(f"parts are {', '.join(PARTS)}, qNN, keepNN, headNN and addedNN; got {name!r} in {text!r}")
    return found
