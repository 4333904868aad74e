#!/usr/bin/env bash
# datasets 5.2.0: class_encode_column() gives class 2 of twelve the number 4, and a class another number in each split.
#
# What: a column of class numbers 0 to 11, made a ClassLabel by class_encode_column(), as train_test_split(stratify_by_column=...) takes no other column. Then
#   a DatasetDict of two splits, of which the second lacks a class, for the names "a", "b" and "c".
# Guess: what is numbered 0 to 11 already stays so, or at least in its order. One table of names for all splits of a DatasetDict.
# Seen: numbers become text and are sorted as text, so that 2 is class 4 and 10 class 2; up to ten classes it does not show. Each split has
#   a table of its own: "b" and "c" are 1 and 2 in one, 0 and 1 in the other. What is trained on the one is tested on the other as wrong answers.
#   cast_column(name, ClassLabel(names=[...])) gives all splits the names in their order.
# For this project: classes are told apart by their names, and numbered over both splits together (learner/data/hub.py, learner/data/assemble.py), so
#   that a data set made so is read right; its ClassLabel numbers themselves say nothing across splits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6

HF_HOME="$folder/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" -I -W error - <<'PYTHON'
import datasets
from datasets import ClassLabel, Dataset, DatasetDict

print(f"datasets {datasets.__version__}")
numbered = {}
for count in (10, 12):
    rows = Dataset.from_dict({"y": list(range(count)) * 4})
    try:
        rows.train_test_split(test_size=0.5, stratify_by_column="y")
        raise SystemExit("changed: stratified by numbers")
    except ValueError as error:
        said = str(error)
    encoded = rows.class_encode_column("y")
    encoded.train_test_split(test_size=0.5, stratify_by_column="y", seed=0)
    numbered[count] = encoded["y"][:count]
print(f"without ClassLabel: {said}")
print(f"classes 0 to 9, expected as they are;  seen: {numbered[10]}")
print(f"classes 0 to 11, expected as they are; seen: {numbered[12]}")

splits = DatasetDict(train=Dataset.from_dict({"y": ["a", "b", "c"]}), test=Dataset.from_dict({"y": ["b", "c"]}))
encoded = splits.class_encode_column("y")
tables = {split: dict(zip(rows.features["y"].names, rows["y"], strict=True)) for split, rows in encoded.items()}
cast = splits.cast_column("y", ClassLabel(names=["a", "b", "c"]))
print(f"expected: b and c are 1 and 2 in both splits; seen: {tables}")
print(f"seen with cast_column: {({split: list(rows['y']) for split, rows in cast.items()})}")
print("source: datasets/arrow_dataset.py, class_encode_column: sorted(str(sample) for sample in dset.unique(column)); dataset_dict.py calls it for each split")
assert "only supported for ClassLabel" in said, f"changed: {said}"
assert numbered[10] == list(range(10)), "changed: ten classes"
assert numbered[12] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3], "changed: twelve classes"
assert tables == {"train": {"a": 0, "b": 1, "c": 2}, "test": {"b": 0, "c": 1}}, f"changed: {tables}"
assert list(cast["test"]["y"]) == [1, 2], "changed: cast_column"
print("as described")
PYTHON
