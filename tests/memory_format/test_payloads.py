"""Payloads without containers: what is left out comes back, and what was written before is still read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from memory_format import AVIF, JPEG, FormatError, PatchCodec, WebP, WebPLossless, make_record
from memory_format.codecs import libraries
from memory_format.codecs.av1 import avif_of_payload, payload_of_avif
from memory_format.codecs.jpeg_tables import ZIGZAG, quantisation_tables
from tests.memory_format.strategies import noise, smooth

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def file_of(image: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **options)
    return out.getvalue()


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("lossless", [False, True])
@given(size=sizes, seed=st.integers(0, 1000))
def test_webp_files_of_earlier_stores_are_still_read(lossless: bool, size: tuple[int, int], seed: int) -> None:
    image = noise((*size, 3), seed)
    options = {"lossless": True, "quality": 20, "method": 0} if lossless else {"quality": 30, "method": 4}
    file = file_of(image, "WEBP", **options)
    codec: PatchCodec = WebPLossless() if lossless else WebP()
    assert codec.read_size(file) == codec.read_size(memoryview(file)) == size  # type: ignore[arg-type]
    np.testing.assert_array_equal(codec.decode(file), pixels(file))
    bare = codec.encode(image)
    assert bare in file
    assert len(file) - len(bare) == 20 + len(bare) % 2
    np.testing.assert_array_equal(codec.decode(bare), codec.decode(file))


def test_webp_files_are_checked_as_they_were() -> None:
    file = file_of(noise((9, 9, 3), 0), "WEBP")
    for damaged in (file[:-1], file + b"\0", file[:8] + b"WEBQ" + file[12:], file[:12] + b"VP8X" + file[16:]):
        with pytest.raises(FormatError) as caught:
            WebP.check_size(damaged, (9, 9))
        assert caught.value.code == "invalid_payload"


@settings(max_examples=30)
@given(
    size=sizes, seed=st.integers(0, 1000), quality=st.integers(0, 100), subsampling=st.sampled_from(["4:2:0", "4:4:4"])
)
def test_avif_boxes_come_back_as_they_were(size: tuple[int, int], seed: int, quality: int, subsampling: str) -> None:
    """The file that is rebuilt decodes to the pixels that the encoder's own file decodes to."""
    file = file_of(smooth(size, seed), "AVIF", quality=quality, speed=9, subsampling=subsampling, codec="aom")
    payload = payload_of_avif(file)
    assert len(file) - len(payload) >= 270
    np.testing.assert_array_equal(pixels(avif_of_payload(payload)), pixels(file))
    assert AVIF.read_size(payload) == size


def test_a_large_avif_is_one_tile() -> None:
    """Tiles are for threads: they cost bytes, and how many there are is for others to decide."""
    image = smooth((416, 640), 1)
    options = {"quality": 40, "speed": 9, "subsampling": "4:4:4", "codec": "aom", "max_threads": 1}
    whole, tiled = (
        payload_of_avif(file_of(image, "AVIF", **options, advanced={"tune": "psnr"}, autotiling=tiles))
        for tiles in (False, True)
    )
    assert AVIF(40, speed=9).encode(image) == whole
    assert len(whole) < len(tiled)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsampling": "4:0:0"}, "colour"),
        ({"subsampling": "4:2:2"}, "profile"),
    ],
)
def test_other_kinds_of_avif_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        payload_of_avif(file_of(smooth((16, 16), 0), "AVIF", codec="aom", **options))


@settings(max_examples=50)
@given(
    size=sizes,
    seed=st.integers(0, 1000),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["4:2:0", "4:4:4"]),
    rough=st.booleans(),
)
def test_jpeg_tables_come_back_as_they_were(
    size: tuple[int, int], seed: int, quality: int, subsampling: str, rough: bool
) -> None:
    image = noise((*size, 3), seed) if rough else smooth(size, seed)
    file = file_of(image, "JPEG", quality=quality, subsampling=subsampling)
    payload = JPEG(quality=quality, subsampling=subsampling).encode(image)  # type: ignore[arg-type]
    assert len(file) - len(payload) >= 600
    np.testing.assert_array_equal(JPEG.decode_image(payload), pixels(file))


@pytest.mark.parametrize("quality", [1, 25, 49, 50, 51, 90, 100])
def test_quantisation_tables_are_libjpegs(quality: int) -> None:
    with Image.open(io.BytesIO(file_of(noise((8, 8, 3), 0), "JPEG", quality=quality))) as image:
        assert isinstance(image, JpegImageFile)
        assert tuple(tuple(image.quantization[i]) for i in (0, 1)) == quantisation_tables(quality)
    assert ZIGZAG[:8] == (0, 1, 8, 16, 9, 2, 3, 10)
    assert sorted(ZIGZAG) == list(range(64))


def test_a_picture_gets_huffman_tables_of_its_own_where_they_pay() -> None:
    flags = [JPEG(quality=90).encode(noise((side, side, 3), 0))[5] for side in (8, 256)]
    assert flags == [0, 2]


@pytest.mark.parametrize("length", [0, 417, 65_534, 65_535])
def test_huffman_tables_of_no_such_length_are_refused(length: int) -> None:
    payload = JPEG(quality=90).encode(noise((256, 256, 3), 0))
    assert payload[5] & 2
    assert 0 < int.from_bytes(payload[6:8], "little") <= 416
    with pytest.raises(FormatError, match="tables"):
        JPEG.decode_image(payload[:6] + length.to_bytes(2, "little") + payload[8:] + bytes(70_000))


@pytest.mark.parametrize(
    "inside",
    [b"\xff\xd9", b"\xff\xda\0\x0c", b"\xff\xc4\0\x03\0", b"\xff\xc0\0\x11", b"\xff\xd0"],
)
def test_markers_in_a_jpeg_scan_are_refused(inside: bytes) -> None:
    payload = JPEG().encode(noise((16, 16, 3), 0))
    with pytest.raises(FormatError, match="marker"):
        JPEG.decode_image(payload[:40] + inside + payload[40:])


@pytest.mark.parametrize("codec", [WebP(), WebPLossless(), AVIF(), JPEG()], ids=repr)
def test_both_libraries_decode_alike(codec: PatchCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((1, 1), (7, 30), (112, 96)):
        payload = codec.encode(smooth(size, 1))
        monkeypatch.setattr(libraries, "HAVE_IMAGECODECS", True)
        with_imagecodecs = codec.decode(payload)
        monkeypatch.setattr(libraries, "HAVE_IMAGECODECS", False)
        np.testing.assert_array_equal(codec.decode(payload), with_imagecodecs)


def test_a_record_of_each_codec_says_what_decodes_it() -> None:
    image = smooth((64, 64), 3)
    patches = image.reshape(4, 16, 4, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)
    keep_mask = np.arange(16).reshape(4, 4) % 3 == 0
    for codec in (WebP(), AVIF(), JPEG(), WebPLossless()):
        record = make_record(class_id=0, patches=patches[keep_mask.reshape(-1)], keep_mask=keep_mask, codec=codec)
        assert record.codec is type(codec)
        assert record.patches().shape == (6, 16, 16, 3)
