"""Which codecs and qualities the density benchmark compares, and how many pictures it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.density.measure import Setting
from memory_format import MissingLibraryError, make_codec

KEEP_RATIOS = (0.27, 0.40)
"""The paper's keep ratio, at which everything promised is judged, and a milder one."""

TARGET_PSNR_DB = 35.0
DENSEST = "AVIF"
"""The family whose figures with random masks are the control."""

_TARGETS: dict[str, dict[str, float]] = {
    f"{TARGET_PSNR_DB:g} dB": {"psnr_db": TARGET_PSNR_DB},
    "3,700 B": {"record_bytes": 3700},
    "1.6 dB a kB": {"db_per_kb": 1.6},
}


@dataclass(frozen=True)
class Plan:
    """Sizes of one run."""

    num_stamps: int = 18
    num_emoji: int = 48
    most_pictures: int = 64
    """Of a folder of one's own."""
    decode_rounds: int = 9
    quick: bool = False

    @classmethod
    def small(cls) -> Plan:
        """The same measurements in seconds: to see that they work, not what they give."""
        return cls(num_stamps=0, num_emoji=4, most_pictures=3, decode_rounds=1, quick=True)


def _curve(family: str, codec_id: str, qualities: Sequence[int], **fixed: Any) -> list[Setting]:
    return [
        Setting(family, f"quality {quality}", {"id": codec_id, "quality": quality, **fixed}) for quality in qualities
    ]


def settings(plan: Plan, note: Callable[[str], object]) -> list[Setting]:
    """The sweep, without the codecs whose libraries are missing here: ``note`` is told of those."""
    wanted = [
        *_curve("WebP", "em_webp", (30, 50, 65, 80, 90)),
        *_curve(DENSEST, "em_avif", (30, 44, 47, 50, 62)),
        *_curve("AVIF, speed 6", "em_avif", (30, 48, 62), speed=6),
        *_curve("AVIF 4:2:0, speed 6", "em_avif", (30, 48, 62), subsampling="4:2:0", speed=6),
        *_curve("JPEG", "em_jpeg", (30, 60, 80, 90)),
        *_curve("JPEG 4:2:0", "em_jpeg", (30, 60, 80, 90), subsampling="4:2:0"),
        *(Setting("AVIF, target", knob, {"id": "em_avif", "quality": target}) for knob, target in _TARGETS.items()),
        Setting("WebP lossless", "", {"id": "em_webp_lossless"}),
        Setting("raw + Zstandard", "", {"id": "em_zstd"}),
    ]
    if plan.quick:
        few = ("quality 30", "quality 90", f"{TARGET_PSNR_DB:g} dB", "")
        wanted = [setting for setting in wanted if setting.knob in few]
    found = []
    missing = {}
    for setting in wanted:
        try:
            make_codec(setting.codec)
        except MissingLibraryError as error:
            missing[setting.family] = str(error)
        else:
            found.append(setting)
    for family, why in missing.items():
        note(f"left out: {family}: {why}")
    return found
