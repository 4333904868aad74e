"""MM-Emoji-R: emoji by eleven artists in front of real textures, with captions that hint at what they show.

A counterpart of ImageNet-R with texts that can be built anywhere in a minute: many classes, several
renditions of each thing, two modalities neither of which suffices. There are two ways to test:

* ``"rendition"``: emoji seen in training, drawn by artists that were not (twemoji, noto-v1, emojione-v1);
* ``"emoji"``: emoji never seen (20 % of each class), drawn by any artist.

Who belongs where is fixed (:attr:`Emoji.part`); the seed decides which samples are drawn, where each object
stands and what its caption says. A sample depends on the seed, its emoji and its rendition only: the same one
is the same in any selection of classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from client.files import replacing
from learner.data.base import MultimodalData, Split, generator
from learner.data.emoji_catalog import RENDITIONS, Catalog, Emoji, Rendition, load_catalog
from learner.data.emoji_render import SCENES, ArtStore, Scene, compose
from learner.data.emoji_texts import GLOSS, KEYWORD_COUNTS, Lexicon, caption, gives_away
from learner.data.fetch import EMOJI_ART, EMOJI_TEXTS, data_dir, fetch
from learner.data.settings import SceneChoice, TextLength

log = logging.getLogger(__name__)

# Part of every cache file's name: to be raised whenever the same parameters would give other samples.
_FORMAT = 2
_NAME = "MM-Emoji-R"

_Sample = tuple[int, Emoji, Rendition]

# With all of them, a model learns nothing but scenes, and all methods end below chance.
_OWN_SCENE_SHARE = 0.5


def load_emoji(
    *,
    size: int = 112,
    num_classes: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
    directory: Path | str | None = None,
    scenes: SceneChoice = "any",
    texts: TextLength = "short",
) -> MultimodalData:
    """Builds the data set, or reads it where the same one was built before.

    Args:
        size: side of the pictures in pixels, 16 to 1024.
        num_classes: how many classes, the best-populated ones first; all 59 by default.
        train_per_class: at most so many training samples a class, spread over as many emoji as there are.
        test_per_class: at most so many samples a class in *each* split to test on.
        seed: decides everything random.
        directory: where packages and built data are kept, see :func:`learner.data.fetch.data_dir`.
        scenes: which scenes the objects stand in front of. Texts tell of the same ones.
        texts: ``long`` ones also say what WordNet says of the scene.

    Raises:
        ValueError: a parameter is out of range.
        FetchError: a package is not there and cannot be fetched.
    """
    if not 16 <= size <= 1024:
        raise ValueError(f"size must be 16 to 1024 pixels, not {size}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    for name, limit in (("train_per_class", train_per_class), ("test_per_class", test_per_class)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be positive, not {limit}")
    parameters: dict[str, Any] = {
        "format": _FORMAT,
        "size": size,
        "num_classes": num_classes,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "seed": seed,
        # As it was when there was a choice: what was built then keeps its name.
        "validation": False,
        "captions": {"keyword_counts": KEYWORD_COUNTS, "gloss": GLOSS},
    }
    if scenes != "any":
        # Not there by default: what was built before there was a choice keeps its name.
        parameters["scenes"] = [scenes, _OWN_SCENE_SHARE]
    if texts != "short":
        parameters["texts"] = texts
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]
    path = data_dir(directory) / "built" / f"emoji-{size}px-{num_classes or 'all'}-{digest}.npz"
    cached = _read(path)
    if cached is not None:
        return cached

    fetch((*EMOJI_ART, *EMOJI_TEXTS), directory=directory)
    catalog = load_catalog(directory)
    if num_classes is not None and not 1 <= num_classes <= len(catalog):
        raise ValueError(f"{_NAME} has {len(catalog)} classes, so num_classes cannot be {num_classes}")
    names = list(catalog)[:num_classes]
    plan = {
        split: [
            sample
            for class_id, name in enumerate(names)
            for sample in _chosen(_eligible(catalog, class_id, name, split), split, name, seed, limit)
        ]
        for split, limit in (("train", train_per_class), ("rendition", test_per_class), ("emoji", test_per_class))
    }
    builder = _Builder(size=size, seed=seed, scenes=scenes, texts=texts, directory=directory)
    # disable=None: no bar where the output is not a terminal.
    with tqdm(total=sum(map(len, plan.values())), unit="picture", desc=_NAME, disable=None) as bar:
        splits = {split: builder.build(samples, bar, training=split == "train") for split, samples in plan.items()}
    data = MultimodalData(_NAME, names, splits.pop("train"), splits)
    _write(path, data)
    return data


def _eligible(catalog: Catalog, class_id: int, name: str, split: str) -> list[_Sample]:
    """The samples that may be in a split: see the module."""
    return [
        (class_id, emoji, rendition)
        for emoji in catalog[name]
        for rendition in RENDITIONS
        if (emoji.part == "test") == (split == "emoji")
        and rendition.name in emoji.drawings
        and (split == "emoji" or rendition.unseen == (split == "rendition"))
    ]


def _chosen(samples: list[_Sample], split: str, name: str, seed: int, limit: int | None) -> Iterator[_Sample]:
    """Up to ``limit`` samples: one of each emoji in random order, then a second one of each, and so on."""
    rng = generator(seed, "choice", split, name)
    by_emoji: dict[str, list[_Sample]] = {}
    for index in rng.permutation(len(samples)):
        by_emoji.setdefault(samples[index][1].key, []).append(samples[index])
    rounds = [queue[i] for i in range(len(RENDITIONS)) for queue in by_emoji.values() if i < len(queue)]
    yield from rounds[:limit]


class _Builder:
    """Draws pictures and writes captions."""

    def __init__(
        self,
        *,
        size: int,
        seed: int,
        scenes: SceneChoice,
        texts: TextLength,
        directory: Path | str | None,
    ) -> None:
        self._size, self._seed, self._scenes, self._texts = size, seed, scenes, texts
        self._art = ArtStore(directory)
        self._lexicon = Lexicon(directory)

    def build(self, samples: list[_Sample], bar: Any, *, training: bool) -> Split:
        count = len(samples)
        images = np.empty((count, self._size, self._size, 3), dtype=np.uint8)
        masks = np.empty((count, self._size, self._size), dtype=np.bool_)
        texts, sources = [], []
        for i, (class_id, emoji, rendition) in enumerate(samples):
            rng = generator(self._seed, "sample", emoji.key, rendition.name)
            # Phrases with a word of this emoji's name ("brick", "grass") are no choice for it.
            scenes = [
                (s, phrase)
                for s in self._behind(class_id, emoji, rendition, training)
                for phrase in s.phrases
                if not gives_away(phrase, emoji)
            ]
            styles = [style for style in rendition.styles if not gives_away(style, emoji)]
            scene, phrase = scenes[int(rng.integers(len(scenes)))]
            style = styles[int(rng.integers(len(styles)))]
            texts.append(
                caption(
                    emoji,
                    style=style,
                    scene=phrase,
                    around=scene.name if self._texts == "long" else "",
                    lexicon=self._lexicon,
                    rng=rng.spawn(1)[0],
                )
            )
            images[i], masks[i] = compose(
                self._art, rendition, emoji.drawings[rendition.name], scene, self._size, rng.spawn(1)[0]
            )
            sources.append(f"{emoji.key}/{rendition.name}")
            bar.update()
        class_ids = np.array([class_id for class_id, _, _ in samples], dtype=np.int64)
        return Split(images, texts, class_ids, masks, sources)

    def _behind(self, class_id: int, emoji: Emoji, rendition: Rendition, training: bool) -> Sequence[Scene]:
        """The scenes that a sample may stand in front of. Of its class's own one, its name leaves at least a phrase."""
        if self._scenes == "any":
            return SCENES
        own = class_id % len(SCENES)
        if not training:
            return [scene for place, scene in enumerate(SCENES) if place != own]
        lot = generator(self._seed, "scene", emoji.key, rendition.name).random()
        return [SCENES[own]] if lot < _OWN_SCENE_SHARE else SCENES


