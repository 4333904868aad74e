"""Which emoji there are, what class each belongs to, and which renditions drew it.

Classes are CLDR subgroups. Left out are

* ZWJ sequences, skin tones and flags: variants of one drawing, so an "unseen emoji" would be seen all the
  same;
* the subgroups that are writing rather than pictures (:data:`TYPOGRAPHY`);
* subgroups with fewer than :data:`MIN_EMOJI` emoji, which cannot be split.

59 classes remain. They are ordered by their number of drawings, so the first n classes are the well-populated
ones and a benchmark over 12 classes is a part of the one over 24.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.data.fetch import EMOJI_ART, EMOJI_TEXTS, package_dir

MIN_EMOJI = 9
TYPOGRAPHY = frozenset({"alphanum", "keycap", "arrow", "geometric"})
_FLAGS_GROUP = 9
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Rendition:
    """One artist's set of emoji.

    Attributes:
        name: short name, used in :attr:`Split.sources`.
        package: npm package that holds it.
        styles: phrases that say how it is drawn; a caption starts with one of them.
        unseen: kept out of training.
    """

    name: str
    package: str
    styles: tuple[str, ...]
    unseen: bool = False


RENDITIONS: tuple[Rendition, ...] = (
    Rendition("noto", "@iconify-json/noto", ("a soft shaded cartoon", "a rounded colour illustration")),
    Rendition("openmoji", "@iconify-json/openmoji", ("a flat sketch with black outlines", "an inked comic graphic")),
    Rendition("emojione", "@iconify-json/emojione", ("a bright flat sticker", "a cheerful vector drawing")),
    Rendition("emojione-mono", "@iconify-json/emojione-monotone", ("a single colour stencil", "a plain silhouette")),
    Rendition("fluent", "@iconify-json/fluent-emoji", ("a glossy gradient picture", "a smooth shaded illustration")),
    Rendition("fluent-flat", "@iconify-json/fluent-emoji-flat", ("a flat modern sticker", "a clean tidy graphic")),
    Rendition(
        "fluent-mono", "@iconify-json/fluent-emoji-high-contrast", ("a bold one colour silhouette", "a solid stencil")
    ),
    Rendition("fluent-3d", "@lobehub/fluent-emoji-3d", ("a glossy 3d render", "a toy like 3d model")),
    Rendition("twemoji", "@iconify-json/twemoji", ("a flat vector drawing", "a simple cartoon graphic"), unseen=True),
    Rendition("noto-v1", "@iconify-json/noto-v1", ("a shaded cartoon drawing", "a soft illustration"), unseen=True),
    Rendition(
        "emojione-v1", "@iconify-json/emojione-v1", ("a flat colour drawing", "a plain vector sticker"), unseen=True
    ),
)


@dataclass(frozen=True)
class Emoji:
    """One emoji.

    Attributes:
        key: its code points in lower-case hex, joined by ``-``, without variation selectors ("1f415").
        label: its CLDR name ("dog").
        tags: CLDR keywords, sorted.
        drawings: name in the rendition's package by rendition name.
        part: ``"train"`` or ``"test"``: fixed for ever by the key, never by a seed, so that no
            seed's training data is another's test data.
    """

    key: str
    label: str
    tags: tuple[str, ...]
    drawings: dict[str, str]
    part: str


Catalog = dict[str, tuple[Emoji, ...]]
"""Emoji of every class, sorted by key; by the classes' names, in class order."""


def normal_key(hexcode: str) -> str:
    """Code points as packages spell them, in one spelling: lower case and without variation selectors."""
    return "-".join(part for part in hexcode.lower().split("-") if part not in ("fe0e", "fe0f"))


