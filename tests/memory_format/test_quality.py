from __future__ import annotations

from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_format import (
    AVIF,
    JPEG,
    FormatError,
    Record,
    TargetBytes,
    TargetGain,
    TargetPSNR,
    WebP,
    make_codec,
    make_record,
)
from memory_format.codecs.lossy import LossyCodec
from memory_format.quality import kept_psnr, parse_quality, search, search_peak
from tests.memory_format.strategies import noise, smooth

KINDS: list[Any] = [WebP, AVIF, JPEG]
KEEP_MASK = np.random.default_rng(3).random((6, 6)) < 0.4


def picture(seed: int) -> np.ndarray:
    """Kept patches ``(K, 16, 16, 3)`` of a smooth picture with some noise in it."""
    image = smooth((96, 96), seed)
    image[30:60] = (image[30:60].astype(int) + noise((30, 96, 3), seed) // 8).clip(0, 255)
    return image.reshape(6, 16, 6, 16, 3).swapaxes(1, 2)[KEEP_MASK]


def record_of(codec: LossyCodec, seed: int, **fields: Any) -> Record:
    return make_record(class_id=0, patches=picture(seed), keep_mask=KEEP_MASK, codec=codec, **fields)


def psnr_of(record: Record, seed: int) -> float:
    return kept_psnr(picture(seed), record.patches())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(seed=st.integers(0, 100), psnr_db=st.floats(26, 36), layout=st.sampled_from(["mosaic", "in_place", "strip"]))
def test_a_target_psnr_is_reached_on_kept_patches_and_not_by_far(
    kind: Any, seed: int, psnr_db: float, layout: Any
) -> None:
    record = record_of(kind(quality=TargetPSNR(psnr_db)), seed, layout=layout)
    if psnr_of(record, seed) < psnr_db:
        # The best there is: WebP halves the colours' resolution, and some pictures stay below 34 dB.
        assert record.payload == encoded(kind, kind.highest, seed, layout)
        return
    # The quality below the one that was found does not reach it.
    found = [q for q in range(kind.lowest, kind.highest + 1) if encoded(kind, q, seed, layout) == record.payload]
    assert found
    if found[0] > kind.lowest:
        below = record_of(kind(quality=found[0] - 1), seed, layout=layout)
        assert psnr_of(below, seed) < psnr_db


def encoded(kind: Any, quality: int, seed: int, layout: Any) -> bytes:
    return record_of(kind(quality=quality), seed, layout=layout).payload


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(seed=st.integers(0, 100), record_bytes=st.integers(700, 2500), tokens=st.integers(0, 60), extras=st.booleans())
def test_a_target_of_bytes_counts_the_whole_record(
    kind: Any, seed: int, record_bytes: int, tokens: int, extras: bool
) -> None:
    fields: dict[str, Any] = {"token_ids": np.arange(tokens), "user_json": {"source": "here"} if extras else None}
    record = record_of(kind(quality=TargetBytes(record_bytes)), seed, **fields)
    smallest = record_of(kind(quality=kind.lowest), seed, **fields)
    assert record.charge <= max(record_bytes, smallest.charge)
    assert record.charge > 0.7 * record_bytes or record.charge >= 0.9 * largest(kind, seed, fields)


def largest(kind: Any, seed: int, fields: dict[str, Any]) -> int:
    return record_of(kind(quality=kind.highest), seed, **fields).charge


@pytest.mark.parametrize("kind", KINDS)
def test_targets_out_of_reach_end_at_the_end_of_the_scale(kind: Any) -> None:
    for quality, end in ((TargetPSNR(60), kind.highest), (TargetBytes(1), kind.lowest), (TargetPSNR(10), kind.lowest)):
        assert record_of(kind(quality=quality), 1).payload == record_of(kind(quality=end), 1).payload


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_bounded(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = kind.encode_at

    def counted(self: Any, image: Any, quality: int) -> Any:
        calls.append(quality)
        return encode(self, image, quality)

    monkeypatch.setattr(kind, "encode_at", counted)
    for target in (TargetPSNR(30), TargetBytes(900), TargetPSNR(60), TargetBytes(1)):
        calls.clear()
        record_of(kind(quality=target), 2)
        assert len(calls) == len(set(calls)) <= 8
    for gain in (TargetGain(0.001), TargetGain(8.0), TargetGain(1000)):
        calls.clear()
        record_of(kind(quality=gain), 2)
        assert len(calls) == len(set(calls)) <= 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [2.0, 8.0, 30.0])
def test_a_target_gain_is_worth_nearly_as_much_as_any_quality(kind: Any, gain: float) -> None:
    def worth(record: Record) -> float:
        return psnr_of(record, 4) - gain * record.charge / 1000

    found = worth(record_of(kind(quality=TargetGain(gain)), 4))
    # Not at the ends of the scale: near exactness JPEG's PSNR takes off.
    assert found > max(worth(record_of(kind(quality=q), 4)) for q in range(8, 91, 4)) - 0.25


def test_a_shared_gain_has_the_best_mean_for_its_bytes() -> None:
    gained = [record_of(JPEG(quality=TargetGain(8.0)), seed) for seed in range(8)]
    each = sum(record.charge for record in gained) // len(gained)
    equal = [record_of(JPEG(quality=TargetBytes(each)), seed) for seed in range(8)]
    means = [np.mean([psnr_of(record, seed) for seed, record in enumerate(records)]) for records in (gained, equal)]
    assert means[0] > means[1]


@given(lowest=st.integers(0, 3), highest=st.integers(90, 100), peak=st.integers(-5, 110))
def test_search_finds_the_peak(lowest: int, highest: int, peak: int) -> None:
    asked: list[int] = []

    def worth(quality: int) -> float:
        assert lowest <= quality <= highest
        assert quality not in asked
        asked.append(quality)
        return -abs(quality - peak)

    assert search_peak(worth, lowest, highest) == min(max(peak, lowest), highest)
    assert len(asked) <= 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("quality", "config"),
    [
        (TargetPSNR(33.5), {"psnr_db": 33.5}),
        (TargetBytes(900), {"record_bytes": 900}),
        (TargetGain(1.5), {"db_per_kb": 1.5}),
        (41, 41),
    ],
)
def test_a_configuration_holds_a_target(kind: Any, quality: Any, config: Any) -> None:
    codec = kind(quality=quality)
    assert codec.get_config()["quality"] == config
    for again in (make_codec(codec.get_config()), numcodecs.get_codec(codec.get_config()), kind(quality=config)):
        assert again == codec
        assert again.quality == quality


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "quality",
    [
        *(-1, 101, 30.0, True, "30", None),
        *({}, {"psnr_db": "35"}, {"psnr_db": 35, "record_bytes": 9}, {"bytes": 9}),
        *({"psnr_db": 5}, {"psnr_db": float("nan")}, {"record_bytes": 0}, {"record_bytes": 9.5}, {"psnr_db": True}),
        *({"db_per_kb": 0}, {"db_per_kb": float("inf")}, {"db_per_kb": "1"}, {"db_per_kb": 1, "psnr_db": 35}),
    ],
)
def test_what_is_no_quality_is_refused(kind: Any, quality: Any) -> None:
    with pytest.raises(FormatError, match=r"target|quality is"):
        kind(quality=quality)


