#!/usr/bin/env bash
# datasets 5.2.0: a metadata file in one split takes the labels, or all pictures, from the other.
#
# What: load_dataset("imagefolder") of the folders train/ and test/, with class folders in both, and a metadata.csv of
#   captions in one of them.
# Guess: each split is read for itself: one has captions. Or an error that says that the other lacks the file.
# Seen: it depends on the order. The file in test/: the pictures of train/ have neither label nor caption. The file in
#   train/: those of test/ are passed over, and loading fails, for 'Instruction "test" corresponds to no data!'.
# For this project: learner/data/hub.py takes the classes from the paths (_labels), so the first case costs the texts
#   of one split only; in the second the error is passed on as it is (list_hub). Give each split its metadata file.
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


def read(*captioned):
    """Split -> its rows without the pictures, or the error; ``captioned``: the splits that have a metadata file."""
    folder = root / ("_".join(captioned) or "none")
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / split / kind / "0.png")
        if split in captioned:
            (folder / split / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\ndog/0.png,a dog\n")
    try:
        loaded = datasets.load_dataset("imagefolder", data_dir=str(folder))
    except ValueError as error:
        return str(error)
    return {split: loaded[split].remove_columns("image").to_list() for split in loaded}


CAPTIONS = [{"caption": "a cat"}, {"caption": "a dog"}]
LABELS = [{"label": 0}, {"label": 1}]
NOTHING = [{"caption": None}, {"caption": None}]
print(f"datasets {datasets.__version__}")
print("expected: a split without a metadata file keeps its pictures and labels, or is named in the error")
none, both, of_test, of_train = read(), read("train", "test"), read("test"), read("train")
for name, seen in (("neither", none), ("both", both), ("test", of_test), ("train", of_train)):
    print(f"seen:     metadata.csv in {name}: {seen}")
print("source:   datasets/packaged_modules/folder_based_builder/folder_based_builder.py, _split_generators: the metadata files")
print("          found so far decide for all splits that follow, and those of all for the columns; _generate_examples")
print("          yields what a metadata file lists, so nothing for a split without one")
assert none == {"train": LABELS, "test": LABELS}, "changed: no metadata file"
assert both == {"train": CAPTIONS, "test": CAPTIONS}, "changed: a metadata file in each"
assert of_test == {"train": NOTHING, "test": CAPTIONS}, "changed: a metadata file in test"
assert of_train == 'Instruction "test" corresponds to no data!', "changed: a metadata file in train"
print("as described")
PYTHON