def load_catalog(directory: Path | str | None = None) -> Catalog:
    """Reads the catalog from the fetched packages.

    Raises:
        FileNotFoundError: a package is not there (see :func:`learner.data.fetch.fetch`).
    """
    texts = {p.name: package_dir(p, directory) for p in EMOJI_TEXTS}
    base = texts["emojibase-data"]
    subgroups: dict[str, str] = _read_json(base / "meta" / "groups.json")["subgroups"]
    known: dict[str, dict[str, Any]] = {}
    for entry in _read_json(base / "en" / "data.json"):
        key = normal_key(entry["hexcode"])
        if "subgroup" not in entry or entry["group"] == _FLAGS_GROUP or "200d" in key.split("-"):
            continue
        if subgroups[str(entry["subgroup"])] not in TYPOGRAPHY:
            known[key] = entry
    drawings = _drawings(known, directory)

    members: dict[str, list[str]] = defaultdict(list)
    for key in sorted(known):
        if drawings[key]:
            members[subgroups[str(known[key]["subgroup"])]].append(key)
    order = sorted(
        (name for name, keys in members.items() if len(keys) >= MIN_EMOJI),
        key=lambda name: (-sum(len(drawings[key]) for key in members[name]), name),
    )
    return {
        name: tuple(
            Emoji(
                key=key,
                label=known[key]["label"],
                tags=tuple(sorted(known[key].get("tags", ()))),
                drawings=drawings[key],
                part=part,
            )
            for key, part in _parts(members[name]).items()
        )
        for name in order
    }


def _parts(keys: list[str]) -> dict[str, str]:
    """Splits one class: those whose hash is lowest are tested on."""
    shuffled = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())
    num_test = max(1, round(_TEST_SHARE * len(keys)))
    part = dict.fromkeys(keys, "train")
    part.update(dict.fromkeys(shuffled[:num_test], "test"))
    return part


def _drawings(known: dict[str, dict[str, Any]], directory: Path | str | None) -> dict[str, dict[str, str]]:
    """By emoji and rendition, the name of its drawing in the rendition's package."""
    folders = {p.name: package_dir(p, directory) for p in EMOJI_ART}
    found: dict[str, dict[str, str]] = {key: {} for key in known}
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    unlisted: list[tuple[Rendition, set[str]]] = []
    for rendition in RENDITIONS:
        folder = folders[rendition.package]
        if (folder / "assets").is_dir():
            drawn = {normal_key(path.stem): path.name for path in sorted((folder / "assets").iterdir())}
        else:
            icons, chars = _read_json(folder / "icons.json"), _read_json(folder / "chars.json")
            drawn = _listed(icons, chars, votes)
            if not chars:
                unlisted.append((rendition, _drawable_names(icons)))
        for key in found.keys() & drawn.keys():
            found[key][rendition.name] = drawn[key]
    for rendition, names in unlisted:
        for key, name in _named(known, names, votes):
            found.get(key, {}).setdefault(rendition.name, name)
    return found


def _listed(icons: dict[str, Any], chars: dict[str, str], votes: dict[str, Counter[str]]) -> dict[str, str]:
    """Drawings of a set that says which characters they are of, by emoji: the first of those that it has several of.

    Sets share a vocabulary of names, old ones among the aliases: ``votes`` is told which emoji they are, for sets
    without code points.
    """
    names, key_of_name = _drawable_names(icons), {name: normal_key(char) for char, name in sorted(chars.items())}
    for name in names:
        parent = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if key := key_of_name.get(name) or key_of_name.get(parent):
            votes[name][key] += 1
    return {normal_key(char): name for char, name in sorted(chars.items(), reverse=True) if name in names}


def _named(
    known: dict[str, dict[str, Any]], names: set[str], votes: dict[str, Counter[str]]
) -> Iterator[tuple[str, str]]:
    """Emoji and drawing of a set without code points: what most other sets drew under a drawing's name, else what is
    called so itself."""
    for name in sorted(names):
        if votes[name]:
            yield min(votes[name], key=lambda key: (-votes[name][key], key)), name
    for key, entry in known.items():
        slug = _slug(entry["label"])
        for name in (slug, f"{slug}-face", f"{slug}-button"):
            if name in names and not votes[name]:
                yield key, name


def _drawable_names(icons: dict[str, Any]) -> set[str]:
    """Names in an icon set that can be drawn as they are: no hidden ones, no turned or mirrored aliases."""
    own = {name for name, icon in icons["icons"].items() if not icon.get("hidden")}
    aliases = {
        name
        for name, alias in icons.get("aliases", {}).items()
        if alias["parent"] in own and not {"hFlip", "vFlip", "rotate", "hidden"} & set(alias)
    }
    return own | aliases


def _slug(label: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", re.sub("['\u2019]", "", label)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
