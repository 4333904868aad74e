"""Text and JSON as they are taken everywhere."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_format import FormatError
from memory_format.text import MAX_NESTING, TEXT_PATTERN, check_text, nesting, read_json


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_what_is_kept_can_be_written(text: str) -> None:
    """In UTF-8, and where there may be no NUL."""
    if len(text) > 10 or re.search("[\0\ud800-\udfff]", text):
        with pytest.raises(FormatError) as refused:
            check_text("it", text, max_length=10)
        assert refused.value.code == "invalid_request"
    else:
        assert check_text("it", text, max_length=10) == text
        assert b"\0" not in text.encode()
        assert re.search(TEXT_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\0", r"U\+0000 at 1"), ("\ud800", r"U\+D800 at 0"), ("a\udfff", r"U\+DFFF at 1"), ("x" * 11, "at most 10")],
)
def test_what_is_not_kept(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        check_text("it", text, max_length=10)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a": [1, 2.5, null, true]}\n', {"a": [1, 2.5, None, True]}),
        (b'{"\\ud83d\\ude00": "\\u0000"}', {"\U0001f600": "\0"}),
        ('{"é": "\U0001f600"}'.encode(), {"é": "\U0001f600"}),
        (b"[" * MAX_NESTING + b"]" * MAX_NESTING, None),
        (b"[" + b"[]," * 1000 + b"[]]", [[]] * 1001),
    ],
)
def test_json_that_is_read(data: bytes, value: Any) -> None:
    assert read_json(data) == value or value is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1,]", "no JSON"),
        (b"\xef\xbb\xbf1", "no JSON"),
        (b"\xff", "no UTF-8 at byte 0"),
        (b'"\xed\xa0\x80"', "no UTF-8 at byte 1"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "the name 'c' twice"),
        (b'{"a": 1, "\\u0061": 1}', "the name 'a' twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"9" * 5000, "too many digits"),
        (b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1), "deeper than 64"),
        (b"[" * 10**6, "deeper than 64"),
        (b'{"a":' * 10**6, "deeper than 64"),
    ],
)
def test_json_that_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_json(data)


def test_many_names_of_which_the_last_comes_twice() -> None:
    names = [f'"{number}":0' for number in range(200_000)]
    with pytest.raises(ValueError, match="the name '199999' twice"):
        read_json(("{" + ",".join([*names, names[-1]]) + "}").encode())


def test_nesting_counts_levels() -> None:
    values: list[Any] = [1, [], {}, [[]], {"a": [1, {"b": 2}]}]
    assert [nesting(value) for value in values] == [0, 1, 1, 2, 3]
