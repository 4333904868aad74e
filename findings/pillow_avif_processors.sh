#!/usr/bin/env bash
# Pillow 13.0.0 (libavif 1.4.2, libaom): the same picture is another AVIF file where a process has one processor.
#
# What: a smooth picture of 1280 x 832 px is saved as AVIF twice with everything at its default, by one process that may use one
#   processor and by one that may use two; then with max_threads=1 and 2.
# Guess: threads share the work out and change no bit of what is written.
# Seen: Pillow asks for as many threads as the process has processors. With one, libavif asks libaom for no row-based threads,
#   and libaom chooses otherwise: other bytes, another size, and other pixels when they are read. Tiles are not the reason:
#   with autotiling off it is the same.
# Source: Pillow, AvifImagePlugin.py, _get_default_max_threads; libavif, src/codec_aom.c: g_threads and AV1E_SET_ROW_MT are
#   set where maxThreads > 1.
# For this project: a push that is repeated must have the same bytes, on whichever machine a run goes on, or its idempotency
#   key is refused. So the codec always encodes with max_threads=1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

cat > "$folder/encode.py" <<'PYTHON'
"""Lines of: how it was saved, bytes, checksum of the file, checksum of the pixels that come back."""
import hashlib
import io
import os
import sys

import numpy as np
from PIL import Image

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
y, x = np.mgrid[:832, :1280].astype(float)
noise = np.random.default_rng(0).normal(0, 6, (832, 1280, 3))
waves = np.stack([np.sin(x / 25 + y / 37), np.sin(y / 31), np.sin((x + y) / 43)], -1)
picture = Image.fromarray((128 + 60 * waves + noise).clip(0, 255).astype(np.uint8))
for name, options in (
    ("default", {}),
    ("1", {"max_threads": 1}),
    ("2", {"max_threads": 2}),
    ("1-untiled", {"max_threads": 1, "autotiling": False}),
    ("2-untiled", {"max_threads": 2, "autotiling": False}),
):
    file = io.BytesIO()
    picture.save(file, "AVIF", **options)
    pixels = Image.open(io.BytesIO(file.getvalue())).convert("RGB").tobytes()
    found = [hashlib.sha256(data).hexdigest()[:12] for data in (file.getvalue(), pixels)]
    print(name, len(file.getvalue()), *found)
PYTHON

if [ "$(nproc)" -lt 2 ]; then
    echo "this needs two processors" >&2
    exit 1
fi
for processors in 1 2; do
    "$folder/venv/bin/python" -I "$folder/encode.py" "$processors" > "$folder/$processors"
    echo "$processors processor(s): how, bytes, the file, its pixels"
    cat "$folder/$processors"
done

same() { [ "$(grep "^$2 " "$folder/$1" | cut -d' ' -f2-)" = "$(grep "^$4 " "$folder/$3" | cut -d' ' -f2-)" ]; }
pixels() { grep "^$2 " "$folder/$1" | cut -d' ' -f4; }

echo "expected: one file, whatever the processors and threads"
same 1 default 2 1 || { echo "changed: a process of one processor does not save as with one thread" >&2; exit 1; }
same 2 default 2 2 || { echo "changed: a process of two processors does not save as with two threads" >&2; exit 1; }
! same 2 1 2 2 || { echo "changed: threads make no difference any more" >&2; exit 1; }
! same 2 1-untiled 2 2-untiled || { echo "changed: without tiles they make none" >&2; exit 1; }
[ "$(pixels 1 default)" != "$(pixels 2 default)" ] || { echo "changed: the pixels are the same" >&2; exit 1; }
echo "seen: another file with one processor than with two, and other pixels in it"
