#!/usr/bin/env bash
# datasets 5.2.0: to_parquet() of a folder of pictures writes the names of the files, and none of their bytes; save_to_disk() writes the bytes.
#
# What: three PNGs in a folder, read by load_dataset("imagefolder"), written by to_parquet(), to_json() and save_to_disk(). Then the folder is moved
#   away, and what was written is read: as it is where the file goes to another machine.
# Guess: Parquet holds the pictures, as save_to_disk() does and as the Parquet files of the hub, which the same library writes, do. Of JSON
#   the names, or an error.
# Seen: 58 kB of pictures are a Parquet file of 1 kB. Read after the move, it raises FileNotFoundError at the first picture, and whoever writes another
#   picture to the old place gets that one. No word at writing. JSON has the names, too. What comes by save_to_disk() is whole, and
#   written as Parquet from there it holds the bytes.
# For this project: `data.name=hub` reads folders of Parquet (learner/data/hub.py), and a row without bytes by its file's name. Who brings one to
#   another machine goes by save_to_disk(); docs/learner.md says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6 pillow==13.0.0

HF_HOME="$folder/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" -I -W ignore - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(sys.argv[1])
pictures, written = HERE / "pictures", HERE / "written"
pictures.mkdir()
written.mkdir()
noise = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), np.uint8)
for number, pixels in enumerate(noise):
    Image.fromarray(pixels).save(pictures / f"{number}.png")
num_bytes = sum(path.stat().st_size for path in pictures.iterdir())
rows = datasets.load_dataset("imagefolder", data_dir=str(pictures), split="train")
rows.to_parquet(written / "rows.parquet")
rows.to_json(written / "rows.json")
rows.save_to_disk(written / "saved")
kept = datasets.load_from_disk(written / "saved")
kept.to_parquet(written / "kept.parquet")
pictures.rename(HERE / "moved")


def read(name):
    """How many pictures are there with the pixels that they had, or the error."""
    try:
        if name == "saved":
            found = datasets.load_from_disk(written / name)
        else:
            found = datasets.Dataset.from_parquet(str(written / name), cache_dir=str(HERE / f"cache of {name}"))
        return sum(np.array_equal(np.asarray(row["image"]), pixels) for row, pixels in zip(found, noise, strict=True))
    except FileNotFoundError as error:
        return type(error).__name__


print(f"datasets {datasets.__version__}, pyarrow {pa.__version__}; {num_bytes:,} bytes of pictures")
first = pq.read_table(written / "rows.parquet")["image"][0].as_py()
print(f"expected: Parquet holds the pictures; seen: a file of {(written / 'rows.parquet').stat().st_size:,} bytes, the first picture is")
print(f"    bytes {first['bytes']}, path of {'its file' if Path(first['path']) == pictures / '0.png' else first['path']}")
of_json = json.loads((written / "rows.json").read_text().splitlines()[0])["image"]
print(f"    JSON: bytes {of_json['bytes']}, path {'of its file' if Path(of_json['path']) == pictures / '0.png' else of_json['path']}")
seen = {name: read(name) for name in ("rows.parquet", "saved", "kept.parquet")}
print(f"with the folder moved, expected 3 pictures of each; seen: {seen}")
pictures.mkdir()
for number, pixels in enumerate(noise):
    Image.fromarray(255 - pixels).save(pictures / f"{number}.png")
turned = datasets.Dataset.from_parquet(str(written / "rows.parquet"), cache_dir=str(HERE / "another cache"))[0]["image"]
others = bool(np.array_equal(np.asarray(turned), 255 - noise[0]))
print(f"with other pictures in its old place; seen: {'the other picture' if others else 'not the other picture'}")
print("source: datasets/io/parquet.py, ParquetDatasetWriter._write: the table as it is; arrow_dataset.py: save_to_disk has embed_local_files=True,")
print("        push_to_hub embed_external_files=True")
assert first["bytes"] is None and (written / "rows.parquet").stat().st_size < num_bytes / 10, f"changed: {first}"
assert of_json["bytes"] is None, f"changed: {of_json}"
assert seen == {"rows.parquet": "FileNotFoundError", "saved": 3, "kept.parquet": 3}, f"changed: {seen}"
assert others, "changed: the other picture"
print("as described")
PYTHON
