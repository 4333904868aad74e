#!/usr/bin/env bash
# datasets 5.2.0: with a metadata file the folders' labels are gone, even if drop_labels=False or drop_metadata=True.
#
# What: load_dataset("imagefolder") of class folders with a metadata.csv of captions beside them.
# Guess: drop_labels=False brings images, captions and labels; the documentation said so for years. drop_metadata=True
#   brings what would come without the file, images and labels.
# Seen: neither has a column label. drop_metadata=True leaves the images alone; that was mended once, and is back.
# For this project: a data set of class folders would have lost its classes when somebody added captions. It went into
#   learner/data/hub.py (_labels), which takes them from the paths, and into docs/learner.md.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    datasets==5.2.0 pillow==13.0.0 pandas==3.1.1 pyarrow==26.0.1

export HF_HUB_OFFLINE=1 HF_HOME="$folder/home"
"$folder/venv/bin/python" -I - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()
root = Path(sys.argv[1])
for name in ("captioned", "plain"):
    for kind in ("cat", "dog"):
        (root / name / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / kind / "0.png")
(root / "captioned" / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\ndog/0.png,a dog\n")


def columns(name, **options):
    return load(name, **options).column_names


def load(name, **options):
    return datasets.load_dataset("imagefolder", data_dir=str(root / name), split="train", **options)


print(f"datasets {datasets.__version__}")
print("expected: label beside image in each, and caption too where the metadata file is read")
seen = {}
for name in ("plain", "captioned"):
    for options in ({}, {"drop_labels": False}, {"drop_metadata": True}, {"drop_labels": False, "drop_metadata": True}):
        seen[name, *options] = columns(name, **options)
        said = ", ".join(f"{key}={value}" for key, value in options.items()) or "nothing asked for"
        print(f"seen:     {name}, {said}: {seen[name, *options]}")
print("source:   datasets/packaged_modules/folder_based_builder/folder_based_builder.py, _split_generators: 'if")
print("          all_metadata_files are found, don't add labels', before either option is asked; the documentation's page")
print("          'Create an image dataset' used to say: 'To include those labels, set drop_labels=False'; for")
print("          drop_metadata=True see issue 4621 of huggingface/datasets, closed in 2022")
for (name, *options), names in seen.items():
    if name == "plain":
        assert names == ["image", "label"], f"changed: {names} without a metadata file, {options}"
    elif "drop_metadata" in options:
        assert names == ["image"], f"changed: {names} with a metadata file, {options}"
    else:
        assert names == ["image", "caption"], f"changed: {names} with a metadata file, {options}"
print("as described")
PYTHON
