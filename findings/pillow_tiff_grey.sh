#!/usr/bin/env bash
# Pillow 13.0.0: what a grey TIFF's values mean depends on its bits: turned round or not, white 255, 4095 or 65535.
#
# What: grey TIFFs of 8, 12 and 16 bits, uncompressed, with 0 as black or 0 as white (PhotometricInterpretation).
# Guess: Pillow hands out light as large numbers in all of them, and in mode I;16 white is 65535.
# Seen: "0 is white" is turned round at 8 bits, left as a negative at 16, and refused at 12. 12 bits come as I;16 with
#   values up to 4095, and nothing in the opened image's mode or info says so: scaled by 65535 it is nearly black.
# For this project: scans and X-rays would be negatives, or black. It went into learner/data/pictures.py (_stored,
#   _from_16_bit), which asks the file for its bits and its white before it is decoded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0

"$folder/venv/bin/python" -I - <<'PYTHON'
import io
import struct

import PIL
from PIL import Image

LONG, SHORT = 4, 3
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1


def tiff(values, bits, meaning):
    if bits == 12:
        joined = "".join(format(value, "012b") for value in values)
        data = int(joined, 2).to_bytes(len(joined) // 8, "big")
    else:
        data = struct.pack(f"<{len(values)}{'B' if bits == 8 else 'H'}", *values)
    # Width, height, bits, no compression, meaning, where the data starts, samples a pixel, rows in a strip, bytes.
    tags = [(256, LONG, len(values)), (257, LONG, 1), (258, SHORT, bits), (259, SHORT, 1), (262, SHORT, meaning)]
    tags += [(273, LONG, 8 + 2 + 9 * 12 + 4), (277, SHORT, 1), (278, LONG, 1), (279, LONG, len(data))]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return io.BytesIO(head + fields + struct.pack("<I", 0) + data)


def read(values, bits, meaning):
    try:
        with Image.open(tiff(values, bits, meaning)) as image:
            return image.mode, [image.getpixel((x, 0)) for x in range(len(values))]
    except Image.UnidentifiedImageError:
        return "UnidentifiedImageError"


print(f"Pillow {PIL.__version__}")
print("expected: a negative is turned round whatever its bits are; white is 65535 in mode I;16")
seen = {}
for bits in (8, 12, 16):
    values = [0, (1 << bits) // 4, (1 << bits) - 1, (1 << bits) // 2]
    for meaning, name in ((BLACK_IS_ZERO, "black"), (WHITE_IS_ZERO, "white")):
        seen[bits, meaning] = read(values, bits, meaning)
        print(f"seen:     {bits:>2} bits, 0 is {name}, stored {values}: {seen[bits, meaning]}")
print("source:   PIL/TiffImagePlugin.py, OPEN_INFO: (II, 0, (1,), 1, (8,), ()) has the raw mode 'L;I', which is turned round;")
print("          the same with (16,) has 'I;16', which is not; (12,) is there with 1 only, unpacked and not scaled")
assert seen[8, BLACK_IS_ZERO] == ("L", [0, 64, 255, 128]), "changed: 8 bits"
assert seen[8, WHITE_IS_ZERO] == ("L", [255, 191, 0, 127]), "changed: negatives of 8 bits"
assert seen[16, BLACK_IS_ZERO] == ("I;16", [0, 16384, 65535, 32768]), "changed: 16 bits"
assert seen[16, WHITE_IS_ZERO] == seen[16, BLACK_IS_ZERO], "changed: negatives of 16 bits"
assert seen[12, BLACK_IS_ZERO] == ("I;16", [0, 1024, 4095, 2048]), "changed: 12 bits"
assert seen[12, WHITE_IS_ZERO] == "UnidentifiedImageError", "changed: negatives of 12 bits"
print("as described")
PYTHON
