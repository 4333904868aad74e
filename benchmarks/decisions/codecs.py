"""Patch codecs, layouts and headers: the tables of docs/decisions/0006.

    python -m benchmarks.decisions.codecs            everything, about three minutes on one core
    python -m benchmarks.decisions.codecs speed      one table: headers, sides, layouts, ratios, avif, fills or speed

Photographs are those that the scikit-image and scikit-learn wheels ship, short side 384 px, patches of 32 px. Masks
are smooth and random, and keep 27 % of the patches unless said otherwise. Bytes are payloads, averaged over the
photographs at the same PSNR of the kept patches: interpolated between two qualities, the logarithm of the bytes over
decibels. Real masks of attention, with everything counted, are the affair of benchmarks/density.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from memory_format import (
    AVIF,
    JPEG,
    Layout,
    PatchCodec,
    RawZstd,
    Record,
    WebP,
    WebPLossless,
    image_to_patches,
    make_record,
)
from memory_format.canvas import kept_pixels, lay_out
from memory_format.codecs import libraries
from memory_format.codecs.av1 import payload_of_avif
from memory_format.codecs.libraries import encode_with_pillow
from memory_format.quality import kept_psnr

PATCH_PX = 32
TARGET_DB = 35.0
LAYOUTS: tuple[Layout, ...] = ("strip", "mosaic", "in_place")

Case = tuple[NDArray[np.uint8], NDArray[np.bool_]]
Make = Callable[[int], Any]
# Two qualities around the target, for each codec.
LOSSY: dict[str, tuple[Make, tuple[int, int]]] = {
    "AVIF 4:4:4, speed 6": (lambda q: AVIF(quality=q, speed=6), (40, 60)),
    "WebP": (lambda q: WebP(quality=q), (60, 85)),
    "JPEG 4:2:0": (lambda q: JPEG(quality=q, subsampling="4:2:0"), (60, 85)),
    "JPEG 4:4:4": (lambda q: JPEG(quality=q), (60, 85)),
}


def photographs(short_side: int) -> Iterator[NDArray[np.uint8]]:
    shipped = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    paths = [shipped / name for name in names]
    paths += sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    for path in paths:
        image = Image.open(path).convert("RGB")
        scale = short_side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        longest = short_side * 5 // 3
        yield np.asarray(image.resize(size, Image.Resampling.BICUBIC))[:longest, :longest]


def cases(keep_ratio: float, short_side: int = 384, patch_px: int = PATCH_PX) -> list[Case]:
    """Photographs and masks, the same ones every time."""
    rng = np.random.default_rng(1)
    made = []
    for image in photographs(short_side):
        h, w = image.shape[0] // patch_px, image.shape[1] // patch_px
        field = gaussian_filter(rng.standard_normal((h, w)), 1.0)
        kept = np.argsort(-field.reshape(-1))[: round(keep_ratio * h * w)]
        mask = np.zeros(h * w, dtype=bool)
        mask[kept] = True
        made.append((image[: h * patch_px, : w * patch_px], mask.reshape(h, w)))
    return made


def record_of(case: Case, codec: PatchCodec, layout: Layout | None = None) -> tuple[Record, NDArray[np.uint8]]:
    image, mask = case
    patches = image_to_patches(image, image.shape[0] // mask.shape[0])[mask.reshape(-1)]
    return make_record(class_id=0, patches=patches, keep_mask=mask, codec=codec, layout=layout), patches


def at_target(measure: Callable[[Case, int], tuple[int, float]], of: list[Case], qualities: tuple[int, int]) -> float:
    """Mean bytes at TARGET_DB."""
    found = []
    for case in of:
        (bytes_low, low), (bytes_high, high) = (measure(case, quality) for quality in qualities)
        slope = (np.log(bytes_high) - np.log(bytes_low)) / (high - low)
        found.append(np.exp(np.log(bytes_low) + slope * (TARGET_DB - low)))
    return float(np.mean(found))


def bytes_of(make: Make, qualities: tuple[int, int], of: list[Case], layout: Layout | None) -> float:
    def measure(case: Case, quality: int) -> tuple[int, float]:
        record, patches = record_of(case, make(quality), layout)
        return len(record.payload), kept_psnr(patches, record.patches())

    return at_target(measure, of, qualities)


def headers() -> None:
    """What is left out of each payload, for a 112-px picture of which 12 patches of 16 px are kept."""
    row("codec", "payload", "as a file", "saved")
    (case,) = cases(0.25, short_side=112, patch_px=16)[:1]
    files: list[tuple[PatchCodec, str, dict[str, Any]]] = [
        (WebP(), "WEBP", {"quality": 30}),
        (WebPLossless(), "WEBP", {"lossless": True, "quality": 20, "method": 0}),
        (AVIF(), "AVIF", {"quality": 40, "speed": 4, "subsampling": "4:4:4", "advanced": {"tune": "psnr"}}),
        (JPEG(), "JPEG", {"quality": 60, "subsampling": "4:4:4"}),
    ]
    for codec, kind, options in files:
        record, patches = record_of(case, codec)
        canvas = lay_out(patches, case[1], case[1].shape, record.layout)
        file = len(encode_with_pillow(kind, canvas, **options))
        row(codec.codec_id, len(record.payload), file, file - len(record.payload))
    row("em_zstd", len(record_of(case, RawZstd())[0].payload), "-", "-")


def sides() -> None:
    """A strip's payload over a mosaic's, both at 35 dB, by the side of a patch; 12 patches on the short side."""
    row("patch, px", *LOSSY)
    for side in (4, 8, 12, 14, 16, 24, 32):
        of = cases(0.27, short_side=12 * side, patch_px=side)
        cells = []
        for make, qualities in LOSSY.values():
            strip, mosaic = (bytes_of(make, qualities, of, layout) for layout in LAYOUTS[:2])
            cells.append(f"{strip / mosaic:.2f}")
        row(str(side), *cells)


def layouts() -> None:
    """Bytes at 35 dB, and exact ones, by layout."""
    row("codec", *LAYOUTS)
    of = cases(0.27)
    for name, (make, qualities) in LOSSY.items():
        row(name, *(f"{bytes_of(make, qualities, of, layout):,.0f}" for layout in LAYOUTS))
    for codec in (WebPLossless(), RawZstd()):
        exact = [np.mean([len(record_of(case, codec, layout)[0].payload) for case in of]) for layout in LAYOUTS]
        row(codec.codec_id, *(f"{mean:,.0f}" for mean in exact))


def ratios() -> None:
    """Bytes at 35 dB by the share of patches that are kept."""
    row("kept", *(f"{name}, {layout}" for name in ("AVIF 4:4:4, speed 6", "WebP") for layout in ("strip", "in_place")))
    for ratio in (0.27, 0.4, 0.5, 0.6, 0.8, 1.0):
        of = cases(ratio)
        cells = []
        for name in ("AVIF 4:4:4, speed 6", "WebP"):
            cells += [f"{bytes_of(*LOSSY[name], of, layout):,.0f}" for layout in ("strip", "in_place")]
        row(f"{ratio:.0%}", *cells)


def avif_settings() -> None:
    """Bytes at 35 dB of AVIF strips, and the time to encode one."""
    row("AVIF", "bytes at 35 dB", "ms to encode")
    of = cases(0.27)
    settings: list[tuple[str, int, str, str]] = [
        ("as Pillow does: tune iq, 4:2:0, speed 6", 6, "4:2:0", "iq"),
        ("tune psnr, 4:2:0, speed 6", 6, "4:2:0", "psnr"),
        *((f"tune psnr, 4:4:4, speed {speed}", speed, "4:4:4", "psnr") for speed in (8, 6, 5, 4, 3, 2)),
        ("tune ssim, 4:4:4, speed 4", 4, "4:4:4", "ssim"),
    ]
    for name, speed, subsampling, tune in settings:
        options = {"speed": speed, "subsampling": subsampling, "advanced": {"tune": tune}}
        seconds: list[float] = []
        qualities = (55, 80) if subsampling == "4:2:0" else (40, 60)
        found = at_target(partial(_encode_avif, options, seconds), of, qualities)
        row(name, f"{found:,.0f}", f"{1000 * np.mean(seconds):.0f}")


def _encode_avif(options: dict[str, Any], seconds: list[float], case: Case, quality: int) -> tuple[int, float]:
    patches = image_to_patches(case[0], PATCH_PX)[case[1].reshape(-1)]
    canvas = lay_out(patches, case[1], case[1].shape, "strip")
    start = time.process_time()
    file = encode_with_pillow("AVIF", canvas, quality=quality, codec="aom", max_threads=1, **options)
    seconds.append(time.process_time() - start)
    payload = payload_of_avif(file)
    return len(payload), kept_psnr(canvas, AVIF.decode_image(payload))


def fills() -> None:
    """Bytes at 35 dB in place, by what discarded cells are painted with."""
    row("codec", "mean", "coded and pasted back once", "three times")
    of = cases(0.27)
    for name in ("AVIF 4:4:4, speed 6", "WebP"):
        make, qualities = LOSSY[name]
        found = [at_target(partial(_encode_in_place, make, passes), of, qualities) for passes in (0, 1, 3)]
        row(name, *(f"{number:,.0f}" for number in found))


def _encode_in_place(make: Make, passes: int, case: Case, quality: int) -> tuple[int, float]:
    codec, (image, mask) = make(quality), case
    canvas = lay_out(image_to_patches(image, PATCH_PX)[mask.reshape(-1)], mask, mask.shape, "in_place")
    kept = kept_pixels(mask, PATCH_PX, "in_place")
    for _ in range(passes):
        canvas = np.where(kept[..., None], canvas, codec.decode(codec.encode(canvas)))
    payload = codec.encode(canvas)
    return len(payload), kept_psnr(canvas, codec.decode(payload), kept)


def speed() -> None:
    """Payloads decoded a second, by library, alone and in two threads."""
    row(
        "codec",
        "geometry",
        *(f"{library}, {n}" for library in ("Pillow", "imagecodecs") for n in ("1 thread", "2 threads")),
    )
    for side, patch_px, ratio in ((112, 16, 0.27), (384, 32, 0.27)):
        of = cases(ratio, short_side=side, patch_px=patch_px)
        for codec in (WebP(), WebPLossless(), AVIF(), JPEG()):
            payloads = [record_of(case, codec)[0].payload for case in of] * 20
            cells = []
            for library in ("Pillow", "imagecodecs"):
                libraries.HAVE_IMAGECODECS = library == "imagecodecs"
                for threads in (1, 2):
                    cells.append(f"{decoded_per_second(codec, payloads, threads):,.0f}")
            row(codec.codec_id, f"{side} px", *cells)


def decoded_per_second(codec: PatchCodec, payloads: list[bytes], threads: int) -> float:
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = time.perf_counter()
            parts = [payloads[first::threads] for first in range(threads)]
            list(pool.map(lambda part: [codec.decode_image(payload) for payload in part], parts))
            best = max(best, len(payloads) / (time.perf_counter() - start))
    return best


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    if cells[0] in ("codec", "kept", "AVIF", "patch, px"):
        print("|" + "---|" * len(cells), flush=True)


TABLES = {
    "headers": headers,
    "sides": sides,
    "layouts": layouts,
    "ratios": ratios,
    "avif": avif_settings,
    "fills": fills,
    "speed": speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: all")
    for name in parser.parse_args().tables or TABLES:
        print(f"\n{name}: {TABLES[name].__doc__}\n")
        TABLES[name]()


if __name__ == "__main__":
    main()
