"""The charts and drawings of docs/pictures/: ``python scripts/doc_pictures.py``.

Figures come from the code itself, of one photograph in the public domain (``skimage.data.astronaut``). All pictures
bring a light ground of their own, so that they are read alike on light and dark pages, and letters as outlines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory_format import AVIF, HEADER_BYTES, JPEG, PatchCodec, RawZstd, Record, WebP, WebPLossless, make_record
from memory_format.canvas import image_to_patches

mpl.use("svg")
# The same input makes the same file.
mpl.rcParams.update({"svg.hashsalt": "exemplar-memory", "font.size": 10, "axes.spines.top": False})
mpl.rcParams.update({"axes.spines.right": False, "figure.facecolor": "#fbfbfb", "axes.facecolor": "#fbfbfb"})
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

OUT = Path(__file__).parents[1] / "docs" / "pictures"
SIDE_PX, PATCH_PX, KEPT = 384, 32, 0.27
CAPTION_TOKENS = 14
BLUE, ORANGE, GREEN, GREY, PURPLE = "#2f6ba6", "#ad5a12", "#2f7a3f", "#5f6670", "#7655a3"


def photograph() -> np.ndarray:
    """``(384, 384, 3)`` uint8."""
    from PIL import Image
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).resize((SIDE_PX, SIDE_PX)))


def exemplar(codec: PatchCodec, *, kept: float) -> Record:
    """The photograph with the share of its patches that differ most within themselves, and a caption."""
    patches = image_to_patches(photograph(), PATCH_PX)
    side = SIDE_PX // PATCH_PX
    spread = patches.reshape(len(patches), -1).std(axis=1)
    mask = np.zeros(len(patches), dtype=bool)
    mask[np.argsort(-spread)[: round(kept * len(patches))]] = True
    tokens = np.arange(CAPTION_TOKENS)
    return make_record(
        class_id=0, patches=patches[mask], keep_mask=mask.reshape(side, side), codec=codec, token_ids=tokens
    )


def codecs() -> None:
    """Bytes of the photograph, whole and masked, exact and lossy."""
    rows = [
        ("raw pixels, Zstandard", RawZstd()),
        ("WebP, lossless", WebPLossless()),
        ("JPEG, quality 80", JPEG(quality=80)),
        ("WebP, quality 80", WebP(quality=80)),
        ("WebP, quality 30", WebP(quality=30)),
        ("AVIF, quality 44", AVIF(quality=44)),
    ]
    _, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    places = np.arange(len(rows))
    for shift, kept, colour, name in ((-0.2, 1.0, GREY, "whole picture"), (0.2, KEPT, BLUE, "27 % of the patches")):
        charges = [exemplar(codec, kept=kept).charge for _, codec in rows]
        bars = axes.barh(places + shift, charges, height=0.38, color=colour, label=name)
        axes.bar_label(bars, [f"{charge:,}" for charge in charges], padding=3, fontsize=8)
    axes.set_yticks(places, [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("bytes charged, logarithmic")
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    save("codecs")


def charge() -> None:
    """Parts of one exemplar."""
    record = exemplar(WebP(quality=30), kept=KEPT)
    parts = [
        ("header", HEADER_BYTES, GREY),
        ("keep mask", len(record.keep_mask_bytes), GREEN),
        ("token mask", len(record.token_mask_bytes), PURPLE),
        ("token ids", len(record.token_ids_bytes), ORANGE),
        ("payload", len(record.payload), BLUE),
    ]
    assert sum(size for _, size, _ in parts) == record.charge
    _, axes = plt.subplots(figsize=(7.2, 2.4), layout="constrained")
    bars = axes.barh([name for name, _, _ in parts], [size for _, size, _ in parts], color=[c for _, _, c in parts])
    axes.bar_label(bars, [f"{size:,} bytes" for _, size, _ in parts], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{record.charge:,} bytes in all: 384 px, 27 % of the patches, WebP at quality 30, 14 words")
    axes.margins(x=0.15)
    save("charge")


def shares() -> None:
    """Equal shares of a fixed budget, as classes come."""
    _, axes = plt.subplots(figsize=(7.2, 2.8), layout="constrained")
    colours = [BLUE, ORANGE, GREEN, PURPLE, GREY, "#a8443d", "#1f7a75", "#7d6a14"]
    phases = [2, 4, 6, 8]
    for phase, classes in enumerate(phases):
        for number in range(classes):
            axes.barh(phase, 100 / classes, left=number * 100 / classes, color=colours[number], edgecolor="#fbfbfb")
            axes.text((number + 0.5) * 100 / classes, phase, f"{number}", color="white", ha="center", va="center")
    axes.set_yticks(range(len(phases)), [f"phase {p}: {classes} classes" for p, classes in enumerate(phases)])
    axes.invert_yaxis()
    axes.set_xlabel("% of the budget; each number is a class")
    save("shares")


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, **words: Any) -> None:
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec="none")
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **{"color": "white", **words})


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", *, both: bool = False
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "<->" if both else "->", "color": "#444a52", "lw": 1.3})
    if text:
        axes.text(
            (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1, text, ha="center", fontsize=8.5, color="#24292f"
        )


def drawing(width: float, height: float) -> Axes:
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    axes.set_aspect("equal")
    return axes


def draw() -> None:
    axes = drawing(7.2, 2.5)
    heights = (1.85, 1.3, 0.75, 0.2)
    inputs = (("seed, step", BLUE), ("strategy", BLUE), ("version", GREEN), ("draw key", GREEN))
    for y, (text, colour) in zip(heights, inputs, strict=True):
        box(axes, 0.2, y, 1.6, 0.42, text, colour)
        arrow(axes, (1.82, y + 0.21), (2.58, 1.25))
    box(axes, 2.6, 0.9, 1.3, 0.7, "hash\nBLAKE2b", GREY)
    box(axes, 4.3, 0.9, 1.2, 0.7, "Philox\n64-bit stream", PURPLE)
    box(axes, 5.9, 0.9, 1.1, 0.7, "one batch", ORANGE)
    axes.text(5.7, 0.45, "among the exemplars\nthat match", ha="center", va="center", fontsize=8.5, color="#24292f")
    arrow(axes, (3.92, 1.25), (4.28, 1.25))
    arrow(axes, (5.52, 1.25), (5.88, 1.25))
    save("draw")


def architecture() -> None:
    axes = drawing(7.6, 3.3)
    box(axes, 0.2, 1.5, 1.9, 1.5, "", BLUE)
    axes.text(1.15, 2.72, "learner", ha="center", va="center", color="white", fontweight="bold")
    axes.text(
        1.15,
        2.12,
        "PyTorch: trains, masks,\nselects. Or your own\ntraining loop.",
        ha="center",
        va="center",
        color="white",
        fontsize=8.5,
    )
    box(axes, 2.55, 1.5, 1.05, 1.5, "client\n\nPython", PURPLE)
    box(axes, 4.7, 1.5, 1.3, 1.5, "", GREEN)
    axes.text(5.35, 2.72, "service", ha="center", va="center", color="white", fontweight="bold")
    axes.text(
        5.35, 2.12, "budget, eviction,\nseeded draws;\nno torch", ha="center", va="center", color="white", fontsize=8.5
    )
    box(axes, 6.45, 2.35, 1.0, 0.65, "index\nSQLite", GREY, fontsize=8.5)
    box(axes, 6.45, 1.5, 1.0, 0.65, "segments\nZarr in ZIP", GREY, fontsize=8.5)
    box(axes, 0.2, 0.35, 7.25, 0.65, "memory_format: one exemplar as bytes, codecs, and how it travels (Arrow)", ORANGE)
    arrow(axes, (2.12, 2.25), (2.53, 2.25), both=True)
    arrow(axes, (3.62, 2.25), (4.68, 2.25), "HTTP", both=True)
    arrow(axes, (6.02, 2.67), (6.43, 2.67), both=True)
    arrow(axes, (6.02, 1.82), (6.43, 1.82), both=True)
    for x in (1.15, 3.07, 5.35):
        arrow(axes, (x, 1.48), (x, 1.02))
    save("architecture")


def chain(axes: Axes, steps: Sequence[tuple[float, str, str]], y: float) -> None:
    """Steps, each with its place, colour and words, from left to right; between two processes they go over HTTP."""
    for x, colour, text in steps:
        box(axes, x, y, 0.86, 1.1, text, colour, fontsize=8)
    for left, right in pairwise(steps):
        arrow(axes, (left[0] + 0.87, y + 0.55), (right[0] - 0.01, y + 0.55))
    axes.text(4.55, y + 0.66, "HTTP", ha="center", fontsize=8, color="#24292f")


def way() -> None:
    """The way of an exemplar in and out: a column each for the process of training, the service and the disk."""
    axes = drawing(9.6, 5.0)
    for x, width, name in (
        (0.1, 4.15, "a training process"),
        (4.85, 3.1, "the service's process"),
        (8.25, 1.25, "disk"),
    ):
        axes.add_patch(
            FancyBboxPatch((x, 0.1), width, 4.8, boxstyle="round,pad=0,rounding_size=0.08", fc="#eef0f3", ec="none")
        )
        axes.text(x + width / 2, 4.66, name, ha="center", va="center", fontsize=9, color="#24292f", fontweight="bold")
    small = {"fontsize": 8}
    top, bottom = 3.05, 1.0
    axes.text(0.25, 4.25, "in", fontsize=10, color="#24292f", fontweight="bold")
    axes.text(0.25, 2.2, "out", fontsize=10, color="#24292f", fontweight="bold")
    way_in = (
        (0.25, BLUE, "mask\n\nlearner/\nmodel/"),
        (1.25, BLUE, "select\n\nlearner/\nmemory/"),
        (2.25, ORANGE, "encode\n\nmemory_\nformat/"),
        (3.25, PURPLE, "push\n\nclient/"),
        (5.0, GREEN, "let in\n\nhttp/"),
        (6.0, GREEN, "judge,\nevict\n\nstore/pure/"),
        (7.0, GREEN, "write,\ncommit\n\nstore/"),
    )
    chain(axes, way_in, top)
    way_out = (
        (3.25, PURPLE, "ask\n\nclient/"),
        (5.0, GREEN, "draw\n\nstore/pure/"),
        (6.0, ORANGE, "frame\n\nmemory_\nformat/"),
        (7.0, GREEN, "read\n\nstore/"),
    )
    chain(axes, way_out, bottom)
    box(axes, 2.25, bottom, 0.86, 1.1, "decode\n\nmemory_\nformat/", ORANGE, **small)
    box(axes, 1.25, bottom, 0.86, 1.1, "tensors\n\nclient/", PURPLE, **small)
    box(axes, 0.25, bottom, 0.86, 1.1, "train\n\nlearner/\ntraining/", BLUE, **small)
    arrow(axes, (2.24, bottom + 0.55), (2.12, bottom + 0.55))
    arrow(axes, (1.24, bottom + 0.55), (1.12, bottom + 0.55))
    axes.plot([7.43, 7.43, 2.68], [bottom, 0.5, 0.5], color="#444a52", lw=1.3)
    arrow(axes, (2.68, 0.48), (2.68, bottom - 0.01))
    axes.text(4.55, 0.58, "bytes as they lie on the disk", ha="center", fontsize=8, color="#24292f")
    box(axes, 8.4, 3.3, 0.95, 0.85, "index\nSQLite", GREY, **small)
    box(axes, 8.4, 1.7, 0.95, 0.85, "segments\nZarr in ZIP", GREY, **small)
    arrow(axes, (7.87, top + 0.65), (8.39, 3.72))
    arrow(axes, (7.87, top + 0.35), (8.39, 2.3))
    arrow(axes, (8.39, 1.95), (7.88, bottom + 0.7))
    save("way")


def save(name: str) -> None:
    plt.savefig(OUT / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close()
    print(OUT / f"{name}.svg")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for make in (codecs, charge, shares, draw, architecture, way):
        make()


if __name__ == "__main__":
    main()
