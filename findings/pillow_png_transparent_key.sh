#!/usr/bin/env bash
# Pillow 13.0.0: the transparent colour of PNGs is honoured with 1 and 8 bits only; with 16 bits another one vanishes.
#
# What: PNGs without an alpha channel name one grey or colour that is transparent (the chunk tRNS), in the file's own
#   bits. Opened, and turned into RGBA.
# Guess: that grey or colour has alpha 0, nothing else has.
# Seen: with 2 and 4 bits the pixels are scaled to 8 bits, the key is not, and nothing is transparent. Grey with 16
#   bits: has_transparency_data is true, and nothing is transparent. RGB with 16 bits: the pixels keep their high
#   bytes, the key its low ones, so the named colour stays and another one disappears.
# For this project: such a picture would be shown on black, or with holes. It went into learner/data/pictures.py
#   (_rgb, _from_16_bit), which scales the key as the pixels are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0

"$folder/venv/bin/python" -I - <<'PYTHON'
import io
import struct
import zlib

import PIL
from PIL import Image

GREY, RGB = 0, 2
COLOURS = [(0x1234, 0x5678, 0x9ABC), (0x3412, 0x7856, 0xBC9A), (0, 0, 0)]


def png(width, bits, kind, row, key):
    """One row of pixels, and what of them is transparent."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)))


def grey(values, bits, key):
    joined = "".join(format(value, f"0{bits}b") for value in values)
    joined += "0" * (-len(joined) % 8)
    return png(len(values), bits, GREY, int(joined, 2).to_bytes(len(joined) // 8, "big"), struct.pack(">H", key))


def transparent(image):
    """Positions of the pixels without any opacity."""
    assert image.has_transparency_data
    return [i for i, alpha in enumerate(image.convert("RGBA").getchannel("A").tobytes()) if alpha == 0]


print(f"Pillow {PIL.__version__}")
print("expected: pixel 1 is transparent in each")
seen = {}
for bits, values in ((1, [0, 1]), (2, [0, 1, 2, 3]), (4, list(range(16))), (8, [0, 1, 2, 3]), (16, [0, 1000, 2000, 65535])):
    image = grey(values, bits, values[1])
    seen[bits] = transparent(image)
    print(f"seen:     grey of {bits} bits: mode {image.mode}, key {image.info['transparency']}, transparent {seen[bits]}")
row = b"".join(struct.pack(">3H", *colour) for colour in [COLOURS[2], *COLOURS[:2]])
image = png(3, 16, RGB, row, struct.pack(">3H", *COLOURS[0]))
of_rgb = transparent(image)
print(f"          RGB of 16 bits: mode {image.mode}, key {image.info['transparency']}, transparent {of_rgb}")
print("source:   PIL/PngImagePlugin.py, PngStream.chunk_tRNS: only mode 1 scales the key; Image.convert in PIL/Image.py")
print("          compares it with the scaled pixels, and has nothing for I;16; has_transparency_data asks for the key only")
assert seen[1] == [1] and seen[8] == [1], "changed: 1 or 8 bits"
assert seen[2] == [] and seen[4] == [], "changed: 2 or 4 bits"
assert seen[16] == [], "changed: grey of 16 bits"
assert of_rgb == [2], "changed: RGB of 16 bits"
print("as described")
PYTHON
