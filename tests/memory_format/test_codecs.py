from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from PIL import Image

from memory_format import (
    AVIF,
    CODECS,
    JPEG,
    FormatError,
    MissingLibraryError,
    PatchCodec,
    RawZstd,
    WebP,
    WebPLossless,
    codec_available,
    make_codec,
    require_codec,
)
from memory_format.canvas import MAX_SIDE_PX
from memory_format.codecs import codec_by_number, codec_class, webp
from memory_format.codecs.retired import RETIRED
from tests.memory_format.strategies import ALL_CODECS, LOSSLESS, mutate, mutations, noise, smooth

# What lossy WebP keeps of slow gradients at quality 80 and above, for images of at least 16x16 px.
SMOOTH_PSNR_DB = 36.0

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.mark.parametrize("codec", LOSSLESS, ids=lambda codec: codec.codec_id)
@given(size=sizes, seed=st.integers(0, 1000), flat=st.booleans())
def test_lossless_codecs_are_exact(codec: PatchCodec, size: tuple[int, int], seed: int, flat: bool) -> None:
    image = np.full((*size, 3), seed % 256, dtype=np.uint8) if flat else noise((*size, 3), seed)
    payload = codec.encode(image)
    assert codec.lossless
    assert codec.read_size(payload) == size
    np.testing.assert_array_equal(codec.read_checked(payload, size), image)
    np.testing.assert_array_equal(codec.decode(payload), image)


@given(
    size=st.tuples(st.integers(16, 128), st.integers(16, 128)),
    seed=st.integers(0, 10_000),
    quality=st.integers(80, 100),
    method=st.sampled_from([0, 4, 6]),
)
def test_lossy_webp_keeps_its_psnr_on_smooth_content(
    size: tuple[int, int], seed: int, quality: int, method: int
) -> None:
    codec = WebP(quality=quality, method=method)
    image = smooth(size, seed)
    assert not codec.lossless
    assert psnr(codec.decode(codec.encode(image)), image) >= SMOOTH_PSNR_DB


@pytest.mark.parametrize("kind", [WebP, AVIF, JPEG])
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_more_quality_is_closer(kind: Any, seed: int) -> None:
    image = smooth((64, 64), seed)
    low, high = (psnr(kind(quality=q).decode(kind(quality=q).encode(image)), image) for q in (10, 95))
    assert high > low
    assert high >= 36


@pytest.mark.parametrize("codec", ALL_CODECS, ids=repr)
@settings(max_examples=30)
@given(size=sizes, seed=st.integers(0, 1000))
def test_every_size_comes_back(codec: PatchCodec, size: tuple[int, int], seed: int) -> None:
    image = smooth(size, seed)
    payload = codec.encode(image)
    assert codec.read_size(payload) == codec.read_size(memoryview(payload)) == size  # type: ignore[arg-type]
    assert codec.decode(payload).shape == image.shape
    for wrong in ((size[0] + 1, size[1]), (size[0], size[1] + 1)):
        with pytest.raises(FormatError) as caught:
            codec.check_size(payload, wrong)
        assert caught.value.code == "payload_mismatch"


@pytest.mark.parametrize(
    "codec",
    [
        RawZstd(),
        RawZstd(level=9),
        WebP(),
        WebP(quality=77, method=2),
        WebPLossless(),
        WebPLossless(method=3),
        AVIF(),
        AVIF(quality=77, speed=9, subsampling="4:4:4"),
        JPEG(),
        JPEG(quality=77, subsampling="4:2:0"),
    ],
    ids=repr,
)
def test_numcodecs_finds_and_rebuilds_every_codec(codec: PatchCodec) -> None:
    config = codec.get_config()
    again = numcodecs.get_codec(config)
    assert type(again) is type(codec)
    assert again == codec
    assert again.get_config() == config
    assert type(codec).from_config({key: value for key, value in config.items() if key != "id"}) == codec
    assert make_codec(config) == codec
    # By the id alone, as a reader that knows nothing but the payload would.
    image = noise((9, 7, 3), 1)
    decoded = numcodecs.get_codec({"id": codec.codec_id}).decode(codec.encode(image))
    assert decoded.shape == image.shape
    out = np.empty_like(image)
    codec.decode(codec.encode(image), out=out)
    np.testing.assert_array_equal(out, decoded)


