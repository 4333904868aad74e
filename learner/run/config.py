"""Everything a run can be told, as frozen values, and how they are made of what people give: TOML and the command line.

The defaults are the demo's; data of one's own has others for sizes and budget (:data:`OWN_DATA`). Every field is
described under ``Attributes``: ``learner config`` and docs/reference/learner-settings.md are made of these words.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from learner.data.settings import DataConfig
from learner.memory.settings import MemoryConfig
from learner.model.attention_masks import MaskConfig
from learner.model.settings import BackboneConfig
from learner.ranges import LARGEST, within
from learner.training.settings import TrainConfig


@dataclass(frozen=True)
class LearnerConfig:
    """One run.

    Attributes:
        seed: of all that is drawn but the split and the order of the classes, which have their own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")
    """For settings as people give them, in all tables."""

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(text=False))
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        within(self, 0, LARGEST, "seed")
        if self.train.decode_on_device and self.memory.codec["id"] != "em_jpeg":
            raise ValueError('train.decode_on_device needs JPEG exemplars: memory.codec = {id = "em_jpeg"}')

        if self.memory.join and self.train.draw == "forgotten":
            raise ValueError("train.draw=forgotten gives exemplars scores: those of a shared buffer are others' too")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def what_counts(self) -> dict[str, Any]:
        """The same without what changes no result: a run goes on, whatever that says by then."""
        settings = self.to_dict()
        del settings["memory"]["wait_minutes"]
        return settings


_ADAPTER = TypeAdapter(LearnerConfig)

OWN_DATA: Mapping[str, Mapping[str, int]] = {
    "data": {
        "num_classes": 0,
        "train_per_class": 0,
        "test_per_class": 0,
        "base_classes": 0,
        "classes_per_phase": 0,
    },
    "memory": {"budget_bytes": 0},
}
"""Defaults of all data sets but the demo's, which is a small subset with a budget to match: all samples, and phases and
budget chosen by the data (:mod:`learner.run.loading`)."""


def defaults_for(settings: Mapping[str, Any]) -> LearnerConfig:
    """The defaults of whatever data set some settings name; of a name that does not exist, the demo's."""
    config = LearnerConfig()
    data = settings.get("data", {})
    name = data.get("name", config.data.name) if isinstance(data, Mapping) else config.data.name
    return config if name == config.data.name else with_settings(config, OWN_DATA)


def configured(settings: Mapping[str, Any]) -> LearnerConfig:
    """The configuration that some settings make of the defaults of their data set.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    return with_settings(defaults_for(settings), settings)


def read_settings(items: Iterable[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for :func:`with_settings`, with those of items like ``train.base_epochs=2`` put into them.

    Args:
        items: values are as in TOML; strings may do without quotes.
        settings: tables and their fields; later ones win.

    Raises:
        ValueError: no ``=`` in one, or a setting within what is a value.
    """
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE, got {item!r}")
        table = settings
        *path, name = key.split(".")
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{part} is set to {table!r}, so {key} cannot be set")
        try:
            table[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[name] = value
    return settings


def with_settings(config: LearnerConfig, settings: Mapping[str, Any]) -> LearnerConfig:
    """A configuration with some of its fields changed, tables within tables.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    changed = _merged(asdict(config), settings, "")
    try:
        # As JSON: an array is a tuple there, and else nothing is taken for what it is not.
        return _ADAPTER.validate_json(json.dumps(changed, default=str))
    except ValidationError as error:
        raise ValueError(_words(config, changed, error.errors()[0])) from None


def _merged(present: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    merged = dict(present)
    for name, value in settings.items():
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{where}{name} must be text without NUL, got {value!r}")
        # A codec by its id is another one; without, it is the present one with other options.
        if isinstance(merged.get(name), dict) and isinstance(value, Mapping) and "id" not in value:
            value = _merged(merged[name], value, f"{where}{name}.")
        merged[name] = value
    return merged


def _words(config: LearnerConfig, changed: Any, error: ErrorDetails) -> str:
    """What is wrong, in words that name the setting."""
    table: Any = config
    above: Any = config
    path: list[str] = []
    for part in map(str, error["loc"]):
        if not is_dataclass(table):
            break
        path.append(part)
        table, above = getattr(table, part, None), table
        changed = changed.get(part) if isinstance(changed, Mapping) else changed
    where = ".".join(path)
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
    if not path:
        return f"settings cannot be read: {error['msg']}"
    if error["type"] == "unexpected_keyword_argument":
        known = [entry.name for entry in fields(above)]
        return f"unknown setting {where}; known: {', '.join(known)}{_hint(config, path)}"
    if is_dataclass(table):
        return f"{where} is a table of settings, got {changed!r}; set one, as in {where}.KEY"
    if error["type"] == "literal_error":
        choices = get_args(get_type_hints(type(above))[path[-1]])
        return f"{where} must be one of {', '.join(choices)}, got {changed!r}"
    if isinstance(changed, list | dict) and changed != error["input"]:
        return f"{where} holds {error['input']!r}: {error['msg']}"
    kind = "a list" if isinstance(table, tuple) else type(table).__name__
    return f"{where} must be {kind}, got {changed!r}"


def _hint(config: LearnerConfig, path: list[str]) -> str:
    """Of a setting that there is not: the one that is called so in another table, or nearly so."""
    known = list(_names(config))
    same = [name for name in known if name.endswith(f".{path[-1]}")]
    meant = dict.fromkeys(same[:1] + difflib.get_close_matches(".".join(path), known, n=1))
    return f". Did you mean {' or '.join(meant)}?" if meant else ""


def _names(config: Any, prefix: str = "") -> Iterator[str]:
    for entry in fields(config):
        yield f"{prefix}{entry.name}"
        if is_dataclass(value := getattr(config, entry.name)):
            yield from _names(value, f"{prefix}{entry.name}.")
