"""Pictures in class folders without a table, data without texts or without pictures, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from learner.data.base import DataError, MultimodalData
from learner.data.settings import Columns
from tests.learner import trees
from tests.learner.test_data_sets import _colours, load

__all__ = ["load"]

Load = Callable[..., MultimodalData]


def _tree(root: Path, *names: str) -> Path:
    """Pictures of these names; those of a cat are red, of a dog blue."""
    for seed, name in enumerate(names):
        trees.picture(root / name, "red" if "cat" in name else "blue", seed=seed)
    return root


def test_folders_are_classes_and_the_split_is_drawn_and_said(load: Load, tmp_path: Path) -> None:
    root = _tree(tmp_path / "pets", *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)))
    data = load("folder", root)
    assert (data.name, data.class_names) == ("pets", ["cat", "dog"])
    assert np.bincount(data.train.class_ids).tolist() == [4, 4]
    assert _colours(data, "train") == [(1, 0, 0)] * 4 + [(0, 0, 1)] * 4
    assert data.train.texts == [""] * 8
    assert any("no split: 20% of each class is tested on, drawn by data.split_seed=0" in note for note in data.notes)
    assert any("no texts" in note for note in data.notes)
    assert load("folder", root, split_seed=3).train.sources != data.train.sources == load("folder", root).train.sources


def test_folders_of_splits_are_taken(load: Load, tmp_path: Path) -> None:
    names = [
        f"{split}/{kind}/{i}.png" for split in ("train", "Test", "val") for kind in ("cat", "dog") for i in range(2)
    ]
    data = load("folder", _tree(tmp_path, *names, "train/cat/deeper/3.png", "test-sketch/dog/1.png", "train/lost.png"))
    assert data.class_names == ["cat", "dog"]
    assert len(data.train) == 5
    assert {name: len(split) for name, split in data.test.items()} == {"test": 4, "test-sketch": 1}
    assert any("4 pictures of a validation split are left aside" in note for note in data.notes)
    assert any("1 pictures lie in no class's folder and are left out (such as train/lost.png)" in n for n in data.notes)
    assert not any("no split" in note for note in data.notes)


def test_train_alone_is_split(load: Load, tmp_path: Path) -> None:
    names = [f"train/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)]
    data = load("folder", _tree(tmp_path, *names))
    assert (len(data.train), len(data.test["test"])) == (8, 2)
    assert any("no split" in note for note in data.notes)


def test_a_class_may_be_called_train(load: Load, tmp_path: Path) -> None:
    names = [f"{kind}/{i}.png" for kind in ("bus", "train", "plane") for i in range(3)]
    assert load("folder", _tree(tmp_path, *names)).class_names == ["bus", "plane", "train"]


def test_texts_come_from_a_captions_file(load: Load, tmp_path: Path) -> None:
    root = _tree(tmp_path, *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(3)))
    trees.write_table(root / "captions.csv", [["image", "text"], ["cat/0.png", "a cat"], ["dog/1.png", "a dog"]])
    data = load("folder", root)
    assert sorted(text for split in (data.train, data.test["test"]) for text in split.texts if text) == [
        "a cat",
        "a dog",
    ]
    assert any("2 of 6 pictures have a text in captions.csv" in note for note in data.notes)
    with pytest.raises(DataError, match=r"no captions file .*none\.csv"):
        load("folder", root, captions=str(root / "none.csv"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "there are no pictures in .*, and no labels.csv"),
        (["1.png", "2.png"], r"in no class's folder \(such as 1.png\)"),
        (["train/cat/1.png", "dog/1.png"], "folders of splits .train. and 'dog' beside them"),
        (["train/cat/1.png", "test/dog/1.png"], "no sample to train on of 'dog'"),
    ],
)
def test_other_layouts_are_refused_in_words(names: list[str], words: str, load: Load, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        load("folder", _tree(tmp_path, *names))


def test_a_table_without_texts_is_pictures_only(load: Load, tmp_path: Path) -> None:
    _tree(tmp_path, "cat.png", "cat2.png")
    table = trees.write_table(tmp_path / "labels.csv", [["image", "label"], ["cat.png", "cat"], ["cat2.png", "cat"]])
    data = load("folder", table)
    assert data.train.texts == [""]
    assert any("no column 'text' of texts, only " in note for note in data.notes)
    # One that was asked for is not passed by.
    with pytest.raises(DataError, match="no column 'caption'; it has image, label"):
        load("folder", table, columns=Columns(text="caption"))
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text('{"image": "cat.png", "label": "cat", "text": "x"}\n{"image": "cat2.png", "label": "cat"}\n')
    with pytest.raises(DataError, match=r"line 2 has no column 'text', which mixed\.jsonl line 1 has"):
        load("folder", mixed)


def test_texts_alone_are_data_where_that_is_said(load: Load, tmp_path: Path) -> None:
    rows = [["text", "label"], *([f"{kind} {i}", kind] for kind in ("good", "bad") for i in range(4))]
    table = trees.write_table(tmp_path / "reviews.csv", rows)
    with pytest.raises(DataError, match="no column 'image'"):
        load("folder", table)
    data = load("folder", table, columns=Columns(image=""))
    assert data.class_names == ["bad", "good"]
    assert (len(data.train), len(data.test["test"])) == (6, 2)
    assert data.train.images[0].shape == (8, 8, 3)  # one patch
    assert any("texts alone" in note for note in data.notes)


def test_texts_for_the_test_alone_are_an_error(load: Load, tmp_path: Path) -> None:
    """As with a metadata.csv that lies in test/ only."""
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(2)]
    root = _tree(tmp_path, *names)
    tested = [name for name in names if name.startswith("test")]
    trees.write_table(root / "captions.csv", [["image", "text"], *([name, "seen"] for name in tested)])
    with pytest.raises(DataError, match="no sample to train on has a text, but samples of test have"):
        load("folder", root)
    trained = [name for name in names if name.startswith("train")]
    trees.write_table(root / "captions.csv", [["image", "text"], *([name, "seen"] for name in trained)])
    assert any("no sample of test has a text, but those to train on have" in n for n in load("folder", root).notes)