def _write(path: Path, data: MultimodalData) -> None:
    """Keeps a built data set in one file, which appears whole or not at all."""
    splits = {"train": data.train, **data.test}
    arrays: dict[str, Any] = {}
    told = {name: {"texts": split.texts, "sources": split.sources} for name, split in splits.items()}
    texts = {"class_names": data.class_names, "splits": told}
    for name, split in splits.items():
        arrays[f"{name}.images"] = split.images
        arrays[f"{name}.class_ids"] = split.class_ids
        arrays[f"{name}.masks"] = np.packbits(split.object_masks, axis=-1) if split.object_masks is not None else []
    arrays["texts"] = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, **arrays)


def _read(path: Path) -> MultimodalData | None:
    """The data set kept in ``path``; ``None`` where there is none, or a damaged one (by checksum)."""
    if not path.exists():
        return None
    try:
        # Opened here, as numpy leaves a file open when it turns out to be no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            texts = json.loads(file["texts"].tobytes())
            splits = {}
            for name, told in texts["splits"].items():
                images = file[f"{name}.images"]
                masks = np.unpackbits(file[f"{name}.masks"], axis=-1, count=images.shape[2]).astype(np.bool_)
                splits[name] = Split(images, told["texts"], file[f"{name}.class_ids"], masks, told["sources"])
        return MultimodalData(_NAME, texts["class_names"], splits.pop("train"), splits)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): building the data set again", path, error)
        return None
