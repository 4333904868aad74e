"""The order of classes is the seed's, the data's own, or one that is given, as papers give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learner.cli import _config, _parser
from learner.data.base import DataError
from learner.data.settings import DataConfig
from learner.run.problem import class_order, cut

NAMES = ["ant", "bee", "crane", "crane", "3", "owl"]


def _order(given: object, names: list[str] = NAMES) -> list[int]:
    setting = f"data.class_order={given!r}" if isinstance(given, list) else f"data.class_order={given}"
    arguments = ["run", "--url", "http://x", "--out", "x", "--set", "data.num_classes=0", "--set", setting]
    return class_order(_config(_parser().parse_args(arguments)).data, names)


def test_the_default_is_the_shuffle_of_the_seed() -> None:
    for seed in (0, 3):
        order = class_order(DataConfig(class_order_seed=seed), [str(c) for c in range(24)])
        assert order == np.random.default_rng(seed).permutation(24).tolist()
        parts = cut(order, 8, 5)
        assert [len(part) for part in parts] == [8, 5, 5, 5, 1]
        assert [class_id for part in parts for class_id in part] == order
    assert cut(list(range(7)), 3, 2) == [[0, 1, 2], [3, 4], [5, 6]]


def test_the_natural_order_is_that_of_the_data() -> None:
    assert _order("natural") == [0, 1, 2, 3, 4, 5]


def test_an_order_is_given_by_names_and_numbers(tmp_path: Path) -> None:
    """A class that is called like a number is meant by its name, where it is text."""
    assert _order(["owl", 2, "3", 3, "ant", "bee"]) == [5, 2, 4, 3, 0, 1]
    assert _order([5, 4, 3, 2, 1, 0]) == [5, 4, 3, 2, 1, 0]
    file = tmp_path / "order.txt"
    file.write_text("owl\n2\n\n3\nant\n bee \n4\n")
    with pytest.raises(DataError, match="a class comes once; twice there are '3'"):
        _order(file)
    file.write_text("2\n1\n0\n")
    assert _order(file, ["x", "y", "z"]) == [2, 1, 0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["ant", "bee"], r"names 2 of 6 classes; not 'crane', 'crane', '3', 'owl'"),
        (["crane"], r"2 classes are called 'crane'; give them by number: \[2, 3\]"),
        ([0, 0, 1], "twice there are 'ant'"),
        ([6], "there is no class 6; classes are 'ant', 'bee', 'crane', 'crane', '3' and 1 more"),
        ([-1], "there is no class -1"),
        (["wren"], "there is no class 'wren'"),
        ("nowhere.txt", "a file with one a line; 'nowhere.txt' cannot be read"),
    ],
)
def test_an_order_that_is_none_is_said(given: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _order(given)


@pytest.mark.parametrize("given", ["[]", "[1.5]", "[true]", "[[1]]"])
def test_a_list_of_something_else_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="class_order is natural, seeded, a list of names or numbers"):
        _order(given)
