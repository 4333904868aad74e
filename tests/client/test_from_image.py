"""A picture becomes a record in one call: which patches, of what size, with which words, or an error that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from client import MemoryClient, ReplayBatch, record_from_image
from memory_format import FormatError, RawZstd, WebP, make_record
from tests.conftest import Service


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(image: Any, **options: Any) -> Any:
    return record_from_image(image, class_id=7, codec=RawZstd(), **options)


def test_the_patches_with_the_highest_scores_are_kept_as_they_are() -> None:
    image = picture(48, 64)
    attention = np.arange(12.0).reshape(3, 4)[::-1]
    found = record(image, attention=attention, keep=0.25, score=0.5, phase=2, learner_id="me", rank=3)
    assert np.argwhere(found.keep_mask).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert np.array_equal(found.image("black")[:16, 16:], image[:16, 16:])
    assert not found.image("black")[16:].any()
    assert (found.class_id, found.score, found.phase, found.learner_id, found.rank) == (7, 0.5, 2, "me", 3)
    assert (found.patch_px, found.grid, found.codec_id) == (16, (3, 4), "em_zstd")


@pytest.mark.parametrize(("keep", "kept"), [(0.27, 53), (0.0001, 1), (0.5, 98), (1, 196)])
def test_the_share_is_rounded_and_one_patch_stays(keep: float, kept: int) -> None:
    found = record_from_image(
        picture(224, 224), class_id=0, attention=np.random.default_rng(0).random((14, 14)), keep=keep
    )
    assert found.num_kept == kept
    assert record_from_image(picture(32, 32), class_id=0, attention=np.zeros((2, 2)), keep=0.5).keep_mask.tolist() == [
        [True, True],
        [False, False],
    ]


def test_a_mask_is_taken_and_without_either_all_is_kept() -> None:
    image = picture(32, 48)
    mask = np.array([[True, False, False], [False, False, True]])
    found = record(image, keep_mask=mask)
    assert np.array_equal(found.keep_mask, mask)
    assert np.array_equal(record(image, keep_mask=mask.tolist()).image(), found.image())
    assert np.array_equal(record(image).image(), image)


@pytest.mark.parametrize("shape", [(224, 224), (300, 211), (37, 1000), (9, 9)])
def test_a_grid_says_the_size_that_the_picture_gets(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    found = record(image, attention=np.ones((7, 5)), keep=1.0, patch_px=8)
    expected = np.asarray(Image.fromarray(image).resize((40, 56), Image.Resampling.BICUBIC))
    assert np.array_equal(found.image(), expected)


@pytest.mark.parametrize(
    ("shape", "short_side", "grid"),
    [
        ((48, 64), None, (3, 4)),
        ((63, 79), None, (3, 4)),
        ((5, 100), None, (1, 6)),
        ((480, 640), 96, (6, 8)),
        ((640, 480), 100, (8, 6)),
        ((100, 1000), 96, (1, 9)),
    ],
)
def test_else_its_sides_go_down_to_whole_patches(
    shape: tuple[int, int], short_side: int | None, grid: tuple[int, int]
) -> None:
    image = picture(*shape)
    found = record(image, short_side=short_side)
    assert found.grid == grid
    assert found.image().shape == (16 * grid[0], 16 * grid[1], 3)
    # A map of its pixels goes the same way.
    attention = np.zeros(shape)
    attention[-1, -1] = 1
    mapped = record(image, attention=attention, short_side=short_side, keep=0.001)
    assert mapped.grid == grid
    assert np.argwhere(mapped.keep_mask).tolist() == [[grid[0] - 1, grid[1] - 1]]


def test_a_map_gives_each_patch_the_mean_of_its_pixels() -> None:
    attention = np.zeros((32, 48))
    attention[3, 20] = 100.0  # a mean of 0.39
    attention[16:, :16] = 0.5
    attention[16:, 32:] = 0.3
    found = record(picture(32, 48), attention=attention, keep=2 / 6)
    assert found.keep_mask.tolist() == [[False, True, False], [True, False, False]]


def test_files_pictures_and_arrays_are_the_same(tmp_path: Path) -> None:
    image = picture(32, 48)
    path = tmp_path / "it.png"
    Image.fromarray(image).save(path)
    for given in (image, Image.fromarray(image), path, str(path)):
        assert np.array_equal(record(given).image(), image)


def test_pictures_are_upright_and_on_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(picture(32, 64)).save(tmp_path / "turned.jpg", exif=exif)
    assert record(tmp_path / "turned.jpg").grid == (4, 2)
    assert record(tmp_path / "turned.jpg", attention=np.ones((64, 32))).grid == (4, 2)
    clear = np.zeros((16, 16, 4), np.uint8)
    assert (record(clear).image() == 255).all()
    assert (record(np.full((16, 16), 9, np.uint8)).image() == 9).all()


class Words:
    """Answers as the tokenizers of transformers do."""

    def __init__(self, batched: bool = False) -> None:
        self.batched = batched

    def __call__(self, text: str) -> dict[str, Any]:
        ids = [101, *(1000 + len(word) for word in text.split()), 102]
        return {"input_ids": np.array([ids]) if self.batched else ids, "attention_mask": [1] * len(ids)}


@pytest.mark.parametrize("tokenizer", [Words(), Words(batched=True), lambda text: Words()(text)["input_ids"]])
def test_a_caption_becomes_tokens(tokenizer: Any) -> None:
    found = record(picture(16, 16), text="a small brown bird", tokenizer=tokenizer)
    assert found.token_ids.tolist() == [101, 1001, 1005, 1005, 1004, 102]
    assert found.token_positions.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.text_length == 6
    assert found.user_json() == {}


def test_some_of_the_tokens_can_be_kept() -> None:
    keep = np.array([True, False, True, False, False, True])
    found = record(picture(16, 16), text="a small brown bird", tokenizer=Words(), keep_tokens=keep)
    assert found.token_ids.tolist() == [101, 1005, 102]
    assert found.token_positions.tolist() == [0, 2, 5]
    assert found.text_length == 6


def test_without_a_tokenizer_the_words_themselves_are_kept() -> None:
    found = record(picture(16, 16), text="a wren", user_json={"file": "1.jpg"})
    assert found.user_json() == {"file": "1.jpg", "text": "a wren"}
    assert (found.text_length, len(found.token_ids)) == (0, 0)
    assert found.charge > record(picture(16, 16), user_json={"file": "1.jpg"}).charge


def test_it_is_what_make_record_makes_and_can_be_pushed(service: Service) -> None:
    image = picture(16, 32)
    found = record_from_image(image, class_id=1, keep_mask=np.array([[False, True]]), codec=WebP(quality=80))
    assert found == make_record(
        class_id=1, patches=image[None, :, 16:], keep_mask=np.array([[False, True]]), codec=WebP(quality=80)
    )
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("from-image", budget_bytes=100_000)
        buffer.push([found])
        (shown,) = buffer.sample(1).images()
        memory.delete_buffer("from-image")
    assert np.array_equal(shown, found.image())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": np.ones((2, 2)), "keep_mask": np.ones((2, 2), bool)}, "attention or keep_mask, not both"),
        ({"attention": np.ones((1, 2, 2))}, r"got \(1, 2, 2\) float64; give one picture's at a time"),
        ({"attention": np.ones(4)}, r"\(h, w\) scores of patches or an \(H, W\) map"),
        ({"attention": np.array([["a"]])}, "attention must be"),
        ({"attention": np.array([[np.nan, 1]])}, "must be finite"),
        ({"attention": np.ones((0, 2))}, "attention must be"),
        ({"attention": np.ones((300, 2))}, "must have the upright picture's size, 32x32"),
        ({"attention": np.ones((224, 224))}, "a grid of 224x224 patches of 16 px makes no picture"),
        ({"attention": np.ones((2, 2)), "keep": 0}, "over 0 and at most 1, got 0"),
        ({"attention": np.ones((2, 2)), "keep": 27}, "over 0 and at most 1, got 27"),
        ({"attention": np.ones((2, 2)), "short_side": 64}, "short_side does not go with a grid"),
        ({"keep_mask": np.ones((2, 2))}, r"\(h, w\) bool, got \(2, 2\) float64; scores are for attention="),
        ({"keep_mask": np.ones((32, 32), bool)}, "a map of pixels can be given as attention="),
        ({"keep_mask": np.zeros((2, 2), bool)}, "at least one"),
        ({"patch_px": 0}, "patch_px must be a whole number in 1..255"),
        ({"short_side": 8}, "short_side must be a whole number in 16..4096"),
        ({"text": b"a wren"}, "text must be a str, got bytes"),
        ({"text": "a wren", "user_json": {"text": "x"}}, "user_json has a text already"),
        ({"text": "a wren", "tokenizer": "bert"}, "tokenizer must be callable"),
        ({"text": "a wren", "tokenizer": lambda text: {"ids": [1]}}, "mapping without input_ids"),
        ({"text": "a wren", "tokenizer": lambda text: text.split()}, "the tokenizer's ids must be a flat sequence"),
        ({"text": "a wren", "tokenizer": lambda text: [2**32]}, "must lie in 0..4294967295"),
        ({"text": "a wren", "tokenizer": Words(), "keep_tokens": [True]}, r"keep_tokens must be \(4,\) bool"),
        ({"keep_tokens": [True]}, "give text and tokenizer too"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        record(picture(32, 32), **options)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (3, r"a picture of Pillow, an \(H, W, 3\) uint8 array or a path, got int"),
        (np.zeros((8, 8, 3)), r"values 0..255, got \(8, 8, 3\) float64"),
        (np.zeros((3, 8, 8), np.uint8), r"got \(3, 8, 8\) uint8"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (Image.new("F", (8, 8)), "floating-point or 32-bit"),
        ("nowhere.jpg", "nowhere.jpg: there is no such file"),
        (__file__, "test_from_image.py: is no picture that Pillow can read"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(image: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        record(image)


def test_a_file_that_is_cut_short_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / "it.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "it.png").read_bytes()[:2000])
    with pytest.raises(FormatError, match=r"cut\.png: is damaged"):
        record(tmp_path / "cut.png")


def test_a_text_that_was_no_utf_8_says_so() -> None:
    caption = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(FormatError, match="half of a surrogate pair"):
        record_from_image(np.zeros((16, 16, 3), np.uint8), class_id=0, text=caption)


def test_a_batch_shows_its_pictures() -> None:
    records = [
        record(picture(32, 48), attention=np.arange(6).reshape(2, 3), keep=0.5),
        record(picture(64, 16, 1)),
    ]
    batch = ReplayBatch.from_records(records)
    for dropped in ("grey", "black", "transparent"):
        for shown, single in zip(batch.images(dropped), records, strict=True):
            assert np.array_equal(shown, single.image(dropped))
    assert [image.shape for image in batch.images()] == [(32, 48, 3), (64, 16, 3)]
    with pytest.raises(ValueError, match="pixels=False"):
        ReplayBatch.from_records(records, pixels=False).images()
    with pytest.raises(FormatError, match="dropped must be one of grey, black, transparent, got 'pink'"):
        batch.images("pink")  # type: ignore[arg-type]
