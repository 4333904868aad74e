"""``learner config`` and ``learner methods``: every setting, its value and what it is, as TOML or as a table for the
documentation; and what there is to compare, a line each."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomlkit
from rich.console import Console
from tomlkit.items import Item

from learner.run.config import OWN_DATA, LearnerConfig
from learner.run.methods import BASES, DEFAULT, NUMBERED, PARTS

_WIDTH = 100
_HEAD = """\
Settings of `learner run`, which takes this file with --config. What is left out has its default.
Where a value is another one than the demo's default, that stands in square brackets."""


@dataclass(frozen=True)
class Setting:
    """One field of the configuration.

    Attributes:
        table: of which tables it is in, ``data.columns``; empty: in none.
        value: as it is set.
        default: the demo's.
        own_default: that of all other data.
        choices: what it may be, where that is a closed list.
        words: what it is.
    """

    table: str
    name: str
    value: Any
    default: Any
    own_default: Any
    choices: tuple[str, ...]
    words: str


def settings_of(config: LearnerConfig) -> list[Setting]:
    """Every setting, in the order of the configuration, those outside of tables first."""
    return list(_settings(config, LearnerConfig(), "", OWN_DATA))


def as_toml(config: LearnerConfig) -> str:
    """The configuration as a file that ``--config`` takes, with a comment on each setting."""
    document = tomlkit.document()
    for line in _HEAD.splitlines():
        document.add(tomlkit.comment(line))
    tables: dict[str, Any] = {"": document}
    for setting in settings_of(config):
        table = _table(tables, setting.table)
        for line in textwrap.wrap(_comment(setting), _WIDTH):
            table.add(tomlkit.comment(line))
        table.add(setting.name, _item(setting.value))
    return tomlkit.dumps(document)


def as_markdown() -> str:
    """The defaults as tables, one for each table of the configuration."""
    lines: list[str] = []
    last = None
    for setting in settings_of(LearnerConfig()):
        if setting.table != last:
            last = setting.table
            lines += ["", f"## `{last}`" if last else "## Outside of tables", ""]
            lines += ["| setting | default | what |", "|---|---|---|"]
        words = setting.words.replace("|", "\\|")
        if setting.choices:
            words += f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}."
        default = f"`{_shown(setting.default)}`"
        if setting.own_default != setting.default:
            default += f"; own data: `{_shown(setting.own_default)}`"
        name = f"{setting.table}.{setting.name}" if setting.table else setting.name
        lines.append(f"| `{name}` | {default} | {words} |")
    return "\n".join(lines).strip() + "\n"


def _settings(config: Any, defaults: Any, table: str, own: Mapping[str, Any]) -> Iterator[Setting]:
    words, hints = described(type(config)), get_type_hints(type(config))
    # In TOML, what follows a table within a table is in that one.
    for entry in sorted(fields(config), key=lambda entry: is_dataclass(getattr(config, entry.name))):
        name = entry.name
        value, default = getattr(config, name), getattr(defaults, name)
        if is_dataclass(value):
            yield from _settings(value, default, f"{table}.{name}".strip("."), own.get(name, {}))
        else:
            choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
            yield Setting(table, name, value, default, own.get(name, default), choices, words[name])


def described(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each field under ``Attributes``; roles and double backticks plain."""
    text = inspect.cleandoc(kind.__doc__ or "")
    section = text.partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", f"\n{section}")[1:]:
        name, _, words = entry.strip().partition(": ")
        plain = re.sub(r" ?\((?:see )?:\w+:`[^`]*`\)", "", " ".join(words.split())).replace("``", "`")
        found[name] = plain[:1].upper() + plain[1:]
    return found


def _table(tables: dict[str, Any], name: str) -> Any:
    if name not in tables:
        above, _, own = name.rpartition(".")
        parent = _table(tables, above)
        if not above:
            parent.add(tomlkit.nl())
        tables[name] = tomlkit.table()
        parent.add(own, tables[name])
        # Adding makes a copy where the parent is a document.
        tables[name] = parent[own]
    return tables[name]


def _comment(setting: Setting) -> str:
    words = setting.words
    if setting.choices:
        words += f" One of {', '.join(setting.choices)}."
    default = setting.default
    return words if setting.value == default else f"{words} [{_shown(default)}]"


def _item(value: Any) -> Item:
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update({name: _item(each) for name, each in value.items()})
        return table
    item: Item = tomlkit.item(list(value) if isinstance(value, tuple) else value)
    return item


def _shown(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_shown(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return json.dumps(list(value))
    return json.dumps(value, ensure_ascii=False)


def methods(console: Console) -> None:
    """Print bases and parts."""
    parts = {name: part.words for name, part in PARTS.items()}
    parts |= {name: numbered(0).words for name, numbered in NUMBERED.items()}
    lines = [
        f"A method is BASE[+PART...], as in masked+text+q50; several have commas between. Default: {','.join(DEFAULT)}",
        "",
        "bases, which say what is stored:",
        *_lines({name: base.words for name, base in BASES.items()}),
        "",
        "parts, each of which changes something:",
        *_lines(parts),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _lines(words: Mapping[str, str]) -> list[str]:
    width = max(map(len, words))
    return [f"  {name:{width}}  {what}" for name, what in words.items()]
