"""What a run of the density benchmark measured, and the figures that sum it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.density.decode import Speed
from benchmarks.density.measure import Result, Setting
from benchmarks.density.plan import KEEP_RATIOS, TARGET_PSNR_DB

PAPERS_RATIO = KEEP_RATIOS[0]


@dataclass(frozen=True)
class Row:
    """All pictures with one setting at one keep ratio: a row of a table.

    Attributes:
        pictures: how many.
        record_bytes, payload_bytes, full_bytes, jpeg_bytes, psnr_db, ssim: means over the pictures, as
            :class:`~benchmarks.density.measure.Score` has them.
        exact: whether every picture came back as it was.
        per_jpeg, per_same_codec: exemplars in the bytes of one full sample.
        per_jpeg_quartiles: over the pictures, each in the bytes of its own JPEG; None where they were not kept.
    """

    setting: Setting
    keep_ratio: float
    pictures: int
    record_bytes: float
    payload_bytes: float
    full_bytes: float
    jpeg_bytes: float
    psnr_db: float
    lowest_psnr_db: float
    ssim: float
    exact: bool
    per_jpeg: float
    per_same_codec: float
    per_jpeg_quartiles: tuple[float, float, float] | None
    encode_mb_per_s: float
    decode_mb_per_s: float


def row(result: Result) -> Row:
    """The row of what was measured with one setting."""
    first, median, third = np.quantile(
        [score.jpeg_bytes / score.record_bytes for score in result.scores], (0.25, 0.5, 0.75)
    )
    return Row(
        setting=result.setting,
        keep_ratio=result.keep_ratio,
        pictures=len(result.scores),
        record_bytes=result.mean("record_bytes"),
        payload_bytes=result.mean("payload_bytes"),
        full_bytes=result.mean("full_bytes"),
        jpeg_bytes=result.mean("jpeg_bytes"),
        psnr_db=result.mean("psnr_db"),
        lowest_psnr_db=result.lowest_psnr_db,
        ssim=result.mean("ssim"),
        exact=result.exact,
        per_jpeg=result.per_jpeg,
        per_same_codec=result.per_same_codec,
        per_jpeg_quartiles=(float(first), float(median), float(third)),
        encode_mb_per_s=result.encode_mb_per_s,
        decode_mb_per_s=result.decode_mb_per_s,
    )


@dataclass
class Run:
    """Everything that one run measured.

    Attributes:
        pictures: what the photographs are, in words.
        skipped: what was left out, and why.
        control: the photographs with random masks.
        speeds: of decoding, for ``demo`` and ``vilt``.
    """

    pictures: str
    skipped: list[str] = field(default_factory=list)
    photos: list[Row] = field(default_factory=list)
    emoji: list[Row] = field(default_factory=list)
    control: list[Row] = field(default_factory=list)
    speeds: dict[str, list[Speed]] = field(default_factory=dict)


def headline(rows: Sequence[Row]) -> Row | None:
    """The setting that fits the most exemplars at the paper's keep ratio among those whose mean PSNR over the
    pictures reaches the target; None where none does."""
    found = [row for row in rows if row.keep_ratio == PAPERS_RATIO and not row.exact and row.psnr_db >= TARGET_PSNR_DB]
    return max(found, key=lambda row: row.per_jpeg, default=None)


def summary(run: Run) -> dict[str, float | None]:
    """The figures that the project promises something about."""
    best, emoji = headline(run.photos), headline(run.emoji)
    values = {
        "photos_exemplars_per_jpeg95": best.per_jpeg if best else None,
        "photos_kept_psnr_db": best.psnr_db if best else None,
        "photos_exemplars_per_same_codec": best.per_same_codec if best else None,
        "emoji_exemplars_per_same_codec": emoji.per_same_codec if emoji else None,
        "decode_records_per_s_demo": _fastest(run.speeds.get("demo", [])),
        "decode_records_per_s_vilt": _fastest(run.speeds.get("vilt", [])),
    }
    return {name: None if value is None else round(value, 2) for name, value in values.items()}


def _fastest(speeds: Sequence[Speed]) -> float | None:
    return max((speed.records_per_s for speed in speeds), default=None)
