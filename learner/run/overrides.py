"""Settings as people give them: from TOML and the command line to a configuration, with defaults that suit the data."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from learner.ranges import LARGEST
from learner.run.config import LearnerConfig

C = TypeVar("C")

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
budget chosen by the data (:mod:`learner.run.automatic`)."""


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


def with_settings(config: C, settings: Mapping[str, Any], where: str = "") -> C:
    """A configuration with some of its fields changed, tables within tables.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    known = {entry.name: getattr(config, entry.name) for entry in fields(config)}  # type: ignore[arg-type]
    hints = get_type_hints(type(config))
    changes = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"unknown setting {where}{name}; known: {', '.join(known)}")
        present = known[name]
        if is_dataclass(present):
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"{where}{name} is a table of settings, got {value!r}; set one, as in {where}{name}.KEY"
                )
            value = with_settings(present, value, f"{where}{name}.")
        elif isinstance(present, dict) and isinstance(value, dict):
            # A codec by its id is another one; without, it is the present one with other options.
            value = value if "id" in value else {**present, **value}
        elif isinstance(value, list) and any(
            get_origin(kind) is tuple for kind in (hints[name], *get_args(hints[name]))
        ):
            value = tuple(value)
        elif isinstance(present, float) and type(value) is int:
            value = float(min(max(value, -LARGEST), LARGEST))  # no float is beyond what any range has
        elif type(value) is not type(present):
            kind = "a list" if isinstance(present, tuple) else type(present).__name__
            raise ValueError(f"{where}{name} must be {kind}, got {value!r}")
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"{where}{name} must be text without NUL, got {value!r}")
        elif get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise ValueError(f"{where}{name} must be one of {', '.join(get_args(hints[name]))}, got {value!r}")
        changes[name] = value
    try:
        return replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{where[:-1]}: {error}" if where else str(error)) from error
