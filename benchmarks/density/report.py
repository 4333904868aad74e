"""What a density run found, as the line for machines, a JSON document, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common.tables import table
from benchmarks.density.decode import BATCH, Speed
from benchmarks.density.measure import Result
from benchmarks.density.plan import KEEP_RATIOS, TARGET_PSNR_DB

PAPERS_RATIO = KEEP_RATIOS[0]

_WANTED = {
    "photos_exemplars_per_jpeg95": ">= 18",
    "photos_kept_psnr_db": ">= 35",
    "photos_exemplars_per_same_codec": ">= 3.0",
    "emoji_exemplars_per_same_codec": ">= 2.5",
    "decode_records_per_s_demo": ">= 3,000",
    "decode_records_per_s_vilt": ">= 1,000",
}


@dataclass
class Run:
    """Everything that one run measured.

    Attributes:
        pictures: what the photographs are, in words.
        skipped: what was left out, and why.
    """

    setting: dict[str, Any]
    pictures: str
    skipped: list[str] = field(default_factory=list)
    photos: list[Result] = field(default_factory=list)
    emoji: list[Result] = field(default_factory=list)
    control: list[Result] = field(default_factory=list)
    """Of the photographs with random masks."""
    speeds: dict[str, list[Speed]] = field(default_factory=dict)
    """``demo`` and ``vilt``."""


def headline(results: Sequence[Result]) -> Result | None:
    """The setting that fits the most exemplars at the paper's keep ratio among those whose mean PSNR over the
    pictures reaches the target; None where none does."""
    found = [
        result
        for result in results
        if result.keep_ratio == PAPERS_RATIO and not result.exact and result.mean("psnr_db") >= TARGET_PSNR_DB
    ]
    return max(found, key=lambda result: result.per_jpeg, default=None)


def summary(run: Run) -> dict[str, float | None]:
    """The figures that the project promises something about."""
    best, emoji = headline(run.photos), headline(run.emoji)
    values = {
        "photos_exemplars_per_jpeg95": best.per_jpeg if best else None,
        "photos_kept_psnr_db": best.mean("psnr_db") if best else None,
        "photos_exemplars_per_same_codec": best.per_same_codec if best else None,
        "emoji_exemplars_per_same_codec": emoji.per_same_codec if emoji else None,
        "decode_records_per_s_demo": _fastest(run.speeds.get("demo", [])),
        "decode_records_per_s_vilt": _fastest(run.speeds.get("vilt", [])),
    }
    return {name: None if value is None else round(value, 2) for name, value in values.items()}


def _fastest(speeds: Sequence[Speed]) -> float | None:
    return max((speed.records_per_s for speed in speeds), default=None)


def document(run: Run) -> dict[str, Any]:
    """All of it, as JSON."""
    return {
        "summary": summary(run),
        "headlines": {
            what: _figures(best)
            for what, results in (("photos", run.photos), ("emoji", run.emoji))
            if (best := headline(results)) is not None
        },
        "setting": run.setting,
        "pictures": run.pictures,
        "skipped": run.skipped,
        "photos": [_figures(result) for result in run.photos],
        "photos_random_masks": [_figures(result) for result in run.control],
        "emoji": [_figures(result) for result in run.emoji],
        "decode_records_per_s": {
            size: [
                {
                    "codec": speed.setting.codec,
                    "pictures": speed.size,
                    "threads": speed.records_per_s,
                    "one_thread": speed.records_per_s_one_thread,
                }
                for speed in speeds
            ]
            for size, speeds in run.speeds.items()
        },
    }


def _figures(result: Result) -> dict[str, Any]:
    return {
        "codec": result.setting.codec,
        "label": result.setting.label,
        "keep_ratio": result.keep_ratio,
        "pictures": len(result.scores),
        "record_bytes": round(result.mean("record_bytes"), 1),
        "payload_bytes": round(result.mean("payload_bytes"), 1),
        "full_bytes": round(result.mean("full_bytes"), 1),
        "jpeg95_bytes": round(result.mean("jpeg_bytes"), 1),
        "exact": result.exact,
        "psnr_db": round(result.mean("psnr_db"), 3),
        "lowest_psnr_db": round(result.lowest_psnr_db, 3),
        "ssim": round(result.mean("ssim"), 5),
        "per_jpeg95": round(result.per_jpeg, 3),
        "per_same_codec": round(result.per_same_codec, 3),
        "encode_mb_per_s": round(result.encode_mb_per_s, 2),
        "decode_mb_per_s": round(result.decode_mb_per_s, 2),
    }


def markdown(run: Run) -> str:
    """The tables."""
    found = summary(run)
    best, emoji = headline(run.photos), headline(run.emoji)
    parts = [f"# Density benchmark, {run.setting['date']}", _setting(run.setting), run.pictures]
    parts += ["## What is promised", table(["figure", "found", "wanted"], _promises(found))]
    if best:
        ratios = [score.jpeg_bytes / score.record_bytes for score in best.scores]
        parts.append(
            f"The first three are of {best.setting.label}, {PAPERS_RATIO:.0%} of the patches kept. Picture by picture "
            f"{_quartiles(ratios)} of its exemplars fit in its own JPEG q95 (quartiles)."
        )
    else:
        parts.append(f"No setting reached {TARGET_PSNR_DB:g} dB.")
    if emoji:
        parts.append(f"The fourth is of {emoji.setting.label}, at {emoji.mean('psnr_db'):.1f} dB.")
    for title, results in (("Photographs", run.photos), ("MM-Emoji-R at the demo's size", run.emoji)):
        for ratio in KEEP_RATIOS if results else ():
            parts += [
                f"## {title}, {ratio:.0%} of the patches kept",
                _table([r for r in results if r.keep_ratio == ratio]),
            ]
    if run.control:
        parts += [
            f"## Photographs, {PAPERS_RATIO:.0%} of the patches kept at random",
            "A control, in smooth random shapes: attention keeps the patches where most happens, the dearest to code.",
            _table(run.control),
        ]
    if run.speeds:
        parts += [f"## Decoding a batch of {BATCH}, records a second", _speed_table(run.speeds)]
    if run.skipped:
        parts += ["## Left out", "\n".join(f"- {why}" for why in run.skipped)]
    return "\n\n".join(parts) + "\n"


def _quartiles(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in np.quantile(values, (0.25, 0.5, 0.75)))


def _promises(found: Mapping[str, float | None]) -> list[list[str]]:
    return [[f"`{name}`", "-" if value is None else f"{value:,g}", _WANTED[name]] for name, value in found.items()]


def _setting(setting: Mapping[str, Any]) -> str:
    machine, versions = setting["machine"], setting["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores; {machine['system']}; Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". {setting['seconds']} s."
    )


def _table(results: Sequence[Result]) -> str:
    head = [
        "codec",
        "bytes each",
        "payload",
        "PSNR, dB (lowest)",
        "SSIM",
        "per JPEG q95",
        "per full, same codec",
        "encode / decode MB/s",
    ]
    rows = [
        [
            result.setting.label,
            f"{result.mean('record_bytes'):,.0f}",
            f"{result.mean('payload_bytes'):,.0f}",
            "exact" if result.exact else f"{result.mean('psnr_db'):.1f} ({result.lowest_psnr_db:.1f})",
            f"{result.mean('ssim'):.3f}",
            f"{result.per_jpeg:.1f}",
            f"{result.per_same_codec:.2f}",
            f"{result.encode_mb_per_s:.1f} / {result.decode_mb_per_s:.0f}",
        ]
        for result in results
    ]
    return table(head, rows)


def _speed_table(speeds: Mapping[str, Sequence[Speed]]) -> str:
    rows = [
        [
            f"{size}: {speed.size}",
            speed.setting.label,
            f"{speed.records_per_s:,.0f}",
            f"{speed.records_per_s_one_thread:,.0f}",
        ]
        for size, found in speeds.items()
        for speed in found
    ]
    return table(["pictures", "codec", "as it comes", "one thread"], rows)
