"""The tables of a density run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from benchmarks.common.document import Document
from benchmarks.common.tables import table
from benchmarks.density.decode import BATCH, Speed
from benchmarks.density.plan import KEEP_RATIOS, TARGET_PSNR_DB
from benchmarks.density.run import PAPERS_RATIO, Row, Run, headline

RUN = TypeAdapter(Run)

_WANTED = {
    "photos_exemplars_per_jpeg95": ">= 18",
    "photos_kept_psnr_db": ">= 35",
    "photos_exemplars_per_same_codec": ">= 3.0",
    "emoji_exemplars_per_same_codec": ">= 2.5",
    "decode_records_per_s_demo": ">= 3,000",
    "decode_records_per_s_vilt": ">= 1,000",
}


def markdown(kept: Document) -> str:
    """The tables."""
    run = RUN.validate_python(kept.found)
    best, emoji = headline(run.photos), headline(run.emoji)
    parts = [kept.heading("Density benchmark"), run.pictures]
    parts += ["## What is promised", table(["figure", "found", "wanted"], _promises(kept.summary))]
    if best:
        parts.append(f"The first three are of {best.setting.label}, {PAPERS_RATIO:.0%} of the patches kept.")
        if best.per_jpeg_quartiles:
            quartiles = ", ".join(f"{value:.1f}" for value in best.per_jpeg_quartiles)
            parts[-1] += f" Picture by picture {quartiles} of its exemplars fit in its own JPEG q95 (quartiles)."
    else:
        parts.append(f"No setting reached {TARGET_PSNR_DB:g} dB.")
    if emoji:
        parts.append(f"The fourth is of {emoji.setting.label}, at {emoji.psnr_db:.1f} dB.")
    for title, rows in (("Photographs", run.photos), ("MM-Emoji-R at the demo's size", run.emoji)):
        for ratio in KEEP_RATIOS if rows else ():
            parts += [
                f"## {title}, {ratio:.0%} of the patches kept",
                _table([row for row in rows if row.keep_ratio == ratio]),
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


def _promises(found: Mapping[str, float | None]) -> list[list[str]]:
    return [[f"`{name}`", "-" if value is None else f"{value:,g}", _WANTED[name]] for name, value in found.items()]


def _table(rows: Sequence[Row]) -> str:
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
    cells = [
        [
            row.setting.label,
            f"{row.record_bytes:,.0f}",
            f"{row.payload_bytes:,.0f}",
            "exact" if row.exact else f"{row.psnr_db:.1f} ({row.lowest_psnr_db:.1f})",
            f"{row.ssim:.3f}",
            f"{row.per_jpeg:.1f}",
            f"{row.per_same_codec:.2f}",
            f"{row.encode_mb_per_s:.1f} / {row.decode_mb_per_s:.0f}",
        ]
        for row in rows
    ]
    return table(head, cells)


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
