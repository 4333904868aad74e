"""Pictures of every kind become upright RGB of whole patches, and those that cannot say why."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import BmpImagePlugin, Image
from transformers import ViltImageProcessor

from client.rgb import fit
from learner.data.pictures import LazyPictures, PictureError, PictureFile, read_picture


def _read(path: Path) -> Image.Image:
    return read_picture(PictureFile(path, path.name))


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def _corner(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def _sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16))


def _transparent_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("name", "make", "options", "expected"),
    [
        ("grey.png", lambda: Image.new("L", (8, 8), 90), {}, (90, 90, 90)),
        ("bits.png", lambda: Image.new("1", (8, 8), 1), {}, (255, 255, 255)),
        ("grey-alpha.png", lambda: Image.new("LA", (8, 8), (0, 0)), {}, (255, 255, 255)),
        ("rgba.png", lambda: Image.new("RGBA", (8, 8), (255, 0, 0, 127)), {}, (255, 128, 128)),
        ("palette.gif", lambda: Image.new("RGB", (8, 8), "blue").quantize(), {}, (0, 0, 255)),
        ("hole.png", _transparent_palette, {"transparency": 1}, (255, 255, 255)),
        ("sixteen.png", _sixteen_bit, {}, (127, 127, 127)),
        ("sixteen.tiff", _sixteen_bit, {}, (127, 127, 127)),
        ("print.tiff", lambda: Image.new("CMYK", (8, 8), (255, 0, 0, 0)), {}, (0, 255, 255)),
        ("lab.tiff", lambda: Image.new("LAB", (8, 8), (255, 128, 128)), {}, (255, 255, 255)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    name: str,
    make: Callable[[], Image.Image],
    options: dict[str, object],
    expected: tuple[int, int, int],
    tmp_path: Path,
) -> None:
    found = _corner(_read(_saved(tmp_path / name, make(), **options)))
    assert np.abs(np.subtract(found, expected)).max() <= 1


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_with_a_transparent_value(depth: int, colour_type: int, key: tuple[int, ...], other: tuple[int, ...]) -> bytes:
    """8 x 8: the upper half holds ``key``, which ``tRNS`` says is transparent, the lower half ``other``."""

    def row(pixel: tuple[int, ...]) -> bytes:
        bits = "".join(f"{sample:0{depth}b}" for sample in pixel * 8)
        return b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")

    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour_type, 0, 0, 0)),
            _chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)),
            _chunk(b"IDAT", zlib.compress(4 * row(key) + 4 * row(other))),
            _chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize(
    ("depth", "colour_type", "key", "other", "expected"),
    [
        (1, 0, (0,), (1,), (255, 255, 255)),
        (1, 0, (1,), (0,), (0, 0, 0)),
        (2, 0, (2,), (1,), (85, 85, 85)),
        (4, 0, (7,), (3,), (51, 51, 51)),
        (8, 0, (7,), (90,), (90, 90, 90)),
        (16, 0, (7 * 257,), (90 * 257,), (90, 90, 90)),
        (8, 2, (10, 20, 30), (200, 0, 0), (200, 0, 0)),
        (16, 2, (0x0A05, 0x1400, 0x1E1E), (200 * 257, 0, 0), (200, 0, 0)),
    ],
)
def test_a_value_that_stands_for_transparent_becomes_white(
    depth: int,
    colour_type: int,
    key: tuple[int, ...],
    other: tuple[int, ...],
    expected: tuple[int, ...],
    tmp_path: Path,
) -> None:
    path = tmp_path / "hole.png"
    path.write_bytes(_png_with_a_transparent_value(depth, colour_type, key, other))
    image = _read(path)
    assert _corner(image) == (255, 255, 255)
    assert image.getpixel((7, 7)) == expected


def _tiff(bits: int, data: bytes, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """4 x 4 grey samples of any depth, as cameras and scanners write them and Pillow does not."""
    tags = [(256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 4)]
    tags += [(279, len(data)), (339, sample_format)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + directory
        + struct.pack("<I", 0)
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_tiff(12, bytes.fromhex("800800") * 8), 127),
        (_tiff(16, struct.pack("<16H", *[7 * 257] * 16)), 7),
        (_tiff(16, struct.pack("<16H", *[7 * 257] * 16), photometric=0), 248),
        (_tiff(8, bytes([7] * 16), photometric=0), 248),
        (b"P5\n4 4\n4095\n" + struct.pack(">16H", *[2048] * 16), 127),
    ],
)
def test_grey_of_any_depth_is_scaled_by_its_own_white(data: bytes, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    path.write_bytes(data)
    assert _corner(_read(path)) == (expected,) * 3


def test_cmyk_jpegs_keep_their_colours(tmp_path: Path) -> None:
    path = _saved(tmp_path / "print.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=95)
    assert np.abs(np.subtract(_corner(_read(path)), (0, 255, 255))).max() <= 3


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    for name in ("moves.gif", "moves.webp"):
        path = _saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        assert _corner(_read(path)) == (255, 0, 0)


def test_pictures_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), "blue")
    image.paste("red", (0, 0, 8, 8))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # hold it a quarter turn clockwise
    turned = _read(_saved(tmp_path / "turned.png", image, exif=exif))
    assert turned.size == (8, 16)
    assert _corner(turned) == (255, 0, 0)
    assert turned.getpixel((0, 15)) == (0, 0, 255)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = _saved(tmp_path / "exif.jpg", Image.new("RGB", (8, 8), "white"), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    assert _corner(_read(path)) == (255, 255, 255)


def _truncated() -> bytes:
    buffer = BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:1500]


def _tiff_of_floats() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "no such file"),
        (b"", "no picture that Pillow can read"),
        (b"<html>404</html>", "no picture that Pillow can read"),
        (_truncated(), "is damaged"),
        (_tiff_of_floats(), "8 or 16 bits"),
        (_tiff(32, struct.pack("<16I", *range(16))), "whose white nobody knows; save it with 8 or 16 bits"),
        (_tiff(32, struct.pack("<16i", *[7 * 257] * 16), sample_format=2), "8 or 16 bits"),
        (_tiff(16, struct.pack("<16h", *[-5] * 16), sample_format=2), "8 or 16 bits"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "it.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PictureError, match=rf"^labels\.csv line 7: it\.jpg: .*{words}"):
        read_picture(PictureFile(path, "labels.csv line 7: it.jpg"))


def test_a_folder_with_a_pictures_name_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(PictureError, match=r"folder\.jpg: cannot be read \(Is a directory\)"):
        _read(tmp_path / "folder.jpg")


@pytest.mark.parametrize("error", [IndexError("x"), struct.error("x"), KeyError("x"), TypeError("x")])
def test_whatever_is_raised_for_a_picture_names_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image) -> None:
        raise error

    path = _saved(tmp_path / "it.bmp", Image.new("RGB", (8, 8)))
    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", fail)
    with pytest.raises(PictureError, match=r"it\.bmp: is damaged \('?x'?\)"):
        _read(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path / "bomb.png", Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match="too large to be read safely"):
        _read(path)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([(32, 8), (384, 32), (16, 16), (112, 16)]))
@settings(max_examples=80, deadline=None)
def test_every_shape_fits(width: int, height: int, sizes: tuple[int, int]) -> None:
    short_side, patch_px = sizes
    fitted = fit(Image.new("L", (width, height)), short_side=short_side, patch_px=patch_px)
    assert all(side >= patch_px and side % patch_px == 0 for side in fitted.size)
    assert min(fitted.size) <= short_side
    assert max(fitted.size) <= short_side * 1333 / 800
    pictures = LazyPictures([], short_side=short_side, patch_px=patch_px)
    assert fitted.width * fitted.height // patch_px**2 <= pictures.most_patches
    if max(width, height) / min(width, height) <= 1333 / 800:
        assert min(fitted.size) == short_side


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (512, 341), (300, 300), (1000, 700), (1600, 400)])
def test_sizes_are_those_of_vilts_own_processor(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    fitted = fit(image, short_side=384, patch_px=32)
    expected = ViltImageProcessor()(image, return_tensors="np")["pixel_values"].shape
    assert (fitted.height, fitted.width) == expected[2:]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_one_pixel_and_endless_pictures_work(size: tuple[int, int], tmp_path: Path) -> None:
    path = _saved(tmp_path / "odd.png", Image.new("RGB", size, (10, 200, 30)))
    pixels = LazyPictures([PictureFile(path, "odd.png")], short_side=32, patch_px=8)[0]
    assert pixels.shape[2] == 3
    assert (pixels == (10, 200, 30)).all()


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1024)[None, :, None] * np.ones((1024, 1, 3))
    path = _saved(tmp_path / "large.jpg", Image.fromarray(ramp.astype(np.uint8)), quality=95)
    small = read_picture(PictureFile(path, "large.jpg"), about=32)
    assert 64 <= min(small.size) < 256
    pixels = LazyPictures([PictureFile(path, "large.jpg")], short_side=32, patch_px=8)[0]
    assert np.abs(pixels.astype(int) - np.linspace(4, 251, 32)[None, :, None]).max() <= 4


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        LazyPictures([], short_side=100, patch_px=32)
