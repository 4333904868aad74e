#!/usr/bin/env bash
# Pillow 13.0.0: a higher quality gives a worse picture, in two of five of WebP's steps; and of AVIF's 101 qualities 37 change nothing.
#
# What: a drawn picture of 128 x 128 px, squares of two colours under a little noise, and a smooth one, at each quality from 0 to 100:
#   bytes, and PSNR of what comes back. The lowest quality that reaches a PSNR, by bisection and by trying all.
# Guess: a quality up means more bytes and a better picture, but for hundredths of a decibel. So bisection finds the quality that
#   reaches a target, within a step or two. Each of the 101 numbers is a file of its own.
# Seen: on the squares WebP's PSNR falls in 41 of 100 steps, once by 1.8 dB, and the file shrinks in 21. A quality that bisection finds
#   costs up to three times the bytes that would do. JPEG's falls in 38 steps there, and hardly on the smooth picture. AVIF falls
#   in few steps, and has 64 files: its number is turned into AV1's 64 quantizers. On photographs all fall by hundredths.
# For this project: TargetPSNR and TargetBytes bisect (quality.py of the format), and say what that may miss.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

"$folder/venv/bin/python" -I - <<'PYTHON'
import io

import numpy as np
import PIL
from PIL import Image, features

PX = 128
y, x = np.mgrid[:PX, :PX].astype(float)
noise = np.random.default_rng(0).normal(0, 6, (PX, PX, 3))
PICTURES = {
    "squares": np.where(((x // 8 + y // 8) % 2)[..., None] > 0, [200, 90, 60], [40, 120, 180]) + noise,
    "smooth": 128 + 60 * np.stack([np.sin(x / 25 + y / 37), np.sin(y / 31), np.sin((x + y) / 43)], -1),
}
CODECS = {"WEBP": {}, "JPEG": {}, "AVIF": {"speed": 6, "max_threads": 1, "subsampling": "4:4:4", "advanced": {"tune": "psnr"}}}


def steps(picture, codec):
    """Files and PSNR of every quality."""
    files, levels = [], []
    for quality in range(101):
        out = io.BytesIO()
        Image.fromarray(picture).save(out, codec, quality=quality, **CODECS[codec])
        files.append(out.getvalue())
        error = ((np.asarray(Image.open(out).convert("RGB"), float) - picture) ** 2).mean()
        levels.append(10 * np.log10(255**2 / error))
    return files, levels


def bisected(levels, target):
    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if levels[middle] >= target else (middle + 1, high)
    return low


def dearest(files, levels):
    """How many times the bytes of the smallest quality that reaches a target bisection pays, at worst."""
    ratios = [1.0]
    for target in np.linspace(levels[5], levels[95], 200):
        lowest = next(quality for quality in range(101) if levels[quality] >= target)
        ratios.append(len(files[bisected(levels, target)]) / len(files[lowest]))
    return max(ratios)


versions = ", ".join(f"{name} {features.version(name)}" for name in ("webp", "avif", "jpg"))
print(f"Pillow {PIL.__version__}, {versions}; qualities 0 to 100")
print("expected: 101 files, each larger and better than the one before; bisection pays as little as trying all")
found = {}
for name, values in PICTURES.items():
    picture = values.clip(0, 255).astype(np.uint8)
    for codec in CODECS:
        files, levels = steps(picture, codec)
        change = np.diff(levels)
        falls, worst, ratio = int((change < -1e-9).sum()), float(-change.min()), dearest(files, levels)
        smaller = sum(len(after) < len(before) for before, after in zip(files, files[1:], strict=False))
        found[name, codec] = (len(set(files)), falls, worst, ratio)
        print(f"seen:     {name:7} {codec}: {len(set(files))} files; worse in {falls} steps, by up to {worst:.2f} dB; smaller in {smaller};")
        print(f"          bisection pays up to {ratio:.2f} times the bytes")
print("source:   libavif, src/write.c, avifQualityToQuantizer: ((100 - quality) * 63 + 50) / 100; libwebp, src/enc/quant_enc.c,")
print("          VP8SetSegmentParams: quantizers of segments, and the filter, by the quality; nothing there holds the error down")
assert found["squares", "AVIF"][0] == found["smooth", "AVIF"][0] == 64, f"changed: {found}"
assert found["squares", "WEBP"][1] > 20 and found["smooth", "WEBP"][1] > 20, f"changed: {found}"
assert found["squares", "WEBP"][2] > 1 and found["smooth", "WEBP"][2] > 0.4, f"changed: {found}"
assert found["squares", "WEBP"][3] > 2, f"changed: {found}"
print("as described")
PYTHON