def test_numcodecs_encodes_to_a_target_by_the_whole_image() -> None:
    image = smooth((64, 48), 1)
    assert kept_psnr(image, WebP.decode_image(WebP(quality=TargetPSNR(38)).encode(image))) >= 38
    assert len(WebP(quality=TargetBytes(300)).encode(image)) <= 300


def test_psnr_is_that_of_kept_pixels() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    decoded = image.copy()
    decoded[0, 0] = 255
    kept = np.array([[False, True], [True, True]])
    assert kept_psnr(image, decoded, kept) == float("inf")
    assert kept_psnr(image, decoded) == pytest.approx(10 * np.log10(4))
    decoded[1, 1] = 1
    assert kept_psnr(image, decoded, kept) == pytest.approx(10 * np.log10(255**2 * 3))


@given(lowest=st.integers(0, 3), highest=st.integers(90, 100), edge=st.integers(-5, 110))
def test_search_finds_the_edge(lowest: int, highest: int, edge: int) -> None:
    asked: list[int] = []

    def note(quality: int) -> int:
        assert quality not in asked
        asked.append(quality)
        return quality

    assert search(lambda q: note(q) >= edge, lowest, highest, smallest=True) == min(max(edge, lowest), highest)
    asked.clear()
    assert search(lambda q: note(q) <= edge, lowest, highest, smallest=False) == max(min(edge, highest), lowest)
    assert len(asked) <= 7


def test_a_number_is_a_fixed_quality() -> None:
    assert parse_quality(7, 0, 100) == 7