def test_numcodecs_finds_the_codecs_by_itself(tmp_path: Path) -> None:
    """In a process that never imports this project: what is installed says where they are."""
    code = (
        "import json, sys, numcodecs\n"
        "assert 'memory_format' not in sys.modules\n"
        "print(json.dumps([type(numcodecs.get_codec({'id': id_})).__name__ for id_ in sys.argv[1:]]))"
    )
    ids = [codec.codec_id for codec in CODECS]
    # Elsewhere, so that nothing is found because it lies beside the code.
    done = subprocess.run(
        [sys.executable, "-c", code, *ids], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\nIs what is installed older than pyproject.toml? `make setup` again."
    assert json.loads(done.stdout) == [codec.__name__ for codec in CODECS]


def test_codec_numbers_are_append_only() -> None:
    assert {codec.number: codec.codec_id for codec in (*CODECS, *RETIRED)} == {
        1: "em_zstd",
        2: "em_webp",
        3: "em_webp_lossless",
        4: "em_avif",
        5: "em_jpeg",
        6: "em_jpegxl",
        7: "em_jpegxl_lossless",
    }
    assert all(codec_by_number(codec.number) is codec_class(codec.codec_id) is codec for codec in (*CODECS, *RETIRED))


@pytest.mark.parametrize("config", [{}, {"id": "jpeg"}, {"id": "em_webp", "speed": 1}])
def test_unknown_codecs_and_settings_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(FormatError) as caught:
        make_codec(config)
    assert caught.value.code == "unknown_codec"
    with pytest.raises(FormatError):
        codec_by_number(250)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WebP(quality=101),
        lambda: WebP(method=7),
        lambda: WebPLossless(method=-1),
        lambda: RawZstd(level=0),
        lambda: RawZstd(level=23),
        lambda: AVIF(quality=101),
        lambda: AVIF(speed=11),
        lambda: AVIF(subsampling="4:2:2"),  # type: ignore[arg-type]
        lambda: JPEG(quality=0),
        lambda: JPEG(subsampling="4:2:2"),  # type: ignore[arg-type]
        lambda: WebP().encode(np.zeros((4, 4), dtype=np.uint8)),
        lambda: WebP().encode(np.zeros((4, 4, 3))),
        lambda: RawZstd().encode(np.zeros((0, 4, 3), dtype=np.uint8)),
        lambda: RawZstd().encode(np.zeros((1, MAX_SIDE_PX + 1, 3), dtype=np.uint8)),
        lambda: RawZstd().encode(np.zeros((2049, 2048, 3), dtype=np.uint8)),
    ],
)
def test_settings_and_images_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(FormatError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("kind", [kind for kind in CODECS if kind is not RawZstd], ids=lambda kind: kind.codec_id)
def test_a_missing_library_is_reported_before_anything_is_decoded(
    kind: type[PatchCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But sizes are still read: a service checks what it cannot decode."""
    payload = kind().encode(noise((8, 16, 3), 0))
    assert codec_available(kind.codec_id)
    require_codec(kind.codec_id)
    monkeypatch.setattr(kind, "missing_library", classmethod(lambda cls: "the moon"))
    assert not codec_available(kind.codec_id)
    for call in (lambda: require_codec(kind.codec_id), lambda: make_codec({"id": kind.codec_id})):
        with pytest.raises(MissingLibraryError, match=f"codec {kind.codec_id} needs the moon") as caught:
            call()
        assert caught.value.code == "codec_unavailable"
        assert caught.value.details == {"codec": kind.codec_id}
    kind.check_size(payload, (8, 16))


def test_libraries_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    for codec_id in ("em_webp", "em_webp_lossless", "em_avif", "em_jpeg"):
        with pytest.raises(MissingLibraryError, match="a Pillow that was built with"):
            require_codec(codec_id)
    assert codec_available("em_zstd")


@pytest.mark.parametrize("codec_id", ["em_jpegxl", "em_jpegxl_lossless"])
def test_codecs_of_earlier_versions_say_which_one_reads_them(codec_id: str) -> None:
    assert not codec_available(codec_id)
    kind = codec_class(codec_id)
    calls: list[Callable[[], object]] = [
        lambda: require_codec(codec_id),
        lambda: make_codec({"id": codec_id, "effort": 3}),
        lambda: make_codec({"id": codec_id}),
        lambda: kind.read_size(b""),
        lambda: kind.read_checked(b"", (8, 8)),
        kind,
    ]
    for call in calls:
        with pytest.raises(MissingLibraryError, match=f"codec {codec_id} needs version 0.1 of Exemplar") as caught:
            call()
        assert caught.value.code == "codec_unavailable"
        assert caught.value.details == {"codec": codec_id}


@pytest.mark.parametrize("codec", ALL_CODECS, ids=repr)
@given(damage=mutations, seed=st.integers(0, 20), recorded=sizes)
def test_damaged_payloads_raise_only_format_errors(
    codec: PatchCodec, damage: list[tuple[str, float, float, bytes]], seed: int, recorded: tuple[int, int]
) -> None:
    image = noise((24, 16, 3), seed)
    payload = mutate(codec.encode(image), damage)
    for expected in ((24, 16), recorded):
        try:
            decoded = codec.read_checked(payload, expected)
        except FormatError:
            continue
        assert decoded.shape == (*expected, 3)


def test_payloads_do_not_depend_on_how_many_processors_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to Pillow, those of AVIF do: a push that is repeated on another machine would be another one."""
    image = smooth((448, 448), 1) // 2 + noise((448, 448, 3), 1) // 4
    for codec in ALL_CODECS:
        payloads = set()
        for processors in (1, 4):
            monkeypatch.setattr("PIL.AvifImagePlugin.DEFAULT_MAX_THREADS", processors)
            payloads.add(codec.encode(image))
        assert len(payloads) == 1, codec


STARTS = {
    "em_zstd": b"\x07\x00\x07\x00\x28\xb5\x2f\xfd",
    "em_webp": b"\x10\x02\x00\x9d\x01\x2a\x07\x00\x07\x00",
    "em_webp_lossless": b"\x2f\x06\x80\x01\x00",
    "em_avif": b"\x07\x00\x07\x00\x01\x40",
    "em_jpeg": b"\x07\x00\x07\x00\x3c\x01",
}


@pytest.mark.parametrize("codec", ALL_CODECS, ids=repr)
@given(payload=st.binary(max_size=200))
def test_random_bytes_raise_only_format_errors(codec: PatchCodec, payload: bytes) -> None:
    """Some decoders make a picture of anything; then it has the size that its header says."""
    for data in (payload, b"RIFF" + payload, STARTS[codec.codec_id] + payload):
        with contextlib.suppress(FormatError):
            assert codec.decode(data).shape == (*codec.read_size(data), 3)


def zstd_payload(height: int, width: int, frame: bytes) -> bytes:
    return height.to_bytes(2, "little") + width.to_bytes(2, "little") + frame


@pytest.mark.parametrize("content", [0, 1, 146, 148, 10_000_000])
def test_a_zstd_frame_of_another_size_is_refused(content: int) -> None:
    frame = bytes(Zstd().encode(np.zeros(content, dtype=np.uint8)))
    with pytest.raises(FormatError):
        RawZstd.read_checked(zstd_payload(7, 7, frame), (7, 7))


def test_a_zstd_frame_that_lies_about_its_size_is_refused() -> None:
    """The header says 147 bytes (7x7 px), the blocks hold a million."""
    honest = bytes(Zstd().encode(np.zeros(1_000_000, dtype=np.uint8)))
    assert honest[4] == 0xA0, "single segment, content size in 4 bytes"
    for size in (147, 2**32 - 1):
        lying = honest[:5] + size.to_bytes(4, "little") + honest[9:]
        with pytest.raises(FormatError):
            RawZstd.read_checked(zstd_payload(7, 7, lying), (7, 7))
    two_frames = bytes(Zstd().encode(np.zeros(147, dtype=np.uint8))) * 2
    with pytest.raises(FormatError):
        RawZstd.read_checked(zstd_payload(7, 7, two_frames), (7, 7))


def test_a_zstd_frame_of_unstated_size_is_refused() -> None:
    """Streamed frames state no size; a decoder would have to allocate as it goes."""
    frame = b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00"  # window descriptor, one last empty block
    with pytest.raises(FormatError):
        RawZstd.read_checked(zstd_payload(7, 7, frame), (7, 7))


def resized_webp(lossless: bool, width: int, height: int) -> bytes:
    """A WebP of 7x7 px whose header says ``width`` x ``height``."""
    codec = WebPLossless() if lossless else WebP()
    payload = bytearray(codec.encode(noise((7, 7, 3), 0)))
    if lossless:
        rest = int.from_bytes(payload[1:5], "little") >> 28 << 28
        payload[1:5] = (rest | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    else:
        payload[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(payload)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("side", [8, 4096, 16383])
def test_a_webp_that_says_another_size_is_refused_undecoded(
    lossless: bool, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = WebPLossless if lossless else WebP
    payload = resized_webp(lossless, side, side)
    assert codec.read_size(payload) == (side, side)
    monkeypatch.setattr(webp, "decode_file", lambda *args, **kwargs: pytest.fail("no library must see it"))
    with pytest.raises(FormatError) as caught:
        codec.read_checked(payload, (7, 7))
    assert caught.value.code == "payload_mismatch"
    assert caught.value.details == {"found": [side, side], "expected": [7, 7]}
    if side > MAX_SIDE_PX:
        with pytest.raises(FormatError):
            codec().decode(payload)
        with pytest.raises(FormatError):
            codec.decode_image(payload)


def test_extended_and_other_images_are_refused() -> None:
    extended = io.BytesIO()
    Image.fromarray(noise((8, 8, 4), 0), "RGBA").save(extended, "WEBP", quality=50)
    png = io.BytesIO()
    Image.fromarray(noise((8, 8, 3), 0)).save(png, "PNG")
    for payload in (extended.getvalue(), png.getvalue(), b""):
        for codec in CODECS:
            with pytest.raises(FormatError) as caught:
                codec.check_size(payload, (8, 8))
            assert caught.value.code in ("invalid_payload", "payload_mismatch")
