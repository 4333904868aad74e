"""Kept patches as a mosaic or in place: bytes and PSNR of WebP on MM-Emoji-R.

    python benchmarks/layout.py            the table of docs/decisions/0003

A patch is kept where the object covers any of it: close to what attention keeps, and no
model is needed.
"""

from __future__ import annotations

import argparse

import numpy as np

from learner.data.emoji import load_emoji
from memory_format import Layout, WebP, image_to_patches, make_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--patch", type=int, default=16, help="side of a patch in pixels")
    parser.add_argument("--pictures", type=int, default=300)
    options = parser.parse_args()
    data = load_emoji(size=options.size, num_classes=18, train_per_class=40, test_per_class=10).train
    chosen = np.random.default_rng(0).choice(len(data), min(options.pictures, len(data)), replace=False)
    assert data.object_masks is not None
    side = options.size // options.patch
    print(f"{len(chosen)} pictures of {options.size} px, patches of {options.patch} px")
    print("| WebP quality | layout | payload bytes | PSNR of kept patches, dB | whole image, bytes |")
    print("|---|---|---|---|---|")
    for quality in (30, 80):
        codec = WebP(quality=quality)
        whole = np.mean([len(codec.encode(data.images[index])) for index in chosen])
        layouts: tuple[Layout, ...] = ("in_place", "mosaic")
        for layout in layouts:
            sizes, errors, kept = [], [], []
            for index in chosen:
                covered = data.object_masks[index].reshape(side, options.patch, side, options.patch).any((1, 3))
                patches = image_to_patches(data.images[index], options.patch)[covered.reshape(-1)]
                record = make_record(class_id=0, patches=patches, keep_mask=covered, codec=codec, layout=layout)
                sizes.append(len(record.payload))
                errors.append(np.mean((record.patches().astype(float) - patches) ** 2))
                kept.append(covered.mean())
            psnr = 10 * np.log10(255**2 / np.mean(errors))
            print(f"| {quality} | {layout} | {np.mean(sizes):.0f} | {psnr:.1f} | {whole:.0f} |")
    print(f"{np.mean(kept):.0%} of the patches kept")


if __name__ == "__main__":
    main()
