#!/usr/bin/env bash
# imagecodecs 2026.3.6 in zarr 3.1.6: a chunk of RGBA pictures that are all opaque is written, and cannot be read.
#
# What: four pictures with an alpha channel in a Zarr array, one a chunk, by each of imagecodecs' lossless codecs for pictures: WebP, AVIF, PNG, QOI, JPEG XL.
#   One of them is opaque everywhere, alpha 255.
# Guess: what was written is read: a codec in a Zarr array gives back as many bytes as it was given, whatever their values.
# Seen: PNG, QOI and JPEG XL give all back. WebP and AVIF leave out an alpha channel that is all 255, and decode to three channels: the array raises
#   ValueError, for this chunk alone, and only when it is read. `hasalpha=True` mends WebP, also for what is written already; AVIF has nothing of the
#   kind. What is not all opaque comes back.
# For this project: a picture has three channels, and WebP payloads are decoded with `hasalpha=False`; how many channels
#   there are is never taken from the payload.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    imagecodecs==2026.3.6 zarr==3.1.6 numcodecs==0.16.6 numpy==2.4.6

"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
from importlib.metadata import version

import imagecodecs.numcodecs as codecs
import numpy as np
import zarr

codecs.register_codecs()
NAMES = ("clear in part", "opaque", "opaque but for a pixel", "of one alpha")
pictures = np.empty((4, 16, 16, 4), np.uint8)
pictures[..., :3] = np.arange(0, 160, 10)[None, None, :, None]
pictures[..., 3] = 255
pictures[0, :8, :, 3] = 100
pictures[2, 3, 3, 3] = 254
pictures[3, ..., 3] = 7
OF_ALL = dict.fromkeys(NAMES, "equal")
WAYS = {
    "WebP": codecs.Webp(lossless=True),
    "WebP, hasalpha=True": codecs.Webp(lossless=True, hasalpha=True),
    "AVIF": codecs.Avif(level=100),
    "PNG": codecs.Png(),
    "QOI": codecs.Qoi(),
    "JPEG XL": codecs.Jpegxl(lossless=True),
}
print(f"imagecodecs {version('imagecodecs')}, zarr {version('zarr')}; expected: all equal")
seen = {}
for name, codec in WAYS.items():
    array = zarr.create_array({}, shape=pictures.shape, chunks=(1, *pictures.shape[1:]), dtype="u1", zarr_format=2, compressors=[codec], filters=None)
    array[:] = pictures
    told = {}
    for row, picture in enumerate(NAMES):
        try:
            told[picture] = "equal" if np.array_equal(array[row], pictures[row]) else "other"
        except ValueError as error:
            told[picture] = f"ValueError: {error}"
    seen[name] = told
    print(f"seen: {name:20} {'all equal' if told == OF_ALL else told}")
# hasalpha is how it is read: what another wrote is there.
written = codecs.Webp(lossless=True).encode(pictures[1])
mended = np.array_equal(codecs.Webp(lossless=True, hasalpha=True).decode(written), pictures[1])
print(f"seen: what WebP wrote, read with hasalpha=True: {'equal' if mended else 'other'}")
print("source: Webp.decode and Avif.decode in imagecodecs/numcodecs.py: the file says how many channels there are; libwebp and imagecodecs' avif_encode leave")
print("        out an alpha channel that says nothing")
for name in ("WebP, hasalpha=True", "PNG", "QOI", "JPEG XL"):
    assert seen[name] == OF_ALL, f"changed: {name} {seen[name]}"
for name in ("WebP", "AVIF"):
    assert seen[name].pop("opaque").startswith("ValueError"), f"changed: {name} reads what is opaque"
    assert set(seen[name].values()) == {"equal"}, f"changed: {name} {seen[name]}"
assert mended, "changed: hasalpha=True does not mend it"
print("as described")
PYTHON
