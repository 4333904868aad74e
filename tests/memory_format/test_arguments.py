"""Plain wrong arguments: an error in words that names what was wrong, and none from somewhere inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memory_format import (
    CODECS,
    FormatError,
    RawZstd,
    TargetBytes,
    TargetGain,
    TargetPSNR,
    WebP,
    codec_available,
    decode_batch,
    encode_batch,
    image_to_patches,
    make_codec,
    make_record,
    patches_to_image,
    read_batch,
    require_codec,
)
from memory_format.codecs import codec_class
from memory_format.quality import kept_psnr
from memory_format.record import check_record
from tests.client.samples import make

RIGHT: dict[str, Any] = {
    "class_id": 1,
    "patches": np.zeros((2, 4, 4, 3), np.uint8),
    "keep_mask": np.array([[True, True, False]]),
    "codec": RawZstd(),
    "token_ids": np.array([1, 2]),
    "token_positions": np.array([0, 1]),
    "text_length": 2,
    "phase": 0,
    "learner_id": "x",
    "score": 0.5,
    "rank": 1,
    "layout": "strip",
    "user_json": {"a": 1},
    "arrays": {"logits": np.zeros(3)},
}

# What somebody hands over who takes one thing for another. Each is wrong for most arguments, and right for some.
PLAIN: list[Any] = [
    None, "x", b"x", 3, -1, 2.5, float("nan"), True, 2**70, [], {}, [None], ["x"], [[1, 2], [3]], {3: 4}, {"a": "x"},
    {"a": float("nan")}, object(), np.zeros(0), np.zeros((2, 2)), np.zeros((2, 4, 4, 3)), np.array(["a"]), np.array(3),
    "\ud800", int, WebP,
]  # fmt: skip


def assert_most_are_refused(call: Callable[[Any], object]) -> None:
    words = []
    for value in PLAIN:
        try:
            call(value)
        except FormatError as error:
            words.append(error.message)
    assert len(words) >= len(PLAIN) / 2
    assert all(len(said) > 10 for said in words)


@pytest.mark.parametrize("name", RIGHT)
def test_a_record_is_made_or_refused_in_words(name: str) -> None:
    assert_most_are_refused(lambda value: make_record(**{**RIGHT, name: value}))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("class_id", "7", r"class_id must be a whole number in 0\.\.4294967295, got '7'"),
        ("class_id", 7.0, "class_id must be a whole number"),
        ("class_id", True, "class_id must be a whole number"),
        ("patches", [[0]], r"patches must be a numpy array \(K, P, P, 3\) uint8, got list"),
        ("patches", np.zeros((2, 4, 4, 3)), r"patches must be \(K, P, P, 3\) uint8, got .* float64"),
        ("codec", "em_webp", r"WebP\(quality=30\)"),
        ("codec", WebP, r"WebP\(quality=30\)"),
        ("token_ids", [1.5, 2.5], "token_ids must be a flat sequence of whole numbers"),
        ("token_ids", "a cat", "token_ids must be a flat sequence"),
        ("token_positions", 1, "token_positions must be a flat sequence"),
        ("text_length", 2.5, r"text_length must be a whole number in 0\.\.65535"),
        ("learner_id", 3, "learner_id must be text"),
        ("score", "0.5", "score must be a finite number"),
        ("layout", ["strip"], "layout must be one of mosaic, in_place, strip"),
        ("user_json", "x", "user_json must be a dict"),
        ("arrays", {"logits": "x"}, "array 'logits' must hold numbers"),
        ("arrays", {3: [1.0]}, "arrays must be a dict whose names are text"),
    ],
)
def test_the_words_say_what_would_be_right(name: str, value: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        make_record(**{**RIGHT, name: value})


def test_a_record_without_a_codec_is_webp_at_its_default() -> None:
    arguments = {name: value for name, value in RIGHT.items() if name != "codec"}
    assert make_record(**arguments) == make_record(**arguments, codec=None) == make_record(**arguments, codec=WebP())


def test_numbers_of_numpy_are_numbers() -> None:
    found = make_record(**{**RIGHT, "class_id": np.uint8(1), "rank": np.int64(1), "score": np.float32(0.5)})
    assert found == make_record(**RIGHT)
    assert type(found.class_id) is int


IMAGE = np.zeros((8, 8, 3), np.uint8)

OTHERS: dict[str, Callable[[Any], object]] = {
    "check_record": check_record,
    "encode_batch": encode_batch,
    "encode_batch of one": lambda value: encode_batch([make(1), value]),
    "decode_batch": decode_batch,
    "read_batch": read_batch,
    "codec_class": codec_class,
    "codec_available": codec_available,
    "require_codec": require_codec,
    "make_codec": make_codec,
    "make_codec, quality": lambda value: make_codec({"id": "em_webp", "quality": value}),
    "make_codec, id": lambda value: make_codec({"id": value}),
    "image_to_patches": lambda value: image_to_patches(value, 4),
    "image_to_patches, patch_px": lambda value: image_to_patches(IMAGE, value),
    "patches_to_image": lambda value: patches_to_image(value, (1, 2)),
    "patches_to_image, grid": lambda value: patches_to_image(np.zeros((2, 4, 4, 3), np.uint8), value),
    "kept_psnr": lambda value: kept_psnr(value, IMAGE),
    "kept_psnr, decoded": lambda value: kept_psnr(IMAGE, value),
    "TargetBytes": TargetBytes,
    "TargetGain": TargetGain,
    "TargetPSNR": TargetPSNR,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_refuse_in_words(name: str) -> None:
    assert_most_are_refused(OTHERS[name])


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec.missing_library() is None])
@pytest.mark.parametrize("name", ["quality", "method", "speed", "effort", "level", "subsampling"])
def test_options_of_codecs_are_refused_in_words(codec: Any, name: str) -> None:
    assert_most_are_refused(lambda value: make_codec({"id": codec.codec_id, name: value}))
